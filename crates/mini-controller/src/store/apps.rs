//! Apps and their config vars.

use std::net::Ipv4Addr;

use mini_core::id::DeploymentId;
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::Desired;
use mini_core::subnet::{Subnet, next_address, next_subnet};
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::rows::{all, corrupt, millis, millis_opt, one, parsed, parsed_opt, to_sql};
use super::{AppId, StoreResult, meta, set_meta};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AppRow {
    pub(crate) id: AppId,
    pub(crate) name: AppName,
    pub(crate) created_at: Millis,
    pub(crate) desired: Desired,
    pub(crate) subnet: Subnet,
    pub(crate) live_release: Option<u32>,
    pub(crate) live_deployment: Option<DeploymentId>,
    pub(crate) live_at: Option<Millis>,
    /// Requests are answered with the maintenance page.
    pub(crate) maintenance: bool,
}

const COLUMNS: &str =
    "id, name, created_at, desired, subnet, live_release, live_deployment, live_at, maintenance";

fn read(row: &Row<'_>) -> StoreResult<AppRow> {
    let desired: String = row.get("desired")?;
    Ok(AppRow {
        id: row.get("id")?,
        name: parsed(row, "name")?,
        created_at: millis(row, "created_at")?,
        desired: match desired.as_str() {
            "run" => Desired::Run,
            "stop" => Desired::Stop,
            "destroy" => Desired::Destroy,
            other => return Err(corrupt("apps.desired", other)),
        },
        subnet: parsed(row, "subnet")?,
        live_release: row.get("live_release")?,
        live_deployment: parsed_opt(row, "live_deployment")?,
        live_at: millis_opt(row, "live_at")?,
        maintenance: row.get("maintenance")?,
    })
}

pub(crate) fn app_by_name(c: &Connection, name: &AppName) -> StoreResult<Option<AppRow>> {
    one(c, &format!("SELECT {COLUMNS} FROM apps WHERE name = ?1"), [name.as_str()], read)
}

pub(crate) fn app_by_id(c: &Connection, id: AppId) -> StoreResult<Option<AppRow>> {
    one(c, &format!("SELECT {COLUMNS} FROM apps WHERE id = ?1"), [id], read)
}

pub(crate) fn all_apps(c: &Connection) -> StoreResult<Vec<AppRow>> {
    all(c, &format!("SELECT {COLUMNS} FROM apps ORDER BY name"), [], read)
}

/// What became of a wish for a new app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Created {
    App(AppRow),
    NameTaken,
    /// Every subnet of the pool belongs to an app.
    PoolExhausted,
}

/// Makes an app, with the next subnet of `pool` that overlaps none of `taken`.
pub(crate) fn create_app(
    c: &Connection,
    name: &AppName,
    (pool, taken): (Subnet, &[Subnet]),
    now: Millis,
) -> StoreResult<Created> {
    if app_by_name(c, name)?.is_some() {
        return Ok(Created::NameTaken);
    }
    let cursor = meta(c, "subnet_cursor")?.and_then(|t| t.parse().ok()).unwrap_or(0);
    let mut taken = taken.to_vec();
    taken.extend(all_apps(c)?.iter().map(|a| a.subnet));
    let Some((subnet, cursor)) = next_subnet(pool, cursor, &taken) else {
        return Ok(Created::PoolExhausted);
    };
    set_meta(c, "subnet_cursor", &cursor.to_string())?;
    c.execute(
        "INSERT INTO apps (name, created_at, desired, subnet) VALUES (?1, ?2, 'run', ?3)",
        params![name.as_str(), to_sql(now), subnet.to_string()],
    )?;
    let app = app_by_id(c, c.last_insert_rowid())?;
    app.map(Created::App).ok_or_else(|| corrupt("apps", "a new row is not there"))
}

pub(crate) fn set_desired(c: &Connection, id: AppId, desired: Desired) -> StoreResult<()> {
    let word = match desired {
        Desired::Run => "run",
        Desired::Stop => "stop",
        Desired::Destroy => "destroy",
    };
    c.execute("UPDATE apps SET desired = ?2 WHERE id = ?1", params![id, word])?;
    if desired != Desired::Run {
        c.execute("UPDATE apps SET live_deployment = NULL WHERE id = ?1", [id])?;
    }
    Ok(())
}

pub(crate) fn delete_app(c: &Connection, id: AppId) -> StoreResult<()> {
    c.execute("DELETE FROM apps WHERE id = ?1", [id])?;
    c.execute("DELETE FROM meta WHERE key = ?1", [last_run_key(id)])?;
    Ok(())
}

/// The number of the app's next one-off, never given twice: `run.3`.
pub(crate) fn next_run_number(c: &Connection, id: AppId) -> StoreResult<u32> {
    let key = last_run_key(id);
    let last = meta(c, &key)?.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let next = last.checked_add(1).unwrap_or(1);
    set_meta(c, &key, &next.to_string())?;
    Ok(next)
}

fn last_run_key(id: AppId) -> String {
    format!("last_run_of_app_{id}")
}

/// The next address of the app's subnet, round robin; the new position is stored.
pub(crate) fn take_address(
    c: &Connection,
    app: &AppRow,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> StoreResult<Option<Ipv4Addr>> {
    let sql = "SELECT address_cursor FROM apps WHERE id = ?1";
    let cursor: u32 = c.query_row(sql, [app.id], |row| row.get(0))?;
    let Some((address, cursor)) = next_address(app.subnet, cursor, taken) else { return Ok(None) };
    c.execute("UPDATE apps SET address_cursor = ?2 WHERE id = ?1", params![app.id, cursor])?;
    Ok(Some(address))
}

/// The sealed config vars, sorted by name.
pub(crate) fn env_of(c: &Connection, id: AppId) -> StoreResult<Vec<(String, Vec<u8>)>> {
    all(c, "SELECT name, value FROM env WHERE app_id = ?1 ORDER BY name", [id], |row| {
        Ok((row.get("name")?, row.get("value")?))
    })
}

/// Sets (sealed) or unsets (`None`) config vars.
pub(crate) fn change_env(
    c: &Connection,
    id: AppId,
    changes: &[(String, Option<Vec<u8>>)],
) -> StoreResult<()> {
    for (name, value) in changes {
        match value {
            Some(value) => c.execute(
                "INSERT INTO env (app_id, name, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (app_id, name) DO UPDATE SET value = excluded.value",
                params![id, name, value],
            )?,
            None => {
                c.execute("DELETE FROM env WHERE app_id = ?1 AND name = ?2", params![id, name])?
            }
        };
    }
    Ok(())
}

/// How many instances are wanted of the process types that were scaled.
pub(crate) fn formation(c: &Connection, id: AppId) -> StoreResult<Vec<(ProcessType, u32)>> {
    let sql = "SELECT process, count FROM formation WHERE app_id = ?1 ORDER BY process";
    all(c, sql, [id], |row| Ok((parsed(row, "process")?, row.get("count")?)))
}

pub(crate) fn set_formation(
    c: &Connection,
    id: AppId,
    counts: &[(ProcessType, u32)],
) -> StoreResult<()> {
    for (process, count) in counts {
        c.execute(
            "INSERT INTO formation (app_id, process, count) VALUES (?1, ?2, ?3)
             ON CONFLICT (app_id, process) DO UPDATE SET count = excluded.count",
            params![id, process.as_str(), count],
        )?;
    }
    Ok(())
}
