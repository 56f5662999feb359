//! Deployments and their events. A change of status and the event that tells of it are one
//! transaction.

use mini_api::{DeploymentKind, DeploymentStatus, EventBody};
use mini_core::cause::Cause;
use mini_core::id::{DeploymentId, TokenId};
use mini_core::plan::Desired;
use mini_core::release::Strategy;
use mini_core::source::SourceDigest;
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::rows::{
    all, corrupt, document, json, millis, millis_opt, name_of, named, one, parsed, parsed_opt,
    to_sql,
};
use super::{AppId, StoreResult, app_by_id, set_desired};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeploymentRow {
    pub(crate) id: DeploymentId,
    pub(crate) app: AppId,
    pub(crate) kind: DeploymentKind,
    pub(crate) status: DeploymentStatus,
    pub(crate) description: String,
    pub(crate) source: Option<SourceDigest>,
    pub(crate) image_name: Option<String>,
    pub(crate) rebuild: bool,
    /// How it takes the place of what is live, where the user said so.
    pub(crate) strategy: Option<Strategy>,
    /// The release that a rollback goes back to.
    pub(crate) target: Option<u32>,
    pub(crate) release: Option<u32>,
    pub(crate) cause: Option<Cause>,
    pub(crate) created_by: Option<String>,
    /// The token that asked for it; none: the admin socket.
    pub(crate) token: Option<TokenId>,
    pub(crate) created_at: Millis,
    pub(crate) finished_at: Option<Millis>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) request_hash: Option<Vec<u8>>,
}

const COLUMNS: &str = "id, app_id, kind, status, description, source, image_name, rebuild, \
    strategy, target, release, cause, created_by, token_id, created_at, finished_at, idempotency_key, \
    request_hash";

fn read(row: &Row<'_>) -> StoreResult<DeploymentRow> {
    let cause: Option<String> = row.get("cause")?;
    let strategy: Option<String> = row.get("strategy")?;
    Ok(DeploymentRow {
        id: parsed(row, "id")?,
        app: row.get("app_id")?,
        kind: named(row.get("kind")?, "deployments.kind")?,
        status: named(row.get("status")?, "deployments.status")?,
        description: row.get("description")?,
        source: parsed_opt(row, "source")?,
        image_name: row.get("image_name")?,
        rebuild: row.get("rebuild")?,
        strategy: strategy.map(|s| named(s, "deployments.strategy")).transpose()?,
        target: row.get("target")?,
        release: row.get("release")?,
        cause: cause.map(|text| document(&text, "deployments.cause")).transpose()?,
        created_by: row.get("created_by")?,
        token: parsed_opt(row, "token_id")?,
        created_at: millis(row, "created_at")?,
        finished_at: millis_opt(row, "finished_at")?,
        idempotency_key: row.get("idempotency_key")?,
        request_hash: row.get("request_hash")?,
    })
}

pub(crate) fn deployment(c: &Connection, id: &DeploymentId) -> StoreResult<Option<DeploymentRow>> {
    one(c, &format!("SELECT {COLUMNS} FROM deployments WHERE id = ?1"), [id.as_str()], read)
}

pub(crate) fn deployments(
    c: &Connection,
    app: AppId,
    limit: u32,
) -> StoreResult<Vec<DeploymentRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deployments WHERE app_id = ?1
         ORDER BY created_at DESC, rowid DESC LIMIT ?2"
    );
    all(c, &sql, params![app, limit], read)
}

/// All that are not finished, oldest first.
pub(crate) fn unfinished_deployments(c: &Connection) -> StoreResult<Vec<DeploymentRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deployments WHERE finished_at IS NULL ORDER BY created_at, rowid"
    );
    all(c, &sql, [], read)
}

/// The one that is being rolled out, if any.
pub(crate) fn candidate(c: &Connection, app: AppId) -> StoreResult<Option<DeploymentRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deployments
         WHERE app_id = ?1 AND status = 'starting' AND finished_at IS NULL
         ORDER BY created_at DESC, rowid DESC LIMIT 1"
    );
    one(c, &sql, [app], read)
}

pub(crate) fn deployment_by_key(
    c: &Connection,
    app: AppId,
    key: &str,
) -> StoreResult<Option<DeploymentRow>> {
    let sql =
        format!("SELECT {COLUMNS} FROM deployments WHERE app_id = ?1 AND idempotency_key = ?2");
    one(c, &sql, params![app, key], read)
}

/// Whether all that a waiting deployment would bring comes with a `newer` one too. New config vars
/// come with every build, but code comes with nothing else.
fn supersedes(newer: DeploymentKind, waiting: DeploymentKind) -> bool {
    use DeploymentKind::{Config, Deploy, Restart, Rollback, Start};
    match newer {
        Deploy | Rollback => true,
        Config => matches!(waiting, Config | Restart | Start),
        Restart | Start => matches!(waiting, Restart | Start),
    }
}

/// Adds a deployment to the queue, and supersedes those of the app that wait for nothing else.
///
/// Returns what was superseded.
pub(crate) fn enqueue(c: &Connection, d: &DeploymentRow) -> StoreResult<Vec<DeploymentId>> {
    let sql = "SELECT id, kind FROM deployments WHERE app_id = ?1 AND status = 'queued'";
    let waiting: Vec<(DeploymentId, DeploymentKind)> = all(c, sql, [d.app], |row| {
        Ok((parsed(row, "id")?, named(row.get("kind")?, "deployments.kind")?))
    })?;
    let passed = waiting.into_iter().filter(|(_, kind)| supersedes(d.kind, *kind));
    let waiting: Vec<DeploymentId> = passed.map(|(id, _)| id).collect();
    for id in &waiting {
        finish(c, id, DeploymentStatus::Superseded, None, d.created_at)?;
    }
    c.execute(
        "INSERT INTO deployments (id, app_id, kind, status, description, source, image_name,
                                  rebuild, strategy, target, created_by, token_id, created_at,
                                  idempotency_key, request_hash)
         VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            d.id.as_str(),
            d.app,
            name_of(d.kind)?,
            d.description,
            d.source.as_ref().map(SourceDigest::as_str),
            d.image_name,
            d.rebuild,
            d.strategy.map(name_of).transpose()?,
            d.target,
            d.created_by,
            d.token.as_ref().map(TokenId::as_str),
            to_sql(d.created_at),
            d.idempotency_key,
            d.request_hash,
        ],
    )?;
    let queued = EventBody::Status { status: DeploymentStatus::Queued };
    add_event(c, &d.id, &queued, d.created_at)?;
    Ok(waiting)
}

/// Moves an unfinished deployment on; false when it was finished meanwhile (cancelled, say).
pub(crate) fn set_status(
    c: &Connection,
    id: &DeploymentId,
    status: DeploymentStatus,
    now: Millis,
) -> StoreResult<bool> {
    let sql = "UPDATE deployments SET status = ?2 WHERE id = ?1 AND finished_at IS NULL";
    let moved = c.execute(sql, params![id.as_str(), name_of(status)?])? > 0;
    if moved {
        add_event(c, id, &EventBody::Status { status }, now)?;
    }
    Ok(moved)
}

/// Ties the deployment to the release that it rolls out.
pub(crate) fn set_release(c: &Connection, id: &DeploymentId, release: u32) -> StoreResult<()> {
    let sql = "UPDATE deployments SET release = ?2 WHERE id = ?1";
    c.execute(sql, params![id.as_str(), release])?;
    Ok(())
}

/// Makes a release that was live the candidate; false, and nothing is changed, if the deployment
/// was finished meanwhile: a user who stopped or destroyed the app had the last word.
pub(crate) fn begin_again(
    c: &Connection,
    app: AppId,
    id: &DeploymentId,
    release: u32,
    now: Millis,
) -> StoreResult<bool> {
    if !set_status(c, id, DeploymentStatus::Starting, now)? {
        return Ok(false);
    }
    set_release(c, id, release)?;
    set_desired(c, app, Desired::Run)?;
    Ok(true)
}

/// Ends a deployment; false when it was finished before.
pub(crate) fn finish(
    c: &Connection,
    id: &DeploymentId,
    status: DeploymentStatus,
    cause: Option<&Cause>,
    now: Millis,
) -> StoreResult<bool> {
    let Some(row) = deployment(c, id)?.filter(|d| d.finished_at.is_none()) else {
        return Ok(false);
    };
    if let Some(cause) = cause {
        add_event(c, id, &EventBody::Failed { cause: cause.clone() }, now)?;
    }
    let cause = cause.map(json).transpose()?;
    let sql = "UPDATE deployments SET status = ?2, cause = ?3, finished_at = ?4 WHERE id = ?1";
    c.execute(sql, params![id.as_str(), name_of(status)?, cause, to_sql(now)])?;
    add_event(c, id, &EventBody::Status { status }, now)?;
    // An app that was stopped, and whose start came to nothing, is stopped as before.
    if let Some(app) = app_by_id(c, row.app)? {
        let ended = status != DeploymentStatus::Live;
        let idle = app.live_deployment.is_none() && app.live_release.is_some();
        if ended && idle && app.desired == Desired::Run && unfinished_of(c, app.id)? == 0 {
            set_desired(c, app.id, Desired::Stop)?;
        }
    }
    Ok(true)
}

fn unfinished_of(c: &Connection, app: AppId) -> StoreResult<u32> {
    let sql = "SELECT count(*) FROM deployments WHERE app_id = ?1 AND finished_at IS NULL";
    Ok(c.query_row(sql, [app], |row| row.get(0))?)
}

/// The commit point of a rollout: from here on its release is live.
pub(crate) fn commit_live(
    c: &Connection,
    id: &DeploymentId,
    healthy_ms: u64,
    now: Millis,
) -> StoreResult<bool> {
    let Some(row) = deployment(c, id)?.filter(|d| d.finished_at.is_none()) else {
        return Ok(false);
    };
    let release = row.release.ok_or_else(|| corrupt("deployments.release", "missing"))?;
    c.execute(
        "UPDATE apps SET live_release = ?2, live_deployment = ?3, live_at = ?4 WHERE id = ?1",
        params![row.app, release, id.as_str(), to_sql(now)],
    )?;
    add_event(c, id, &EventBody::Healthy { after_ms: healthy_ms }, now)?;
    Ok(true)
}

/// The end of a deployment that went well: requests reach its release.
pub(crate) fn announce_live(
    c: &Connection,
    id: &DeploymentId,
    url: &str,
    now: Millis,
) -> StoreResult<bool> {
    let Some(row) = deployment(c, id)?.filter(|d| d.finished_at.is_none()) else {
        return Ok(false);
    };
    let release = row.release.map_or(String::new(), |n| format!("v{n}"));
    add_event(c, id, &EventBody::Live { release, url: url.to_owned() }, now)?;
    finish(c, id, DeploymentStatus::Live, None, now)
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventRow {
    pub(crate) number: u64,
    pub(crate) at: Millis,
    pub(crate) body: EventBody,
}

pub(crate) fn add_event(
    c: &Connection,
    id: &DeploymentId,
    body: &EventBody,
    now: Millis,
) -> StoreResult<()> {
    let sql = "INSERT INTO deployment_events (deployment_id, number, at, body)
        SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3 FROM deployment_events
        WHERE deployment_id = ?1";
    c.prepare_cached(sql)?.execute(params![id.as_str(), to_sql(now), json(body)?])?;
    Ok(())
}

/// Up to `limit` events after number `after`.
pub(crate) fn events(
    c: &Connection,
    id: &DeploymentId,
    after: u64,
    limit: u32,
) -> StoreResult<Vec<EventRow>> {
    let sql = "SELECT number, at, body FROM deployment_events
        WHERE deployment_id = ?1 AND number > ?2 ORDER BY number LIMIT ?3";
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    all(c, sql, params![id.as_str(), after, limit], |row| {
        Ok(EventRow {
            number: row.get::<_, i64>("number")?.max(0) as u64,
            at: millis(row, "at")?,
            body: document(&row.get::<_, String>("body")?, "deployment_events.body")?,
        })
    })
}

/// Drops the events of all but each app's newest `keep` finished deployments: the deployments
/// themselves, with how they ended, stay.
pub(crate) fn prune_events(c: &Connection, keep: u32) -> StoreResult<()> {
    let sql = "DELETE FROM deployment_events WHERE deployment_id IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (
                PARTITION BY app_id ORDER BY created_at DESC, rowid DESC) AS place
            FROM deployments WHERE finished_at IS NOT NULL)
        WHERE place > ?1)";
    c.execute(sql, [keep])?;
    Ok(())
}
