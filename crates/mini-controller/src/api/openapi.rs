//! The API's description, generated from the handlers.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};

use super::{apps, deployments, env, formation, logs, releases, server, sources, tokens};

#[derive(OpenApi)]
#[openapi(
    info(title = "mini", description = "The API of a mini server. Errors are `ErrorBody`."),
    paths(
        server::health, server::show,
        apps::list, apps::create, apps::show, apps::destroy, apps::stop, apps::start,
        apps::restart, apps::rollback, apps::instances, releases::list, releases::show,
        formation::show, formation::scale, env::show, env::change, logs::read, sources::show, sources::upload,
        deployments::create, deployments::list, deployments::show, deployments::events,
        deployments::cancel, tokens::list, tokens::create, tokens::revoke,
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
