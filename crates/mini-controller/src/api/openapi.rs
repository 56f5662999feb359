//! The API's description, generated from the handlers.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::{
    apps, audit, certs, deployments, domains, env, formation, instances, limits, logs, maintenance,
    metrics, pages, releases, server, sessions, sources, tokens, volumes,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "mini", description = "The API of a mini server. Errors are `ErrorBody`."),
    paths(
        server::health, server::show,
        apps::list, apps::create, apps::show, apps::destroy, apps::stop, apps::start,
        apps::restart, apps::rollback, apps::instances, releases::list, releases::show,
        formation::show, formation::scale, env::show, env::change, sessions::exec, sessions::run, logs::read, metrics::show, sources::show, sources::upload,
        deployments::create, deployments::list, deployments::show, deployments::events,
        deployments::cancel, instances::restart, limits::show, limits::set, volumes::list,
        volumes::list_all, volumes::add, volumes::remove, volumes::delete_left,
        domains::list, domains::add, domains::remove, maintenance::show, maintenance::set,
        pages::list, pages::set, pages::unset,
        certs::list, certs::show, certs::add, certs::remove, certs::retry,
        tokens::list, tokens::create, tokens::rotate, tokens::revoke, audit::list,
    ),
    components(schemas(mini_api::ErrorBody)),
    security(("token" = []))
)]
struct Description;

/// The whole description, as it is checked in.
pub fn document() -> Document {
    let mut document = Description::openapi();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    if let Some(components) = &mut document.components {
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
    document
}

pub(super) async fn serve() -> Json<Document> {
    Json(document())
}
