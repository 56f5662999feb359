//! The audit trail: every request that changes something, and every one that was refused.
//!
//! The entry of a change is written by the change's own transaction ([`Trail`]), and completed before
//! the answer is sent: no change is ever without one. Where something is done on the engine and not in
//! the store, it is written before. A refusal is written beside the answer, and those of nobody that is
//! known only so many a minute: who knocks must not be able to keep the disk busy.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use mini_api::{AUDIT_LISTED, AUDIT_MAX_LISTED, Audit, AuditEntry};
use mini_core::id::TokenId;
use mini_core::name::AppName;
use mini_core::time::Millis;
use serde::Deserialize;

use super::Api;
use super::body::Params;
use super::error::{ApiError, ApiResult};
use crate::clock::{self, timestamp};
use crate::store::{self, AuditRow, BEGUN, Trail};

/// Of what others send, at most so many characters are kept.
const KEPT: usize = 200;

/// Rides on an answer whose request did not say what it was about.
#[derive(Debug, Clone, Default)]
pub(super) struct About {
    pub(super) app: Option<AppName>,
    pub(super) target: Option<String>,
}

/// A request, as far as the trail wants to know it.
pub(super) struct Asked {
    pub(super) actor: Option<String>,
    pub(super) token_id: Option<TokenId>,
    pub(super) action: &'static str,
    pub(super) app: Option<String>,
    pub(super) target: Option<String>,
    pub(super) request_id: String,
    pub(super) source: Option<String>,
}

impl Asked {
    fn entry(self) -> AuditRow {
        AuditRow {
            at: clock::now(),
            actor: self.actor,
            token_id: self.token_id,
            action: self.action.to_owned(),
            app: self.app.map(|app| short(&app)),
            target: self.target.map(|target| short(&target)),
            status: BEGUN,
            request_id: short(&self.request_id),
            source: self.source.map(|source| short(&source)),
        }
    }
}

/// The entry with what was answered.
fn answered(entry: AuditRow, status: StatusCode, about: Option<&About>) -> AuditRow {
    let about = about.cloned().unwrap_or_default();
    let app = about.app.map(|app| app.to_string());
    AuditRow {
        app: entry.app.or(app),
        target: entry.target.or_else(|| about.target.map(|target| short(&target))),
        status: status.as_u16(),
        ..entry
    }
}

/// Printable, and not too long.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(KEPT).collect()
}

/// Where a request came from, as the proxy tells it: the client, then every proxy on the way.
pub(super) fn source(headers: &HeaderMap) -> Option<String> {
    headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// Does a change and writes it down; `on_engine`: it is done outside of the store, so its entry must be
/// there before it begins.
pub(super) async fn change(
    api: &Api,
    asked: Asked,
    on_engine: bool,
    change: impl Future<Output = Response>,
) -> Response {
    let entry = asked.entry();
    let trail = Trail::of(entry.clone());
    let store = &api.core.store;
    if on_engine && let Err(error) = trail.around(store.write_from_reserve(|_| Ok(()))).await {
        return ApiError::from(error).into_response();
    }
    let answer = trail.around(change).await;
    let entry = answered(entry, answer.status(), answer.extensions().get());
    match trail.row() {
        None => write(api, entry).await,
        Some(row) => {
            let text = format!("{entry:?}");
            let completed = store.write(move |tx| store::complete_audit(tx, row, &entry)).await;
            if let Err(error) = completed {
                tracing::error!(%error, entry = text, "an entry of the audit trail stays begun");
            }
        }
    }
    answer
}

/// Writes down a refusal, beside the answer.
pub(super) fn refused(api: &Api, asked: Asked, error: &ApiError) {
    let (api, entry) = (api.clone(), answered(asked.entry(), error.status(), None));
    if entry.actor.is_none() && !api.guard.may_note_a_stranger() {
        return;
    }
    tokio::spawn(async move { write(&api, entry).await });
}

async fn write(api: &Api, entry: AuditRow) {
    let text = format!("{entry:?}");
    if let Err(error) = api.core.store.write(move |tx| store::add_audit(tx, &entry)).await {
        tracing::error!(%error, entry = text, "the audit trail cannot be written");
    }
}

#[derive(Deserialize)]
pub(super) struct Wanted {
    app: Option<AppName>,
    since: Option<Timestamp>,
    n: Option<u32>,
}

/// Who asked for what, newest first.
#[utoipa::path(
    get, path = "/v1/audit",
    params(
        ("app" = Option<String>, Query), ("since" = Option<String>, Query),
        ("n" = Option<u32>, Query)
    ),
    responses((status = 200, body = Audit))
)]
pub(super) async fn list(
    State(api): State<Api>,
    Params(wanted): Params<Wanted>,
) -> ApiResult<Json<Audit>> {
    let n = wanted.n.unwrap_or(AUDIT_LISTED);
    if n > AUDIT_MAX_LISTED {
        return Err(ApiError::invalid(format!("at most {AUDIT_MAX_LISTED} entries at once")));
    }
    let since = wanted.since.map(|at| Millis(at.as_millisecond().max(0).unsigned_abs()));
    let read = move |c: &rusqlite::Connection| {
        store::audit(c, wanted.app.as_ref().map(AppName::as_str), since, n)
    };
    let rows = api.core.store.read(read).await?;
    Ok(Json(Audit { entries: rows.into_iter().map(document).collect() }))
}

fn document(row: AuditRow) -> AuditEntry {
    AuditEntry {
        at: timestamp(row.at),
        actor: row.actor,
        token_id: row.token_id,
        action: row.action,
        app: row.app,
        target: row.target,
        status: row.status,
        request_id: row.request_id,
        source: row.source,
    }
}
