//! `minid controller`.

use std::process::ExitCode;
use std::sync::Arc;

use mini_controller::{Config, DataFolder, StartError};
use mini_docker::{Docker, DockerConfig};

use super::StopSignals;
use crate::handover::Parent;
use crate::output::{self, Fault};
use crate::settings::{Settings, VERSION};

pub(crate) fn not_started(error: StartError) -> Fault {
    let fault = Fault::new(error.to_string());
    match error {
        StartError::InUse(_) => fault.hint("stop the other one first, or name another --data-dir"),
        StartError::Folder { .. } => {
            fault.hint("start it as root, or name a folder of your own with --data-dir")
        }
        StartError::Store(_) => fault.hint(
            "a newer database needs a newer minid; the copy that was made before the upgrade lies beside it",
        ),
        StartError::Vault(_) => fault.hint("put back the secret.key that belongs to this data folder"),
    }
}

pub(crate) async fn run(settings: Settings) -> Result<ExitCode, Fault> {
    let mut signals = StopSignals::new()?;
    let folder = DataFolder::open(&settings.data_dir).await.map_err(not_started)?;
    let docker = DockerConfig {
        server: folder.server().clone(),
        host: settings.docker_host.clone(),
        default_memory_bytes: settings.instance_memory_bytes,
    };
    let docker = Docker::connect(docker).map_err(|error| {
        let fault = Fault::new(error.to_string());
        match error.hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    })?;
    let docker = Arc::new(docker);
    if let Some(secret) = folder.first_token().await.map_err(not_started)? {
        output::line(&format!("first token (shown this once): {secret}"));
    }
    let config = Config {
        data_dir: settings.data_dir.clone(),
        domains: settings.domains.clone(),
        public_port: settings.public_port(),
        network_pool: settings.network_pool,
        host_routes: mini_docker::host_routes().await,
        static_binary: settings.static_binary.clone(),
        control_socket: settings.control_socket(),
        timing: settings.timing.clone(),
        build_timeout: settings.build_timeout,
        version: VERSION.to_owned(),
    };
    let parent = settings.from_parent.then(Parent::at_stdin).transpose();
    let parent = parent.map_err(|error| Fault::new(format!("the parent: {error}")))?;
    let stop = async move {
        match parent {
            Some(parent) => tokio::select! {
                () = signals.any() => {}
                () = parent.gone() => tracing::warn!("the parent is gone: stopping"),
            },
            None => signals.any().await,
        }
    };
    mini_controller::run(folder, config, docker.clone(), docker, stop)
        .await
        .map_err(not_started)?;
    Ok(ExitCode::SUCCESS)
}
