//! Apps, and what is done to a whole app.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use mini_api::{
    App, Apps, Deployment, DeploymentKind, DeploymentStatus, ErrorCode, Instances, NewApp, Rollback,
};
use mini_core::fault;
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::Desired;
use mini_core::release::ProcessSpec;
use mini_core::subnet::{Subnet, choose_pool, default_pools};
use mini_core::words;
use serde::Deserialize;

use super::Api;
use super::audit::About;
use super::auth::Caller;
use super::body::{Json as Body, OfApp, Params};
use super::error::{ApiError, ApiResult};
use super::view::{self, AppFacts};
use crate::clock;
use crate::core::Core;
use crate::drivers::Drivers;
use crate::env;
use crate::store::{self, AppRow, Created, StoreResult};
use crate::vault;

async fn facts(core: &Core, row: AppRow) -> ApiResult<AppFacts> {
    let (live, domains, rolling_out, sealed, scaled) = {
        let row = row.clone();
        core.store
            .read(move |c| {
                let live = row.live_release.map(|n| store::release(c, row.id, n));
                let rolling_out = store::unfinished_deployments(c)?.iter().any(|d| d.app == row.id);
                let domains = store::domains_of(c, row.id)?;
                let sealed = store::env_of(c, row.id)?;
                let scaled = store::formation(c, row.id)?;
                Ok((live.transpose()?.flatten(), domains, rolling_out, sealed, scaled))
            })
            .await?
    };
    let now = env::open(&core.vault, row.id, sealed)?;
    let then = live.as_ref().map(|r| env::of_release(&core.vault, row.id, r)).transpose()?;
    let env_staged = then.is_some_and(|then| then != now);
    let of = |(process, spec): (&ProcessType, &ProcessSpec)| {
        scaled.iter().find(|(p, _)| p == process).map_or(spec.count, |(_, count)| *count)
    };
    let wanted = live.iter().flat_map(|r| &r.spec.processes).map(of).sum();
    Ok(AppFacts { row, live, domains, rolling_out, env_staged, wanted })
}

/// Every app that the caller may see.
#[utoipa::path(get, path = "/v1/apps", responses((status = 200, body = Apps)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Apps>> {
    let mut apps = Vec::new();
    let rows = api.core.store.read(store::all_apps).await?;
    for row in rows.into_iter().filter(|row| caller.may_see(&row.name)) {
        apps.push(view::app(&api.core, facts(&api.core, row).await?));
    }
    Ok(Json(Apps { apps }))
}

/// Makes an app; without a name, the server makes one up.
#[utoipa::path(post, path = "/v1/apps", request_body = NewApp, responses((status = 201, body = App)))]
pub(super) async fn create(
    State(api): State<Api>,
    Body(new): Body<NewApp>,
) -> ApiResult<(StatusCode, Extension<About>, Json<App>)> {
    let core = &api.core;
    let wanted: Option<AppName> = new.name.map(|name| name.parse()).transpose().map_err(
        |error: mini_core::name::BadName| ApiError::new(ErrorCode::InvalidName, error.to_string()),
    )?;
    let pool = network_pool(core).await?;
    let taken = core.runtime.subnets_in_use().await?;
    let mut attempt = 0;
    let row = loop {
        let name = match &wanted {
            Some(name) => name.clone(),
            None => {
                let id = vault::random_id()?;
                let (number, _) = id.split_first_chunk().unwrap_or((&[0; 8], &[]));
                words::app_name(u64::from_le_bytes(*number), attempt)
            }
        };
        let (taken, now) = (taken.clone(), clock::now());
        let chosen = name.clone();
        let created =
            core.store.write(move |tx| store::create_app(tx, &chosen, (pool, &taken), now)).await?;
        match created {
            Created::App(row) => break row,
            Created::NameTaken if wanted.is_none() && attempt < 64 => attempt += 1,
            Created::NameTaken => {
                return Err(ApiError::new(
                    ErrorCode::NameTaken,
                    format!("an app named {name} exists already"),
                )
                .hint("deploy to it with --app, or choose another name"));
            }
            Created::PoolExhausted => {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!("every subnet of the network pool {pool} is in use"),
                )
                .hint("destroy an app, or give the server a larger --network-pool"));
            }
        }
    };
    fault::point("apps.created");
    Drivers::start(core, &row.name);
    core.logs.say(&row.name, "api", "App created");
    let about = About { app: Some(row.name.clone()), target: None };
    let app = view::app(core, facts(core, row).await?);
    Ok((StatusCode::CREATED, Extension(about), Json(app)))
}

/// The pool that this server's subnets come from, chosen once and remembered.
async fn network_pool(core: &Core) -> ApiResult<Subnet> {
    if let Some(pool) = core.config.network_pool {
        return Ok(pool);
    }
    let known = core.store.read(|c| store::meta(c, "network_pool")).await?;
    if let Some(pool) = known.and_then(|text| text.parse().ok()) {
        return Ok(pool);
    }
    let mut taken = core.runtime.subnets_in_use().await?;
    taken.extend(&core.config.host_routes);
    let pool = choose_pool(default_pools(), &taken).ok_or_else(|| {
        ApiError::new(
            ErrorCode::Conflict,
            "every default network pool overlaps a network of this machine",
        )
        .hint("name a free one with --network-pool (MINID_NETWORK_POOL) on the server")
    })?;
    core.store.write(move |tx| store::set_meta(tx, "network_pool", &pool.to_string())).await?;
    Ok(pool)
}

/// One app.
#[utoipa::path(get, path = "/v1/apps/{app}", params(("app" = String, Path)), responses((status = 200, body = App)))]
pub(super) async fn show(State(api): State<Api>, OfApp(row): OfApp) -> ApiResult<Json<App>> {
    Ok(Json(view::app(&api.core, facts(&api.core, row).await?)))
}

#[derive(Deserialize)]
pub(super) struct Destruction {
    /// The volumes go with all their data.
    #[serde(default)]
    with_volumes: bool,
}

/// Destroys an app: it is gone when asking for it answers 404. Its volumes stay unless told.
#[utoipa::path(delete, path = "/v1/apps/{app}", params(("app" = String, Path), ("with_volumes" = Option<bool>, Query)), responses((status = 202, body = App)))]
pub(super) async fn destroy(
    State(api): State<Api>,
    OfApp(row): OfApp,
    Params(how): Params<Destruction>,
) -> ApiResult<(StatusCode, Json<App>)> {
    if how.with_volumes {
        let id = row.id;
        let doom_all = move |tx: &rusqlite::Transaction<'_>| {
            for volume in store::volumes_of(tx, id)? {
                store::doom_volume(tx, &volume.engine_name)?;
            }
            Ok(())
        };
        api.core.store.write_from_reserve(doom_all).await?;
    }
    set_desired(&api, row, Desired::Destroy).await
}

/// Stops an app; its release stays, and `start` brings it back.
#[utoipa::path(post, path = "/v1/apps/{app}/stop", params(("app" = String, Path)), responses((status = 202, body = App)))]
pub(super) async fn stop(
    State(api): State<Api>,
    OfApp(row): OfApp,
) -> ApiResult<(StatusCode, Json<App>)> {
    if row.live_release.is_none() {
        return Err(nothing_deployed(&row.name));
    }
    api.core.logs.say(&row.name, "api", "Stopping");
    set_desired(&api, row, Desired::Stop).await
}

async fn set_desired(
    api: &Api,
    row: AppRow,
    desired: Desired,
) -> ApiResult<(StatusCode, Json<App>)> {
    let (id, now) = (row.id, clock::now());
    let unfinished: StoreResult<_> = api
        .core
        .store
        .write_from_reserve(move |tx| {
            let app = store::app_by_id(tx, id)?;
            // Destroying is for good.
            if app.as_ref().is_none_or(|a| a.desired == Desired::Destroy) {
                return Ok(Vec::new());
            }
            let live = app.and_then(|a| a.live_deployment);
            let own = store::unfinished_deployments(tx)?.into_iter().filter(|d| d.app == id);
            let ended: Vec<_> = own.map(|d| d.id).collect();
            for deployment in &ended {
                // One that went live, if only just, was not cancelled.
                let status = match live.as_ref() == Some(deployment) {
                    true => DeploymentStatus::Live,
                    false => DeploymentStatus::Cancelled,
                };
                store::finish(tx, deployment, status, None, now)?;
            }
            store::set_desired(tx, id, desired)?;
            Ok(ended)
        })
        .await;
    let unfinished = unfinished?;
    fault::point("apps.desired");
    for id in unfinished {
        api.core.preparing.cancel(&id);
    }
    api.core.events_stored();
    api.core.queue.notify_one();
    api.core.drivers.wake(&row.name);
    let row = AppRow { desired, live_deployment: None, ..row };
    Ok((StatusCode::ACCEPTED, Json(view::app(&api.core, facts(&api.core, row).await?))))
}

pub(super) fn nothing_deployed(app: &AppName) -> ApiError {
    ApiError::new(ErrorCode::NothingDeployed, format!("{app} has no release yet"))
        .hint("`mini deploy` makes the first one")
}

/// New instances of the live release, swapped in without a drop.
#[utoipa::path(post, path = "/v1/apps/{app}/restart", params(("app" = String, Path)), responses((status = 202, body = Deployment)))]
pub(super) async fn restart(
    State(api): State<Api>,
    OfApp(row): OfApp,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<(StatusCode, Json<Deployment>)> {
    if let Some(before) = repeated(&api, &row, &headers).await? {
        return Ok((StatusCode::ACCEPTED, Json(before)));
    }
    if row.live_release.is_some() && row.desired == Desired::Stop {
        return Err(ApiError::new(ErrorCode::Conflict, format!("{} is stopped", row.name))
            .hint(format!("`mini start --app {}` starts it", row.name)));
    }
    again(&api, row, caller, (DeploymentKind::Restart, "Restart"), &headers).await
}

/// Starts a stopped app with the release that was live.
#[utoipa::path(post, path = "/v1/apps/{app}/start", params(("app" = String, Path)), responses((status = 202, body = Deployment)))]
pub(super) async fn start(
    State(api): State<Api>,
    OfApp(row): OfApp,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<(StatusCode, Json<Deployment>)> {
    if let Some(before) = repeated(&api, &row, &headers).await? {
        return Ok((StatusCode::ACCEPTED, Json(before)));
    }
    if row.desired == Desired::Run && row.live_deployment.is_some() {
        return Err(ApiError::new(ErrorCode::Conflict, format!("{} is not stopped", row.name))
            .hint(format!("`mini restart --app {}` gives it new instances", row.name)));
    }
    again(&api, row, caller, (DeploymentKind::Start, "Start"), &headers).await
}

/// Everything of an older release, as a new one; without a number, of the one before.
#[utoipa::path(post, path = "/v1/apps/{app}/rollback", params(("app" = String, Path)), request_body = Rollback, responses((status = 202, body = Deployment)))]
pub(super) async fn rollback(
    State(api): State<Api>,
    OfApp(row): OfApp,
    caller: Caller,
    headers: HeaderMap,
    Body(wanted): Body<Rollback>,
) -> ApiResult<(StatusCode, Json<Deployment>)> {
    if let Some(before) = repeated(&api, &row, &headers).await? {
        return Ok((StatusCode::ACCEPTED, Json(before)));
    }
    let Some(live) = row.live_release else { return Err(nothing_deployed(&row.name)) };
    let target = match &wanted.release {
        Some(name) => super::releases::number(name)?,
        None => before(&api, &row, live).await?,
    };
    let id = row.id;
    let known = api.core.store.read(move |c| store::release(c, id, target)).await?;
    if known.is_none() {
        return Err(super::releases::missing(&row.name, target));
    }
    if target == live && row.live_deployment.is_some() {
        return Err(ApiError::new(ErrorCode::Conflict, format!("v{target} is live already"))
            .hint("`mini restart` gives it new instances"));
    }
    let description = format!("Rollback to v{target}");
    let new = super::deployments::New {
        kind: DeploymentKind::Rollback,
        key: super::deployments::key_of(&headers)?.map(|key| (key, description.clone().into())),
        description,
        target: Some(target),
        rebuild: wanted.rebuild,
        ..super::deployments::New::default()
    };
    let deployment = super::deployments::enqueue(&api, &row, &caller, new).await?;
    Ok((StatusCode::ACCEPTED, Json(deployment)))
}

/// The newest release below `live` that ever was live.
async fn before(api: &Api, row: &AppRow, live: u32) -> ApiResult<u32> {
    let id = row.id;
    let found = api.core.store.read(move |c| {
        for release in store::releases(c, id, u32::MAX)? {
            if release.number < live
                && store::deployment(c, &release.deployment)?
                    .is_some_and(|d| d.status == DeploymentStatus::Live)
            {
                return Ok(Some(release.number));
            }
        }
        Ok(None)
    });
    found.await?.ok_or_else(|| {
        ApiError::new(ErrorCode::Conflict, format!("{} has no release before v{live}", row.name))
            .hint("`mini releases` lists them")
    })
}

/// The deployment that the same request made whose answer was lost: what it asks for now may not
/// be what it asked for then.
async fn repeated(api: &Api, row: &AppRow, headers: &HeaderMap) -> ApiResult<Option<Deployment>> {
    match super::deployments::key_of(headers)? {
        Some(key) => super::deployments::made_before(api, row, &key).await,
        None => Ok(None),
    }
}

async fn again(
    api: &Api,
    row: AppRow,
    caller: Caller,
    (kind, description): (DeploymentKind, &str),
    headers: &HeaderMap,
) -> ApiResult<(StatusCode, Json<Deployment>)> {
    if row.live_release.is_none() {
        return Err(nothing_deployed(&row.name));
    }
    let new = super::deployments::New {
        kind,
        description: description.to_owned(),
        key: super::deployments::key_of(headers)?.map(|key| (key, description.into())),
        ..super::deployments::New::default()
    };
    let deployment = super::deployments::enqueue(api, &row, &caller, new).await?;
    Ok((StatusCode::ACCEPTED, Json(deployment)))
}

/// What runs of an app.
#[utoipa::path(get, path = "/v1/apps/{app}/instances", params(("app" = String, Path)), responses((status = 200, body = Instances)))]
pub(super) async fn instances(State(api): State<Api>, OfApp(row): OfApp) -> Json<Instances> {
    let seen = api.core.world.of_app(&row.name);
    let known = seen.is_some();
    let running = seen.iter().flatten().filter(|i| i.state.is_running());
    let ids = running.map(|i| i.id.clone()).collect();
    let used = api.core.usage.of(api.core.runtime.as_ref(), ids).await;
    let shown = |i| view::instance(&api.core, &row, i, used.get(&i.id));
    Json(Instances { instances: seen.iter().flatten().map(shown).collect(), known })
}
