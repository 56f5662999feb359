//! Deployments: asked for, followed, cancelled.

use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::{Extension, Json};
use mini_api::{
    Deployment, DeploymentEvent, DeploymentKind, DeploymentStatus, Deployments, ErrorCode,
    EventBody, IDEMPOTENCY_HEADER, NewDeployment, SOURCE_TYPES,
};
use mini_core::fault;
use mini_core::id::DeploymentId;
use mini_core::plan::Desired;
use mini_core::release::Strategy;
use mini_core::source::SourceDigest;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Api;
use super::audit::About;
use super::auth::Caller;
use super::body::{Json as Body, OfApp, Params};
use super::error::{ApiError, ApiResult};
use super::stream::{self, HEARTBEAT, Lines};
use super::{sources, view};
use crate::clock::{self, timestamp};
use crate::ownership;
use crate::store::{self, AppRow, DeploymentRow, StoreResult, TokenRow};
use crate::vault;

const LISTED: u32 = 15;
/// Events read from the store at once.
const PAGE: u32 = 500;

/// A deployment that is asked for.
#[derive(Default)]
pub(super) struct New {
    pub(super) kind: DeploymentKind,
    pub(super) description: String,
    pub(super) source: Option<SourceDigest>,
    pub(super) image: Option<String>,
    pub(super) rebuild: bool,
    pub(super) strategy: Option<Strategy>,
    pub(super) target: Option<u32>,
    /// The idempotency key, and what it was first used for.
    pub(super) key: Option<(String, Vec<u8>)>,
}

/// The deployment that was made with an idempotency key before.
pub(super) async fn made_before(
    api: &Api,
    app: &AppRow,
    key: &str,
) -> ApiResult<Option<Deployment>> {
    let (id, key) = (app.id, key.to_owned());
    let row = api.core.store.read(move |c| store::deployment_by_key(c, id, &key)).await?;
    Ok(row.map(|row| view::deployment(&api.core, &app.name, row)))
}

/// Puts a deployment into the queue: when this returns, it is durable.
pub(super) async fn enqueue(
    api: &Api,
    app: &AppRow,
    caller: &Caller,
    new: New,
) -> ApiResult<Deployment> {
    enqueue_with(api, app, caller, new, |_| Ok(())).await
}

/// Puts a deployment into the queue, and does `change`: both or neither.
pub(super) async fn enqueue_with(
    api: &Api,
    app: &AppRow,
    caller: &Caller,
    new: New,
    change: impl FnOnce(&rusqlite::Connection) -> StoreResult<()> + Send + 'static,
) -> ApiResult<Deployment> {
    let core = &api.core;
    let (idempotency_key, request_hash) = new.key.unzip();
    let row = DeploymentRow {
        id: DeploymentId::from_random(&vault::random_id()?[..8]),
        app: app.id,
        kind: new.kind,
        status: DeploymentStatus::Queued,
        description: new.description,
        source: new.source,
        image_name: new.image,
        rebuild: new.rebuild,
        strategy: new.strategy,
        target: new.target,
        release: None,
        cause: None,
        created_by: caller.name(),
        token: caller.token.as_ref().map(|token| token.id.clone()),
        created_at: clock::now(),
        finished_at: None,
        idempotency_key,
        request_hash,
    };
    let queued = core.store.write(move |tx| {
        if let Some(key) = &row.idempotency_key
            && let Some(before) = store::deployment_by_key(tx, row.app, key)?
        {
            return Ok(Queued::Before(before, row.request_hash));
        }
        if store::app_by_id(tx, row.app)?.is_none_or(|a| a.desired == Desired::Destroy) {
            return Ok(Queued::AppGone);
        }
        change(tx)?;
        store::enqueue(tx, &row)?;
        Ok(Queued::New(row))
    });
    let queued = queued.await?;
    fault::point("queue.stored");
    let row = match queued {
        Queued::New(row) => row,
        Queued::Before(row, hash) if row.request_hash == hash => row,
        Queued::Before(..) => {
            return Err(ApiError::new(
                ErrorCode::IdempotencyConflict,
                "this idempotency key was used for another request",
            )
            .hint("use a new key for a new request"));
        }
        Queued::AppGone => {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("{} is being destroyed", app.name),
            ));
        }
    };
    core.events_stored();
    core.queue.notify_one();
    Ok(view::deployment(core, &app.name, row))
}

enum Queued {
    New(DeploymentRow),
    Before(DeploymentRow, Option<Vec<u8>>),
    AppGone,
}

/// Deploys a source that the server has, a ready image, or the `.tar.gz` in the body.
#[utoipa::path(
    post, path = "/v1/apps/{app}/deployments", params(("app" = String, Path)),
    request_body(content((NewDeployment = "application/json"), (Vec<u8> = "application/gzip"))),
    responses((status = 202, body = Deployment))
)]
pub(super) async fn create(
    State(api): State<Api>,
    OfApp(app): OfApp,
    caller: Caller,
    request: Request,
) -> ApiResult<(StatusCode, Json<Deployment>)> {
    let key = key_of(request.headers())?;
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let is_source = kind.is_some_and(|kind| SOURCE_TYPES.contains(&kind));
    let new = if is_source {
        let source = sources::take(&api, app.id, request).await?;
        NewDeployment { source: Some(source.digest), ..NewDeployment::default() }
    } else {
        Body::<NewDeployment>::from_request(request, &api).await?.0
    };
    check(&api, &app, &caller, &new).await?;
    let hash = Sha256::digest(serde_json::to_vec(&new).unwrap_or_default()).to_vec();
    let what = new.image.as_ref().map_or("Deploy".to_owned(), |image| format!("Deploy {image}"));
    let new = New {
        kind: DeploymentKind::Deploy,
        description: new.description.filter(|d| !d.trim().is_empty()).unwrap_or(what),
        source: new.source,
        image: new.image,
        rebuild: new.rebuild,
        strategy: new.strategy,
        target: None,
        key: key.map(|key| (key, hash)),
    };
    let deployment = enqueue(&api, &app, &caller, new).await?;
    Ok((StatusCode::ACCEPTED, Json(deployment)))
}

async fn check(api: &Api, app: &AppRow, caller: &Caller, new: &NewDeployment) -> ApiResult<()> {
    match (&new.source, &new.image) {
        (Some(digest), None) => {
            let (id, wanted) = (app.id, digest.clone());
            let sent = api.core.store.read(move |c| store::source(c, id, &wanted)).await?;
            if sent.is_none() || !api.core.sources.has(digest) {
                return Err(sources::missing(digest));
            }
        }
        (None, Some(image)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
            if image.is_empty() || image.len() > 512 || !image.chars().all(plain) {
                return Err(ApiError::invalid(format!("{image:?} is no image reference"))
                    .hint("NAME, NAME:TAG or NAME@sha256:DIGEST"));
            }
            if let Some(token) = caller.token.as_ref().filter(|_| !new.rebuild) {
                early(api, token, image).await?;
            }
        }
        _ => {
            return Err(ApiError::invalid("a deployment names either a source or an image"));
        }
    }
    if new.description.as_ref().is_some_and(|d| d.len() > 1000 || d.contains('\n')) {
        return Err(ApiError::invalid("the description is one line of at most 1,000 bytes"));
    }
    Ok(())
}

/// Refuses an image that is not the token's to run, where that is known already. What is pulled, or
/// has another name by then, is judged when it is found.
async fn early(api: &Api, token: &TokenRow, name: &str) -> ApiResult<()> {
    let Ok(Some(image)) = api.core.runtime.image(name.to_owned()).await else { return Ok(()) };
    let judge = token.clone();
    match api.core.store.read(move |c| ownership::may_run(c, &judge, &image)).await? {
        true => Ok(()),
        false => {
            let (message, hint) = ownership::refusal(&token.name, name);
            Err(ApiError::new(ErrorCode::OutOfScope, message).hint(hint))
        }
    }
}

/// The request's idempotency key.
pub(super) fn key_of(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(key) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    match key.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= 200 => Ok(Some(key.to_owned())),
        _ => Err(ApiError::invalid("an idempotency key has 1 to 200 ASCII characters")),
    }
}

#[derive(Deserialize)]
pub(super) struct Count {
    n: Option<u32>,
}

/// The newest deployments of an app.
#[utoipa::path(get, path = "/v1/apps/{app}/deployments", params(("app" = String, Path), ("n" = Option<u32>, Query)), responses((status = 200, body = Deployments)))]
pub(super) async fn list(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Params(count): Params<Count>,
) -> ApiResult<Json<Deployments>> {
    let (id, n) = (app.id, count.n.unwrap_or(LISTED).min(1000));
    let rows = api.core.store.read(move |c| store::deployments(c, id, n)).await?;
    let deployments = rows.into_iter().map(|d| view::deployment(&api.core, &app.name, d)).collect();
    Ok(Json(Deployments { deployments }))
}

/// Of an app that the caller may not see, there is none.
async fn find(api: &Api, caller: &Caller, id: &str) -> ApiResult<(AppRow, DeploymentRow)> {
    let missing = || {
        ApiError::new(ErrorCode::NotFound, format!("there is no deployment {id}"))
            .hint("`mini deploys` lists them")
    };
    let wanted: DeploymentId = id.parse().map_err(|_| missing())?;
    let found = api.core.store.read(move |c| {
        let Some(d) = store::deployment(c, &wanted)? else { return Ok(None) };
        Ok(store::app_by_id(c, d.app)?.map(|app| (app, d)))
    });
    let found = found.await?.filter(|(app, _)| caller.may_see(&app.name));
    found.ok_or_else(missing)
}

/// One deployment.
#[utoipa::path(get, path = "/v1/deployments/{id}", params(("id" = String, Path)), responses((status = 200, body = Deployment)))]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Deployment>> {
    let (app, d) = find(&api, &caller, &id).await?;
    Ok(Json(view::deployment(&api.core, &app.name, d)))
}

/// Cancels a deployment that is not finished; what serves goes on.
#[utoipa::path(post, path = "/v1/deployments/{id}/cancel", params(("id" = String, Path)), responses((status = 200, body = Deployment)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<(Extension<About>, Json<Deployment>)> {
    let (app, d) = find(&api, &caller, &id).await?;
    let cancelled_before = d.status == DeploymentStatus::Cancelled;
    let (deployment, now) = (d.id.clone(), clock::now());
    let cancelled = api
        .core
        .store
        .write_from_reserve(move |tx| {
            let app = store::app_by_id(tx, d.app)?;
            if app.is_some_and(|a| a.live_deployment.as_ref() == Some(&deployment)) {
                return Ok(false);
            }
            store::finish(tx, &deployment, DeploymentStatus::Cancelled, None, now)
        })
        .await?;
    // The answer to a first try may have been lost.
    if !cancelled && !cancelled_before {
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!("deployment {id} is finished already"),
        )
        .hint("`mini deploys` says how each ended"));
    }
    fault::point("cancel.stored");
    api.core.preparing.cancel(&d.id);
    api.core.events_stored();
    api.core.queue.notify_one();
    api.core.drivers.wake(&app.name);
    if cancelled {
        api.core.logs.say(&app.name, "deploy", format!("{id} was cancelled"));
    }
    let (app, d) = find(&api, &caller, &id).await?;
    let about = About { app: Some(app.name.clone()), target: None };
    Ok((Extension(about), Json(view::deployment(&api.core, &app.name, d))))
}

#[derive(Deserialize)]
pub(super) struct Follow {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    follow: bool,
}

/// What happened in a deployment, one JSON document a line; with `follow`, to its end.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/events",
    params(("id" = String, Path), ("after" = Option<u64>, Query), ("follow" = Option<bool>, Query)),
    responses((status = 200, body = DeploymentEvent, content_type = "application/x-ndjson"))
)]
pub(super) async fn events(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<Follow>,
) -> ApiResult<Response> {
    let (_, d) = find(&api, &caller, &id).await?;
    Ok(stream::lines(move |lines| tell(api, d.id, params, lines)))
}

async fn tell(
    api: Api,
    id: DeploymentId,
    params: Follow,
    mut lines: Lines,
) -> Result<(), stream::Gone> {
    let mut stored = api.core.events.subscribe();
    let mut after = params.after;
    loop {
        stored.mark_unchanged();
        let wanted = id.clone();
        let page = api.core.store.read(move |c| store::events(c, &wanted, after, PAGE)).await;
        let Ok(page) = page else { return Ok(()) };
        let whole = page.len() < PAGE as usize;
        let mut ended = false;
        for event in page {
            after = event.number;
            ended |= matches!(&event.body, EventBody::Status { status } if status.is_final());
            lines.push(&DeploymentEvent {
                number: Some(event.number),
                at: timestamp(event.at),
                body: event.body,
            });
        }
        lines.flush().await?;
        if ended || (whole && !params.follow) {
            return Ok(());
        }
        if !whole {
            continue;
        }
        // A client that resumed behind the end, or whose app was destroyed, waits for nothing.
        if already_over(&api, &id, after).await {
            return Ok(());
        }
        match tokio::time::timeout(HEARTBEAT, stored.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                let at = timestamp(clock::now());
                lines.push(&DeploymentEvent { number: None, at, body: EventBody::Heartbeat });
                lines.flush().await?;
            }
        }
    }
}

/// Whether the deployment is finished and has no event after `after`.
async fn already_over(api: &Api, id: &DeploymentId, after: u64) -> bool {
    let id = id.clone();
    let over = api.core.store.read(move |c| {
        let finished = store::deployment(c, &id)?.is_none_or(|d| d.finished_at.is_some());
        Ok(finished && store::events(c, &id, after, 1)?.is_empty())
    });
    over.await.unwrap_or(true)
}
