//! `minid backup`: the whole platform in one file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use mini_controller::{BackupError, BackupLock, Manifest, Options};
use mini_core::cause::size;
use mini_core::id::ServerId;
use mini_core::ports::{RuntimeError, RuntimeErrorKind, RuntimeResult};
use mini_docker::{Docker, DockerConfig};

use super::StopSignals;
use crate::output::{self, Fault};
use crate::settings::{Flags, Settings, VERSION};

/// How often it is looked whether another backup has ended.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Backup {
    /// The file to write; one that is there is replaced
    #[arg(required = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// With the apps' logs
    #[arg(long)]
    with_logs: bool,
    /// With the images of live releases, so that a restore needs neither builds nor registries
    #[arg(long)]
    with_images: bool,
    /// Without what is in volumes
    #[arg(long)]
    without_volumes: bool,
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    then: Option<Then>,
}

#[derive(Subcommand)]
enum Then {
    /// Restore a backup into a scratch folder, check all of it, and say what is in it
    Verify {
        /// The backup
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub(crate) fn fault(error: &BackupError) -> Fault {
    let fault = Fault::new(error.to_string());
    match error.hint() {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// The engine as the server `server` sees it.
pub(super) fn engine(settings: &Settings, server: ServerId) -> RuntimeResult<Arc<Docker>> {
    let host = settings.docker_host.clone();
    Ok(Arc::new(Docker::connect(DockerConfig { server, host, default_memory_bytes: None })?))
}

/// Makes a backup of the data folder that `settings` name.
pub(crate) async fn make(
    settings: &Settings,
    file: &Path,
    options: Options,
    lock: BackupLock,
) -> Result<Manifest, BackupError> {
    let folder = settings.data_dir.clone();
    let there = folder.clone();
    let read = tokio::task::spawn_blocking(move || mini_controller::glance(&there)).await;
    let glance = match read {
        _ if !folder.join("mini.db").is_file() => return Err(BackupError::NoServer(folder)),
        Ok(glance) => glance?,
        Err(error) => return Err(BackupError::Damaged(error.to_string())),
    };
    let other = |message: String| RuntimeError::new(RuntimeErrorKind::Other, message);
    let server = glance.server.unwrap_or_default().parse::<ServerId>();
    let server = server.map_err(|error| other(format!("the server's id: {error}")))?;
    let engine = engine(settings, server)?;
    let (tls, file) = (settings.tls_dir(), file.to_owned());
    mini_controller::backup(folder, tls, file, options, engine, VERSION.to_owned(), lock).await
}

/// Waits while another backup of this server is being made.
async fn alone(settings: &Settings) -> Result<BackupLock, BackupError> {
    let mut told = false;
    loop {
        if let Some(lock) = BackupLock::take(&settings.data_dir)? {
            return Ok(lock);
        }
        if !std::mem::replace(&mut told, true) {
            output::line("another backup of this server is being made: waiting for it to end");
        }
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) async fn run(backup: Backup) -> Result<ExitCode, Fault> {
    if let Some(Then::Verify { file }) = backup.then {
        return verify(file).await;
    }
    let settings = backup.flags.resolve()?;
    let Some(file) = backup.file else { return Err(Fault::new("no file is named")) };
    let options = Options {
        logs: backup.with_logs,
        images: backup.with_images,
        volumes: !backup.without_volumes,
    };
    let mut signals = StopSignals::new()?;
    let stopped = || Fault::new("stopped: no backup was made");
    let lock = tokio::select! {
        lock = alone(&settings) => lock.map_err(|error| fault(&error))?,
        () = signals.any() => return Err(stopped()),
    };
    let begun = std::time::Instant::now();
    let manifest = tokio::select! {
        made = make(&settings, &file, options, lock) => made.map_err(|error| fault(&error))?,
        () = signals.any() => {
            for suffix in [".partial", ".partial.db"] {
                let mut name = file.clone().into_os_string();
                name.push(suffix);
                let _ = std::fs::remove_file(name);
            }
            return Err(stopped());
        }
    };
    for line in manifest.lines() {
        output::line(&line);
    }
    let bytes = std::fs::metadata(&file).map_or(0, |meta| meta.len());
    let (path, seconds) = (file.display(), begun.elapsed().as_secs_f64());
    output::line(&format!("wrote {path}, {}, in {seconds:.1} s", size(bytes)));
    Ok(ExitCode::SUCCESS)
}

async fn verify(file: PathBuf) -> Result<ExitCode, Fault> {
    let scratch = std::env::temp_dir();
    let verified = mini_controller::verify(file.clone(), scratch).await;
    let manifest = verified.map_err(|error| fault(&error))?;
    for line in manifest.lines() {
        output::line(&line);
    }
    output::line(&format!("{} is a good backup", file.display()));
    Ok(ExitCode::SUCCESS)
}
