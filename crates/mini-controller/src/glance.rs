//! A look into the data folder from another process, whether a controller runs or not.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use mini_core::id::DeploymentId;
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::Desired;

use crate::intent;
use crate::store::{self, StoreError};

/// What the store says should be.
#[derive(Debug, Clone)]
pub struct Glance {
    pub server: Option<String>,
    /// The database's schema, and the one that this program knows.
    pub schema: (i64, i64),
    /// Every app, also those of which nothing should run.
    pub apps: usize,
    /// Those of which something should run.
    pub wanted: Vec<WantedApp>,
}

/// An app of which something should run.
#[derive(Debug, Clone)]
pub struct WantedApp {
    pub name: AppName,
    pub rollout: DeploymentId,
    /// How many instances of each process type; those with none are left out.
    pub processes: Vec<(ProcessType, u32)>,
}

/// The schema of a data folder's database. Writes nothing and takes no lock.
///
/// # Errors
/// If there is no database, or it cannot be read.
pub fn schema(data_dir: &Path) -> Result<i64, StoreError> {
    store::look(&data_dir.join("mini.db")).map(|(_, (found, _))| found)
}

/// The copy that a controller made of the database before it brought it from `schema` to a newer
/// one; the newest, made after `since`.
///
/// # Errors
/// If there is none, or the folder cannot be read.
pub fn copy_before(data_dir: &Path, schema: i64, since: SystemTime) -> io::Result<PathBuf> {
    let mut found = None;
    for entry in std::fs::read_dir(data_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_copy =
            name.to_str().is_some_and(|n| n.starts_with("mini.before-") && n.ends_with(".db"));
        let made = entry.metadata()?.modified()?;
        if is_copy
            && made >= since
            && found.as_ref().is_none_or(|(latest, _)| made > *latest)
            && store::look(&entry.path()).is_ok_and(|(_, (version, _))| version == schema)
        {
            found = Some((made, entry.path()));
        }
    }
    let none = || {
        let folder = data_dir.display();
        io::Error::new(io::ErrorKind::NotFound, format!("{folder} has no copy of schema {schema}"))
    };
    found.map(|(_, path)| path).ok_or_else(none)
}

/// Reads the store of a data folder. Writes nothing and takes no lock.
///
/// # Errors
/// If there is no database, or it cannot be read.
pub fn glance(data_dir: &Path) -> Result<Glance, StoreError> {
    let (connection, schema) = store::look(&data_dir.join("mini.db"))?;
    let c = &connection;
    let all = store::all_apps(c)?;
    let mut wanted = Vec::new();
    for app in &all {
        let (Some(id), Some(number), Desired::Run) =
            (&app.live_deployment, app.live_release, app.desired)
        else {
            continue;
        };
        let Some(live) = intent::rollout(c, app.id, id, number)? else { continue };
        let counts =
            live.spec.processes.iter().map(|(process, spec)| (process.clone(), spec.count));
        let processes: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
        if !processes.is_empty() {
            wanted.push(WantedApp { name: app.name.clone(), rollout: id.clone(), processes });
        }
    }
    Ok(Glance { server: store::meta(c, "server_id")?, schema, apps: all.len(), wanted })
}
