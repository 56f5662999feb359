//! What a backup asks of the store, and what is written after a restore.

use mini_core::name::AppName;
use mini_core::release::ReleaseSpec;
use mini_core::source::SourceDigest;
use rusqlite::{Connection, params};

use super::rows::{all, document, json, parsed};
use super::{AppId, ReleaseRow, StoreResult, release};

/// A release that runs, would run if its app were started, or is being rolled out.
#[derive(Debug, Clone)]
pub(crate) struct Needed {
    pub(crate) app_id: AppId,
    pub(crate) app: AppName,
    pub(crate) release: ReleaseRow,
}

/// The releases without whose image something could not be started.
pub(crate) fn needed_releases(c: &Connection) -> StoreResult<Vec<Needed>> {
    let sql = "SELECT a.id AS id, a.name AS name, r.number AS number
        FROM releases r JOIN apps a ON a.id = r.app_id
        WHERE a.desired <> 'destroy' AND (r.number = a.live_release
           OR EXISTS (SELECT 1 FROM deployments d WHERE d.app_id = a.id
                      AND d.release = r.number AND d.finished_at IS NULL))
        ORDER BY a.name, r.number DESC";
    let found: Vec<(AppId, AppName, u32)> =
        all(c, sql, [], |row| Ok((row.get("id")?, parsed(row, "name")?, row.get("number")?)))?;
    let mut needed = Vec::new();
    for (app_id, app, number) in found {
        if let Some(release) = release(c, app_id, number)? {
            needed.push(Needed { app_id, app, release });
        }
    }
    Ok(needed)
}

/// The sources that a release or an unfinished deployment refers to.
pub(crate) fn referred_sources(c: &Connection) -> StoreResult<Vec<SourceDigest>> {
    let sql = "SELECT digest FROM sources s
        WHERE EXISTS (SELECT 1 FROM releases r WHERE r.source = s.digest)
           OR EXISTS (SELECT 1 FROM deployments d
                      WHERE d.source = s.digest AND d.finished_at IS NULL)
        ORDER BY digest";
    all(c, sql, [], |row| parsed(row, "digest"))
}

/// Every volume that is to be kept: the engine's name of it, and its app.
pub(crate) fn kept_volumes(c: &Connection) -> StoreResult<Vec<(String, AppName)>> {
    let sql = "SELECT engine_name, app FROM volumes WHERE doomed = 0 ORDER BY engine_name";
    all(c, sql, [], |row| Ok((row.get("engine_name")?, parsed(row, "app")?)))
}

/// Everything that the key has sealed, with what it is for.
pub(crate) fn all_sealed(c: &Connection) -> StoreResult<Vec<(String, Vec<u8>)>> {
    let mut sealed: Vec<(String, Vec<u8>)> =
        all(c, "SELECT app_id, name, value FROM env", [], |row| {
            Ok((crate::env::purpose(row.get(0)?, &row.get::<_, String>(1)?), row.get(2)?))
        })?;
    sealed.extend(all(c, "SELECT app_id, number, env FROM releases", [], |row| {
        Ok((crate::env::release_purpose(row.get(0)?, row.get(1)?), row.get(2)?))
    })?);
    sealed.extend(all(c, "SELECT id, key FROM certificates", [], |row| {
        Ok((crate::certs::purpose(&row.get::<_, String>(0)?), row.get(1)?))
    })?);
    sealed.extend(all(c, "SELECT directory, credentials FROM acme_accounts", [], |row| {
        Ok((crate::certs::account_purpose(&row.get::<_, String>(0)?), row.get(1)?))
    })?);
    Ok(sealed)
}

/// What SQLite finds wrong in its own file; none if all is well.
pub(crate) fn integrity(c: &Connection) -> StoreResult<Option<String>> {
    let said: String = c.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((said != "ok").then_some(said))
}

/// An image was made again and has another id: every release of the app that runs it runs the new
/// one. It is the only change that a release ever sees.
pub(crate) fn replace_image(c: &Connection, app: AppId, old: &str, new: &str) -> StoreResult<()> {
    let rows: Vec<(u32, String)> =
        all(c, "SELECT number, spec FROM releases WHERE app_id = ?1", [app], |row| {
            Ok((row.get("number")?, row.get("spec")?))
        })?;
    for (number, text) in rows {
        let mut spec: ReleaseSpec = document(&text, "releases.spec")?;
        if spec.image == old {
            spec.image = new.to_owned();
            let sql = "UPDATE releases SET spec = ?3 WHERE app_id = ?1 AND number = ?2";
            c.execute(sql, params![app, number, json(&spec)?])?;
        }
    }
    Ok(())
}

pub(crate) fn forget_meta(c: &Connection, key: &str) -> StoreResult<()> {
    c.execute("DELETE FROM meta WHERE key = ?1", [key])?;
    Ok(())
}
