//! The server itself.

use axum::Json;
use axum::extract::State;
use mini_api::{API_LEVEL, Health, Server};

use super::Api;
use super::auth::Caller;
use super::error::ApiResult;

/// Whether the server is well. Needs no token.
#[utoipa::path(get, path = "/v1/health", responses((status = 200, body = Health)))]
pub(super) async fn health(State(api): State<Api>) -> Json<Health> {
    let well = problems(&api).is_empty() && api.core.certs.problems().is_empty();
    Json(Health {
        status: if well { "ok" } else { "degraded" }.to_owned(),
        version: api.core.config.version.clone(),
        api_level: API_LEVEL,
    })
}

/// What the server is, and what is wrong with it now.
#[utoipa::path(get, path = "/v1/server", responses((status = 200, body = Server)))]
pub(super) async fn show(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Server>> {
    let engine = api.core.runtime.info().await.ok().map(|info| info.version);
    let mut problems = problems(&api);
    // They name domains.
    if caller.may_see_all() {
        problems.extend(api.core.certs.problems());
    }
    let domains = api.core.config.domains.iter().map(|d| d.as_str().to_owned());
    Ok(Json(Server {
        id: api.core.server.to_string(),
        version: api.core.config.version.clone(),
        api_level: API_LEVEL,
        domains: domains.collect(),
        engine,
        token: caller.name(),
        problems,
        recovery: api.core.recoveries.last(),
    }))
}

/// What ails the server itself.
fn problems(api: &Api) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(why) = api.core.store.trouble() {
        problems
            .push(format!("the data folder cannot be written, so every change is refused: {why}"));
    }
    if let Some(why) = api.core.world.trouble() {
        problems.push(format!("the engine is away: {why}"));
    }
    if !api.core.link.connected() {
        problems.push("the proxy is away: apps go on, changes of routes wait".to_owned());
    }
    if let Some(why) = api.core.firewall.trouble() {
        problems.push(format!(
            "the firewall is not in place, so apps reach services of this machine: {why}"
        ));
    }
    if let Some(why) = api.core.builds.trouble() {
        problems.push(format!("builds are not held, so they may take what apps need: {why}"));
    }
    problems.extend(api.guard.clock_problem());
    problems
}
