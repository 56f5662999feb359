//! What an app's requests were like.

use axum::Json;
use axum::extract::State;
use mini_api::Metrics;

use super::Api;
use super::body::OfApp;
use super::error::ApiResult;
use crate::traffic;

/// What the app's requests were like in the last hour, up to now.
#[utoipa::path(get, path = "/v1/apps/{app}/metrics", params(("app" = String, Path)), responses((status = 200, body = Metrics)))]
pub(super) async fn show(State(api): State<Api>, OfApp(app): OfApp) -> ApiResult<Json<Metrics>> {
    Ok(Json(traffic::of(&api.core, &app.name).await))
}
