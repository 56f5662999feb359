//! `minid controller`.

use std::process::ExitCode;
use std::sync::Arc;

use mini_controller::{
    Config, DataFolder, Firewall, FirewallLook, FirewallRules, StartError, StoreError,
};
use mini_core::id::ServerId;
use mini_docker::{Docker, DockerConfig};

use super::StopSignals;
use crate::handover::Tie;
use crate::output::{self, Fault};
use crate::settings::{Settings, VERSION};
use crate::{schedule, troubles};

pub(crate) fn not_started(error: StartError) -> Fault {
    let fault = Fault::new(error.to_string());
    match error {
        StartError::InUse(_) => fault.hint("stop the other one first, or name another --data-dir"),
        StartError::Folder { .. } => {
            fault.hint("start it as root, or name a folder of your own with --data-dir")
        }
        StartError::Store(StoreError::Full(_)) => {
            fault.hint("free some space, or make the data folder writable")
        }
        StartError::Store(_) => fault.hint(
            "a newer database needs a newer minid; the copy that was made before the upgrade lies beside it",
        ),
        StartError::Vault(_) => fault.hint("put back the secret.key that belongs to this data folder"),
        StartError::Token(_) => fault.hint("`minid token create --help` says what goes together"),
    }
}

/// What the firewall is to say, unless there is to be none: then one of earlier is taken away.
async fn firewall_rules(settings: &Settings, server: &ServerId) -> Option<FirewallRules> {
    let rules = super::firewall::rules(settings, server);
    if settings.firewall() {
        return Some(rules);
    }
    if settings.firewall_named() {
        tracing::warn!("no firewall (--firewall off): apps reach services of this machine");
        let firewall = Firewall::new(rules);
        if matches!(firewall.look().await, Ok(FirewallLook::There(_)))
            && let Err(why) = firewall.remove().await
        {
            tracing::warn!(%why, "the firewall of earlier stays");
        }
    } else {
        tracing::warn!("no firewall, since this is not root: apps reach services of this machine");
    }
    None
}

pub(crate) async fn run(settings: Settings) -> Result<ExitCode, Fault> {
    #[cfg(debug_assertions)]
    crate::fault::arm();
    troubles::keep_in(&settings.data_dir, "controller");
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
    if settings.dedicated()
        && let Some(memory) = settings.build_memory_bytes()
    {
        docker.limit_builds(memory, settings.static_binary.clone());
    }
    let docker = Arc::new(docker);
    // As a service of its own it writes to a log, where a secret does not belong: who sets that up asks
    // for a token with `minid token create`.
    if settings.from_parent
        && let Some(secret) = folder.first_token().await.map_err(not_started)?
    {
        output::line(&format!("first token (shown this once): {secret}"));
    }
    let config = Config {
        data_dir: settings.data_dir.clone(),
        domains: settings.domains.clone(),
        public_port: settings.public_port(),
        public_https_port: settings.https_listen.first().map(std::net::SocketAddr::port),
        network_pool: settings.network_pool,
        host_routes: mini_docker::host_routes().await,
        static_binary: settings.static_binary.clone(),
        control_sockets: settings.proxy_sockets.all("control.sock"),
        socket_dir: settings.sockets.make_folder()?,
        api_socket: settings.api_socket.clone(),
        timing: settings.timing.clone(),
        build_timeout: settings.build_timeout,
        acme: settings.acme.clone(),
        firewall: firewall_rules(&settings, folder.server()).await,
        version: VERSION.to_owned(),
    };
    let parent = settings.from_parent.then(Tie::at_stdin).transpose();
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
    let backups =
        settings.schedule().map(|times| tokio::spawn(schedule::keep(settings.clone(), times)));
    let ran = mini_controller::run(folder, config, docker.clone(), docker, stop).await;
    if let Some(backups) = backups {
        backups.abort();
    }
    ran.map_err(not_started)?;
    Ok(ExitCode::SUCCESS)
}
