//! How many instances run of each process type.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use mini_api::{ErrorCode, Formation, MAX_INSTANCES};
use mini_core::fault;
use mini_core::name::ProcessType;

use super::Api;
use super::apps::nothing_deployed;
use super::body::{Json as Body, OfApp};
use super::error::{ApiError, ApiResult};
use crate::store::{self, AppRow};

/// What is wanted of each process type of the live release.
async fn wanted(api: &Api, app: &AppRow) -> ApiResult<BTreeMap<ProcessType, u32>> {
    let Some(live) = app.live_release else { return Err(nothing_deployed(&app.name)) };
    let id = app.id;
    let (release, scaled) = api
        .core
        .store
        .read(move |c| Ok((store::release(c, id, live)?, store::formation(c, id)?)))
        .await?;
    let processes = release.into_iter().flat_map(|r| r.spec.processes);
    let mut counts: BTreeMap<ProcessType, u32> = processes.map(|(p, s)| (p, s.count)).collect();
    for (process, count) in scaled {
        counts.entry(process).and_modify(|c| *c = count);
    }
    Ok(counts)
}

fn document(counts: &BTreeMap<ProcessType, u32>) -> Formation {
    Formation { counts: counts.iter().map(|(p, n)| (p.to_string(), *n)).collect() }
}

/// How many instances of each process type the app wants.
#[utoipa::path(get, path = "/v1/apps/{app}/formation", params(("app" = String, Path)), responses((status = 200, body = Formation)))]
pub(super) async fn show(State(api): State<Api>, OfApp(app): OfApp) -> ApiResult<Json<Formation>> {
    Ok(Json(document(&wanted(&api, &app).await?)))
}

/// Wants more or fewer; what is there comes up or drains beside the answer.
#[utoipa::path(patch, path = "/v1/apps/{app}/formation", params(("app" = String, Path)), request_body = Formation, responses((status = 202, body = Formation)))]
pub(super) async fn scale(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Body(change): Body<Formation>,
) -> ApiResult<(StatusCode, Json<Formation>)> {
    let mut counts = wanted(&api, &app).await?;
    let mut changes = Vec::new();
    for (name, count) in change.counts {
        let known = counts.iter_mut().find(|(process, _)| process.as_str() == name);
        let Some((process, before)) = known else {
            let all: Vec<&str> = counts.keys().map(ProcessType::as_str).collect();
            return Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!("{} has no process type {name}", app.name),
            )
            .hint(format!("it has: {}; a Procfile names others", all.join(", "))));
        };
        *before = count;
        changes.push((process.clone(), count));
    }
    let total = counts.values().fold(0, |sum: u32, n| sum.saturating_add(*n));
    if total > MAX_INSTANCES {
        return Err(ApiError::invalid(format!(
            "{total} instances are too many: an app may have {MAX_INSTANCES}"
        ))
        .hint("scale another process type down first"));
    }
    let (id, told) = (app.id, changes.clone());
    api.core.store.write(move |tx| store::set_formation(tx, id, &changes)).await?;
    fault::point("scale.stored");
    for (process, count) in told {
        api.core.logs.say(&app.name, "api", format!("Scaled {process} to {count}"));
    }
    api.core.drivers.wake(&app.name);
    Ok((StatusCode::ACCEPTED, Json(document(&counts))))
}
