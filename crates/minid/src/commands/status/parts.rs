//! The store, the engine and the disks.

use std::path::{Path, PathBuf};

use mini_controller::Glance;
use mini_core::id::ServerId;
use mini_core::ports::{Instance, InstanceState, Runtime};
use mini_docker::{Docker, DockerConfig};
use rustix::fs::{Access, access};

use super::{Disk, Engine, Store};
use crate::settings::Settings;

/// Below this the database may not take another transaction.
const ENOUGH_TO_WRITE: u64 = 1 << 20;

pub(super) async fn store(settings: &Settings) -> (Store, Option<Glance>) {
    let folder = settings.data_dir.clone();
    let read = tokio::task::spawn_blocking(move || mini_controller::glance(&folder)).await;
    let writable = cannot_write(&settings.data_dir);
    let mut store =
        Store { readable: false, writable: writable.is_none(), error: writable, schema: None };
    match read {
        Ok(Ok(glance)) => {
            store.readable = true;
            store.schema = Some(glance.schema.0);
            return (store, Some(glance));
        }
        Ok(Err(_)) if !settings.data_dir.join("mini.db").exists() => {
            let folder = settings.data_dir.display();
            store.error = Some(format!("there is no server's data in {folder}"));
        }
        Ok(Err(error)) => store.error = Some(error.to_string()),
        Err(error) => store.error = Some(error.to_string()),
    }
    (store, None)
}

/// Why nothing can be written there; `None` if nothing speaks against it.
fn cannot_write(folder: &Path) -> Option<String> {
    if let Err(error) = access(folder, Access::WRITE_OK) {
        return Some(error.to_string());
    }
    let free = free(folder)?;
    (free < ENOUGH_TO_WRITE).then(|| "the disk is full".to_owned())
}

fn free(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The engine, where it keeps its data, and this server's instances on it.
pub(super) async fn engine(
    settings: &Settings,
    glance: Option<&Glance>,
) -> (Engine, Option<PathBuf>, Option<Vec<Instance>>) {
    let mut engine = Engine {
        reachable: false,
        version: None,
        api_version: None,
        error: None,
        running: 0,
        exited: 0,
    };
    let server = glance.and_then(|g| g.server.as_ref()?.parse::<ServerId>().ok());
    // Without a server nothing on the engine is ours; it is asked all the same.
    let Some(asked) = server.clone().or_else(|| "0000".parse().ok()) else {
        return (engine, None, None);
    };
    let config = DockerConfig {
        server: asked,
        host: settings.docker_host.clone(),
        default_memory_bytes: None,
    };
    let docker = match Docker::connect(config) {
        Ok(docker) => docker,
        Err(error) => {
            engine.error = Some(error.message);
            return (engine, None, None);
        }
    };
    let info = match docker.info().await {
        Ok(info) => info,
        Err(error) => {
            engine.error = Some(error.message);
            return (engine, None, None);
        }
    };
    engine.reachable = true;
    engine.version = Some(info.version);
    engine.api_version = Some(info.api_version);
    let observed = match server {
        Some(_) => docker.observe().await,
        None => Ok(Vec::new()),
    };
    match observed {
        Ok(instances) => {
            engine.running = instances.iter().filter(|i| i.state.is_running()).count();
            let exited = |i: &&Instance| matches!(i.state, InstanceState::Exited { .. });
            engine.exited = instances.iter().filter(exited).count();
            (engine, Some(info.root_dir), Some(instances))
        }
        Err(error) => {
            engine.error = Some(error.message);
            (engine, Some(info.root_dir), None)
        }
    }
}

pub(super) fn disks(settings: &Settings, engine: Option<&Path>) -> Vec<Disk> {
    let data = ("the data folder", settings.data_dir.clone());
    let engine = engine.map(|root| ("the engine's data", root.to_owned()));
    let disk = |(what, path): (&'static str, PathBuf)| Disk { what, free_bytes: free(&path), path };
    std::iter::once(data).chain(engine).map(disk).collect()
}
