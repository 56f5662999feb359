//! Limits and volumes of an app, and which of its instances the user wants replaced.

use std::collections::BTreeMap;

use mini_core::id::InstanceId;
use mini_core::name::{AppName, ProcessType, VolumeName};
use mini_core::release::{Limits, Mount};
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::rows::{all, millis, one, parsed, to_sql};
use super::{AppId, StoreResult};

/// The limits that the user set, by process type.
pub(crate) fn limits_of(c: &Connection, id: AppId) -> StoreResult<BTreeMap<ProcessType, Limits>> {
    let sql = "SELECT process, memory_bytes, cpu_millis, pids FROM limits WHERE app_id = ?1";
    let found = all(c, sql, [id], |row| {
        let memory: Option<i64> = row.get("memory_bytes")?;
        let limits = Limits {
            memory_bytes: memory.map(|bytes| bytes.max(0) as u64),
            cpu_millis: row.get("cpu_millis")?,
            pids: row.get("pids")?,
        };
        Ok((parsed(row, "process")?, limits))
    })?;
    Ok(found.into_iter().collect())
}

/// Sets the limits of one process type; without any, the platform's defaults hold again.
pub(crate) fn set_limits(
    c: &Connection,
    id: AppId,
    process: &ProcessType,
    limits: &Limits,
) -> StoreResult<()> {
    c.execute(
        "DELETE FROM limits WHERE app_id = ?1 AND process = ?2",
        params![id, process.as_str()],
    )?;
    if *limits != Limits::default() {
        let memory = limits.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        c.execute(
            "INSERT INTO limits (app_id, process, memory_bytes, cpu_millis, pids)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, process.as_str(), memory, limits.cpu_millis, limits.pids],
        )?;
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeRow {
    pub(crate) engine_name: String,
    /// The name of the app that it belongs or belonged to.
    pub(crate) app: AppName,
    /// `None`: that app is gone.
    pub(crate) app_id: Option<AppId>,
    pub(crate) name: VolumeName,
    pub(crate) path: Option<String>,
    pub(crate) shared: bool,
    pub(crate) created_at: Millis,
}

const COLUMNS: &str = "engine_name, app, app_id, name, path, shared, created_at";

fn read(row: &Row<'_>) -> StoreResult<VolumeRow> {
    Ok(VolumeRow {
        engine_name: row.get("engine_name")?,
        app: parsed(row, "app")?,
        app_id: row.get("app_id")?,
        name: parsed(row, "name")?,
        path: row.get("path")?,
        shared: row.get("shared")?,
        created_at: millis(row, "created_at")?,
    })
}

/// Every volume that is kept, those of apps that are gone among them.
pub(crate) fn volumes(c: &Connection) -> StoreResult<Vec<VolumeRow>> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE doomed = 0 ORDER BY app, name");
    all(c, &sql, [], read)
}

pub(crate) fn volumes_of(c: &Connection, id: AppId) -> StoreResult<Vec<VolumeRow>> {
    let sql =
        format!("SELECT {COLUMNS} FROM volumes WHERE app_id = ?1 AND doomed = 0 ORDER BY name");
    all(c, &sql, [id], read)
}

/// The volume that an app of that name has or had.
pub(crate) fn volume(
    c: &Connection,
    app: &AppName,
    name: &VolumeName,
) -> StoreResult<Option<VolumeRow>> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE app = ?1 AND name = ?2 AND doomed = 0");
    one(c, &sql, params![app.as_str(), name.as_str()], read)
}

/// Writes a volume down, new or changed; its engine name says which it is.
pub(crate) fn put_volume(c: &Connection, v: &VolumeRow) -> StoreResult<()> {
    c.execute(
        "INSERT INTO volumes (engine_name, app, app_id, name, path, shared, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (engine_name) DO UPDATE SET app = excluded.app, app_id = excluded.app_id,
             name = excluded.name, path = excluded.path, shared = excluded.shared, doomed = 0",
        params![
            v.engine_name,
            v.app.as_str(),
            v.app_id,
            v.name.as_str(),
            v.path,
            v.shared,
            to_sql(v.created_at),
        ],
    )?;
    Ok(())
}

/// Lets a volume go with all its data, as soon as nothing uses it.
pub(crate) fn doom_volume(c: &Connection, engine_name: &str) -> StoreResult<()> {
    c.execute("UPDATE volumes SET doomed = 1, path = NULL WHERE engine_name = ?1", [engine_name])?;
    Ok(())
}

/// What the collector removes from the engine.
pub(crate) fn doomed_volumes(c: &Connection) -> StoreResult<Vec<String>> {
    all(
        c,
        "SELECT engine_name FROM volumes WHERE doomed = 1",
        [],
        |row| Ok(row.get("engine_name")?),
    )
}

pub(crate) fn forget_volume(c: &Connection, engine_name: &str) -> StoreResult<()> {
    c.execute("DELETE FROM volumes WHERE engine_name = ?1 AND doomed = 1", [engine_name])?;
    Ok(())
}

/// What the app's next release mounts.
pub(crate) fn mounts_of(c: &Connection, id: AppId) -> StoreResult<Vec<Mount>> {
    let mounted = volumes_of(c, id)?.into_iter().filter_map(|v| {
        let path = v.path?;
        Some(Mount { volume: v.name, engine_name: v.engine_name, path, shared: v.shared })
    });
    Ok(mounted.collect())
}

/// Makes the app's limits and volumes those of a release. Returns the names of volumes that were
/// let go of meanwhile and come back empty.
pub(crate) fn take_settings(
    c: &Connection,
    (id, app): (AppId, &AppName),
    spec: &mini_core::release::ReleaseSpec,
    now: Millis,
) -> StoreResult<Vec<VolumeName>> {
    c.execute("DELETE FROM limits WHERE app_id = ?1", [id])?;
    for (process, own) in &spec.processes {
        set_limits(c, id, process, &own.limits)?;
    }
    c.execute("UPDATE volumes SET path = NULL WHERE app_id = ?1", [id])?;
    let kept = volumes_of(c, id)?;
    let mut empty = Vec::new();
    for mount in &spec.volumes {
        let known = kept.iter().find(|v| v.engine_name == mount.engine_name);
        if known.is_none() {
            empty.push(mount.volume.clone());
        }
        keep_mount(c, (id, app), mount, known.map_or(now, |v| v.created_at))?;
    }
    Ok(empty)
}

/// Makes what a release mounts the app's own volume, at that path.
pub(crate) fn keep_mount(
    c: &Connection,
    (id, app): (AppId, &AppName),
    mount: &Mount,
    created_at: Millis,
) -> StoreResult<()> {
    put_volume(
        c,
        &VolumeRow {
            engine_name: mount.engine_name.clone(),
            app: app.clone(),
            app_id: Some(id),
            name: mount.volume.clone(),
            path: Some(mount.path.clone()),
            shared: mount.shared,
            created_at,
        },
    )
}

/// Remembers that the user wants this start of an instance replaced.
pub(crate) fn want_replaced(
    c: &Connection,
    id: AppId,
    instance: &InstanceId,
    started: Millis,
) -> StoreResult<()> {
    c.execute(
        "INSERT INTO replacements (instance, app_id, started) VALUES (?1, ?2, ?3)
         ON CONFLICT (instance) DO UPDATE SET started = excluded.started",
        params![instance.as_str(), id, to_sql(started)],
    )?;
    Ok(())
}

pub(crate) fn replacements(c: &Connection, id: AppId) -> StoreResult<BTreeMap<InstanceId, Millis>> {
    let sql = "SELECT instance, started FROM replacements WHERE app_id = ?1";
    let found = all(c, sql, [id], |row| Ok((parsed(row, "instance")?, millis(row, "started")?)))?;
    Ok(found.into_iter().collect())
}

/// A start that is over is replaced.
pub(crate) fn replaced(c: &Connection, instance: &InstanceId, started: Millis) -> StoreResult<()> {
    let sql = "DELETE FROM replacements WHERE instance = ?1 AND started = ?2";
    c.execute(sql, params![instance.as_str(), to_sql(started)])?;
    Ok(())
}
