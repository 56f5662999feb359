//! One instance of an app.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mini_api::{ErrorCode, Instances};
use mini_core::fault;
use mini_core::plan::Desired;
use mini_core::ports::{Instance, InstanceState};

use super::Api;
use super::body::OfApp;
use super::error::{ApiError, ApiResult};
use super::view;
use crate::store;

/// Another instance takes the place of this one, without a drop. Answers with what runs of that
/// name now: it is done when none of them has the same id and start any more.
#[utoipa::path(post, path = "/v1/apps/{app}/instances/{instance}/restart", params(("app" = String, Path), ("instance" = String, Path)), responses((status = 202, body = Instances)))]
pub(super) async fn restart(
    State(api): State<Api>,
    OfApp(row): OfApp,
    Path((_, name)): Path<(String, String)>,
) -> ApiResult<(StatusCode, Json<Instances>)> {
    let core = &api.core;
    let Some(all) = core.world.of_app(&row.name) else {
        return Err(ApiError::new(ErrorCode::EngineUnavailable, "the engine does not answer now")
            .hint("`minid doctor` on the server says more"));
    };
    let live = row.live_deployment.as_ref().filter(|_| row.desired == Desired::Run);
    let own = |i: &&Instance| live == Some(&i.rollout) && i.label() == name;
    let named: Vec<&Instance> = all.iter().filter(own).collect();
    if named.is_empty() {
        let mut there: Vec<String> =
            all.iter().filter(|i| live == Some(&i.rollout)).map(Instance::label).collect();
        there.dedup();
        let hint = match there.is_empty() {
            true => "`mini start` or `mini deploy` brings it up".to_owned(),
            false => format!("it has: {}", there.join(", ")),
        };
        return Err(ApiError::new(
            ErrorCode::NotFound,
            format!("{} has no instance named {name} running", row.name),
        )
        .hint(hint));
    }
    let running = |i: &&Instance| match i.state {
        InstanceState::Running { since } => Some((i.id.clone(), since)),
        _ => None,
    };
    let (id, wishes) = (row.id, named.iter().filter_map(running).collect::<Vec<_>>());
    core.store
        .write(move |tx| {
            for (instance, started) in &wishes {
                store::want_replaced(tx, id, instance, *started)?;
            }
            Ok(())
        })
        .await?;
    fault::point("replace.stored");
    core.logs.say(&row.name, "api", format!("Restarting {name}"));
    core.drivers.wake(&row.name);
    let instances = named.into_iter().map(|i| view::instance(core, &row, i, None)).collect();
    Ok((StatusCode::ACCEPTED, Json(Instances { instances, known: true })))
}
