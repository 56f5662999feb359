//! Releases and sources.

use mini_core::id::DeploymentId;
use mini_core::name::AppName;
use mini_core::release::ReleaseSpec;
use mini_core::source::SourceDigest;
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::rows::{all, document, json, millis, one, parsed, parsed_opt, to_sql};
use super::{AppId, StoreResult};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReleaseRow {
    pub(crate) number: u32,
    pub(crate) created_at: Millis,
    pub(crate) description: String,
    pub(crate) spec: ReleaseSpec,
    /// The whole environment as a sealed JSON object.
    pub(crate) env: Vec<u8>,
    /// The reference that the user gave, for a ready image.
    pub(crate) image_name: Option<String>,
    pub(crate) source: Option<SourceDigest>,
    pub(crate) deployment: DeploymentId,
    pub(crate) created_by: Option<String>,
    /// Whether its release command has run.
    pub(crate) prepared: bool,
}

const COLUMNS: &str = "number, created_at, description, spec, env, image_name, source, \
                       deployment_id, created_by, prepared";

fn read(row: &Row<'_>) -> StoreResult<ReleaseRow> {
    Ok(ReleaseRow {
        number: row.get("number")?,
        created_at: millis(row, "created_at")?,
        description: row.get("description")?,
        spec: document(&row.get::<_, String>("spec")?, "releases.spec")?,
        env: row.get("env")?,
        image_name: row.get("image_name")?,
        source: parsed_opt(row, "source")?,
        deployment: parsed(row, "deployment_id")?,
        created_by: row.get("created_by")?,
        prepared: row.get("prepared")?,
    })
}

/// The release command went well, and does not run again.
pub(crate) fn set_prepared(c: &Connection, app: AppId, number: u32) -> StoreResult<()> {
    let sql = "UPDATE releases SET prepared = 1 WHERE app_id = ?1 AND number = ?2";
    c.execute(sql, params![app, number])?;
    Ok(())
}

pub(crate) fn release(c: &Connection, app: AppId, number: u32) -> StoreResult<Option<ReleaseRow>> {
    let sql = format!("SELECT {COLUMNS} FROM releases WHERE app_id = ?1 AND number = ?2");
    one(c, &sql, params![app, number], read)
}

/// The newest `limit` releases, newest first.
pub(crate) fn releases(c: &Connection, app: AppId, limit: u32) -> StoreResult<Vec<ReleaseRow>> {
    let sql =
        format!("SELECT {COLUMNS} FROM releases WHERE app_id = ?1 ORDER BY number DESC LIMIT ?2");
    all(c, &sql, params![app, limit], read)
}

/// The newest release that was built from `source`.
pub(crate) fn release_of_source(
    c: &Connection,
    app: AppId,
    source: &SourceDigest,
) -> StoreResult<Option<ReleaseRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM releases WHERE app_id = ?1 AND source = ?2
         ORDER BY number DESC LIMIT 1"
    );
    one(c, &sql, params![app, source.as_str()], read)
}

/// The next number: never used before and never again.
pub(crate) fn next_release_number(c: &Connection, app: AppId) -> StoreResult<u32> {
    let sql =
        "UPDATE apps SET last_release = last_release + 1 WHERE id = ?1 RETURNING last_release";
    Ok(c.query_row(sql, [app], |row| row.get(0))?)
}

pub(crate) fn insert_release(c: &Connection, app: AppId, r: &ReleaseRow) -> StoreResult<()> {
    c.execute(
        "INSERT INTO releases (app_id, number, created_at, description, spec, env, image_name,
                               source, deployment_id, created_by, prepared)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            app,
            r.number,
            to_sql(r.created_at),
            r.description,
            json(&r.spec)?,
            r.env,
            r.image_name,
            r.source.as_ref().map(SourceDigest::as_str),
            r.deployment.as_str(),
            r.created_by,
            r.prepared,
        ],
    )?;
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceRow {
    pub(crate) digest: SourceDigest,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// A source, if it was sent to that app.
pub(crate) fn source(
    c: &Connection,
    app: AppId,
    digest: &SourceDigest,
) -> StoreResult<Option<SourceRow>> {
    let sql = "SELECT digest, files, bytes FROM sources JOIN source_apps USING (digest)
               WHERE digest = ?1 AND app_id = ?2";
    one(c, sql, params![digest.as_str(), app], |row| {
        Ok(SourceRow {
            digest: parsed(row, "digest")?,
            files: row.get::<_, i64>("files")?.max(0) as u64,
            bytes: row.get::<_, i64>("bytes")?.max(0) as u64,
        })
    })
}

/// Keeps a source that was sent to an app.
pub(crate) fn insert_source(
    c: &Connection,
    app: AppId,
    s: &SourceRow,
    now: Millis,
) -> StoreResult<()> {
    c.execute(
        "INSERT INTO sources (digest, files, bytes, created_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (digest) DO UPDATE SET created_at = excluded.created_at",
        params![s.digest.as_str(), s.files as i64, s.bytes as i64, to_sql(now)],
    )?;
    let sql = "INSERT OR IGNORE INTO source_apps (digest, app_id) VALUES (?1, ?2)";
    c.execute(sql, params![s.digest.as_str(), app])?;
    Ok(())
}

pub(crate) fn delete_source(c: &Connection, digest: &SourceDigest) -> StoreResult<()> {
    c.execute("DELETE FROM sources WHERE digest = ?1", [digest.as_str()])?;
    Ok(())
}

/// Sources older than `before` that no unfinished deployment and none of the newest `keep`
/// releases of any app was made from.
pub(crate) fn unused_sources(
    c: &Connection,
    keep: u32,
    before: Millis,
) -> StoreResult<Vec<SourceDigest>> {
    let sql = "SELECT digest FROM sources s WHERE created_at < ?2
        AND NOT EXISTS (SELECT 1 FROM deployments d
                        WHERE d.source = s.digest AND d.finished_at IS NULL)
        AND NOT EXISTS (SELECT 1 FROM releases r JOIN apps a ON a.id = r.app_id
                        WHERE r.source = s.digest
                          AND (r.number > a.last_release - ?1 OR r.number = a.live_release))";
    all(c, sql, params![keep, to_sql(before)], |row| parsed(row, "digest"))
}

/// The apps that have a release with that image, by the engine's id of it.
pub(crate) fn apps_with_image(c: &Connection, id: &str) -> StoreResult<Vec<AppName>> {
    let sql = "SELECT DISTINCT name FROM releases JOIN apps ON apps.id = app_id
               WHERE json_extract(spec, '$.image') = ?1";
    all(c, sql, [id], |row| parsed(row, "name"))
}

/// The engine ids of every image that a live release, one of the newest `keep` releases of any
/// app, or a release still being rolled out runs.
pub(crate) fn images_in_use(c: &Connection, keep: u32) -> StoreResult<Vec<String>> {
    let sql = "SELECT r.spec AS spec FROM releases r JOIN apps a ON a.id = r.app_id
        WHERE r.number > a.last_release - ?1 OR r.number = a.live_release
           OR EXISTS (SELECT 1 FROM deployments d WHERE d.app_id = a.id
                      AND d.release = r.number AND d.finished_at IS NULL)";
    all(c, sql, [keep], |row| {
        Ok(document::<ReleaseSpec>(&row.get::<_, String>("spec")?, "releases.spec")?.image)
    })
}
