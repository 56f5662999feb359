//! The HTTP API under `/v1`: parse, ask the store, answer. What must happen on the engine is left
//! to the drivers and the deployer.
//!
//! The same routes are served on two sockets: `api.sock`, where the proxy's door forwards to and
//! every request needs a token, and `admin.sock`, whose callers the kernel has named.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, delete, get, post, put};
use mini_core::control::OVERHEARD;
use tokio::net::UnixListener;

mod access;
mod apps;
mod audit;
mod auth;
mod body;
mod certs;
mod deployments;
mod domains;
mod env;
mod error;
mod formation;
mod instances;
mod lasting;
mod limits;
mod logs;
mod maintenance;
mod metrics;
mod openapi;
mod overheard;
mod pages;
mod releases;
mod server;
mod sessions;
mod settings;
mod sources;
mod stream;
mod tokens;
mod view;
mod volumes;

use auth::Peer;
pub(crate) use auth::{AdminListener, Guard};
pub use openapi::document as openapi_document;
pub(crate) use tokens::shown as shown_token;

use crate::core::Core;

/// JSON bodies are small; sources are streamed and have limits of their own.
const MAX_JSON_BYTES: usize = 1 << 20;

/// Which socket a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// `api.sock`: a token, always.
    Door,
    /// `admin.sock`: root or the data folder's owner.
    Admin,
}

#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) core: Arc<Core>,
    guard: Arc<Guard>,
    entrance: Entrance,
}

fn router(api: Api) -> Router {
    let guarded = Router::new()
        .route("/v1/server", get(server::show))
        .route("/v1/apps", get(apps::list).post(apps::create))
        .route("/v1/apps/{app}", get(apps::show).delete(apps::destroy))
        .route("/v1/apps/{app}/instances", get(apps::instances))
        .route("/v1/apps/{app}/instances/{instance}/restart", post(instances::restart))
        .route("/v1/apps/{app}/limits", get(limits::show))
        .route("/v1/apps/{app}/limits/{process}", put(limits::set))
        .route("/v1/apps/{app}/volumes", get(volumes::list).post(volumes::add))
        .route("/v1/apps/{app}/volumes/{volume}", delete(volumes::remove))
        .route("/v1/volumes", get(volumes::list_all))
        .route("/v1/volumes/{app}/{volume}", delete(volumes::delete_left))
        .route("/v1/apps/{app}/domains", get(domains::list).post(domains::add))
        .route("/v1/apps/{app}/domains/{domain}", delete(domains::remove))
        .route("/v1/apps/{app}/maintenance", get(maintenance::show).put(maintenance::set))
        .route("/v1/apps/{app}/pages", get(pages::list))
        .route("/v1/apps/{app}/pages/{code}", put(pages::set).delete(pages::unset))
        .route("/v1/apps/{app}/releases", get(releases::list))
        .route("/v1/apps/{app}/releases/{release}", get(releases::show))
        .route("/v1/apps/{app}/restart", post(apps::restart))
        .route("/v1/apps/{app}/formation", get(formation::show).patch(formation::scale))
        .route("/v1/apps/{app}/rollback", post(apps::rollback))
        .route("/v1/apps/{app}/start", post(apps::start))
        .route("/v1/apps/{app}/stop", post(apps::stop))
        .route("/v1/apps/{app}/env", get(env::show).patch(env::change))
        .route("/v1/apps/{app}/exec", post(sessions::exec))
        .route("/v1/apps/{app}/runs", post(sessions::run))
        .route("/v1/apps/{app}/logs", get(logs::read))
        .route("/v1/apps/{app}/metrics", get(metrics::show))
        .route("/v1/apps/{app}/sources", post(sources::upload))
        .route("/v1/apps/{app}/sources/{digest}", get(sources::show))
        .route("/v1/apps/{app}/deployments", get(deployments::list).post(deployments::create))
        .route("/v1/deployments/{id}", get(deployments::show))
        .route("/v1/deployments/{id}/events", get(deployments::events))
        .route("/v1/deployments/{id}/cancel", post(deployments::cancel))
        .route("/v1/certs", get(certs::list).post(certs::add))
        .route("/v1/certs/{name}", get(certs::show).delete(certs::remove))
        .route("/v1/certs/{name}/retry", post(certs::retry))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/tokens/{id}/rotate", post(tokens::rotate))
        .route("/v1/audit", get(audit::list))
        .route_layer(from_fn_with_state(api.clone(), auth::check));
    Router::new()
        .route("/v1/health", get(server::health))
        .route("/v1/openapi.json", get(openapi::serve))
        .route(OVERHEARD, any(overheard::refuse))
        .merge(guarded)
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(from_fn(error::finish))
        .with_state(api)
}

/// Serves both sockets until `shutdown`, then lets requests finish for a moment: streams are
/// resumed by their clients.
pub(crate) async fn serve(
    core: Arc<Core>,
    door: UnixListener,
    admin: AdminListener,
    shutdown: tokio_util::sync::CancellationToken,
) -> std::io::Result<()> {
    let guard = Arc::new(Guard::default());
    let api = |entrance| Api { core: core.clone(), guard: guard.clone(), entrance };
    let stop = || shutdown.clone().cancelled_owned();
    let serving = async {
        tokio::try_join!(
            axum::serve(door, router(api(Entrance::Door))).with_graceful_shutdown(stop()),
            axum::serve(
                admin,
                router(api(Entrance::Admin)).into_make_service_with_connect_info::<Peer>()
            )
            .with_graceful_shutdown(stop()),
        )
        .map(drop)
    };
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        served = serving => served,
        () = too_long => Ok(()),
    }
}
