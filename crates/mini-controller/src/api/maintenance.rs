//! Maintenance: every request is answered H80, whatever runs.

use axum::Json;
use axum::extract::State;
use mini_api::{Maintenance, RouteChanged};
use mini_core::fault;

use super::Api;
use super::body::{Json as Body, OfApp};
use super::error::ApiResult;
use super::settings;
use crate::store;

/// Whether the app is in maintenance.
#[utoipa::path(get, path = "/v1/apps/{app}/maintenance", params(("app" = String, Path)), responses((status = 200, body = Maintenance)))]
pub(super) async fn show(OfApp(app): OfApp) -> Json<Maintenance> {
    Json(Maintenance { on: app.maintenance })
}

/// Begins or ends it: answers when requests are treated so, or the proxy is away.
#[utoipa::path(put, path = "/v1/apps/{app}/maintenance", params(("app" = String, Path)), request_body = Maintenance, responses((status = 200, body = RouteChanged)))]
pub(super) async fn set(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Body(Maintenance { on }): Body<Maintenance>,
) -> ApiResult<Json<RouteChanged>> {
    settings::is_kept(&app)?;
    let id = app.id;
    let changed = api.core.store.write(move |tx| store::set_maintenance(tx, id, on)).await?;
    fault::point("route.stored");
    if changed {
        let what = if on { "on" } else { "off" };
        api.core.logs.say(&app.name, "api", format!("Maintenance {what}"));
    }
    let routed = settings::routed(&api, &app, |route| route.rules.maintenance == on).await;
    Ok(Json(RouteChanged { changed, routed }))
}
