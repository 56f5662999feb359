//! Changes of an app's settings. What instances run with makes a release, unless the app does not
//! run; what the front door does makes none, and takes effect at once.

use std::time::Duration;

use axum::http::HeaderMap;
use mini_api::{Deployment, DeploymentKind, ErrorCode};
use mini_core::fault;
use mini_core::plan::Desired;
use mini_core::route::AppRoute;
use rusqlite::Connection;

use super::Api;
use super::auth::Caller;
use super::deployments::{New, enqueue_with, key_of};
use super::error::{ApiError, ApiResult};
use crate::store::{AppRow, StoreResult};

/// Whether a change of settings is rolled out at once.
pub(super) fn runs(app: &AppRow) -> bool {
    app.desired == Desired::Run && app.live_deployment.is_some()
}

/// Writes a change down, together with the rollout that brings it: a change whose rollout was lost
/// would be taken for one that was staged.
pub(super) async fn change(
    api: &Api,
    app: &AppRow,
    caller: &Caller,
    headers: &HeaderMap,
    (description, roll_out): (String, bool),
    change: impl FnOnce(&Connection) -> StoreResult<()> + Send + 'static,
) -> ApiResult<Option<Deployment>> {
    api.core.logs.say(&app.name, "api", description.clone());
    if !roll_out || !runs(app) {
        api.core.store.write(move |tx| change(tx)).await?;
        fault::point("env.staged");
        return Ok(None);
    }
    let key = key_of(headers)?.map(|key| (key, description.clone().into()));
    let new = New { kind: DeploymentKind::Config, description, key, ..New::default() };
    Ok(Some(enqueue_with(api, app, caller, new, change).await?))
}

/// How long a change waits for the proxy.
const ROUTED_WITHIN: Duration = Duration::from_secs(5);

/// Has the app planned, and waits until the proxy routes as `wanted`. False if it does not answer:
/// what was stored takes effect when it is back.
pub(super) async fn routed(api: &Api, app: &AppRow, wanted: impl Fn(&AppRoute) -> bool) -> bool {
    api.core.drivers.wake(&app.name);
    api.core.link.applied(&app.name, ROUTED_WITHIN, wanted).await
}

/// What is being destroyed gets nothing new.
pub(super) fn is_kept(app: &AppRow) -> ApiResult<()> {
    match app.desired {
        Desired::Destroy => {
            Err(ApiError::new(ErrorCode::Conflict, format!("{} is being destroyed", app.name))
                .hint("`mini apps` lists the apps"))
        }
        _ => Ok(()),
    }
}
