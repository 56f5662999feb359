//! From "queued" to "starting": builds, pulls, and the making of releases.
//!
//! A build is a durable job with fixed steps, run again from the source's digest after a crash.
//! What comes after it, the rollout, is not here: it is the planner's and the drivers'.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mini_api::{DeploymentKind, DeploymentStatus, EventBody};
use mini_core::cause::Cause;
use mini_core::fault;
use mini_core::id::DeploymentId;
use mini_core::name::AppName;
use mini_core::plan::Desired;
use mini_core::ports::{RuntimeError, RuntimeErrorKind};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::actions::end_failed;
use crate::clock;
use crate::core::Core;
use crate::store::{self, AppId, AppRow, DeploymentRow, StoreError};
use crate::vault::VaultError;

pub(crate) use build::build_again;
pub(crate) use output::OutputSink;

mod build;
mod context;
mod http;
mod manifest;
mod output;
mod release;

/// Builds at once on this machine (CONTRACTS, "Limits").
const BUILDS: usize = 2;

/// How long a deployment waits for an engine that went away: one that restarts takes seconds, and
/// what was built is built again.
const ENGINE_PATIENCE: Duration = Duration::from_secs(120);
const ENGINE_RETRY: Duration = Duration::from_millis(500);

/// The pause after something could not be read or written, such as on a full disk.
const RETRY: Duration = Duration::from_secs(2);

/// What can be told to stop: every deployment on its way to a release.
#[derive(Default)]
pub(crate) struct Preparing {
    tokens: Mutex<HashMap<DeploymentId, CancellationToken>>,
}

impl Preparing {
    fn tokens(&self) -> MutexGuard<'_, HashMap<DeploymentId, CancellationToken>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops its build or pull, if it has one. That it is cancelled stands in the store already.
    pub(crate) fn cancel(&self, id: &DeploymentId) {
        if let Some(token) = self.tokens().get(id) {
            token.cancel();
        }
    }
}

/// Why a deployment came to nothing before it was rolled out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    /// The user's matter, or the engine's: told as the deployment's cause.
    #[error("{}", .0.message)]
    Cause(Cause),
    /// The engine does not answer; told as the cause if that lasts.
    #[error("{}", .0.message)]
    EngineAway(Cause),
    /// Finished meanwhile: cancelled, or the app was destroyed.
    #[error("it was finished meanwhile")]
    Finished,
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Secret(#[from] VaultError),
}

impl From<RuntimeError> for Stopped {
    fn from(error: RuntimeError) -> Self {
        let mut cause = Cause::new(error_code(&error), error.message);
        cause.hint = error.hint;
        match error.kind {
            RuntimeErrorKind::Unreachable => Self::EngineAway(cause),
            _ => Self::Cause(cause),
        }
    }
}

fn error_code(error: &RuntimeError) -> &'static str {
    use mini_core::ports::RuntimeErrorKind as Kind;
    match error.kind {
        Kind::Unreachable | Kind::NotPermitted => "engine_unavailable",
        Kind::NotFound => "image_not_found",
        Kind::NoSpace => "engine_disk_full",
        Kind::Failed => "build_failed",
        Kind::Invalid => "image_invalid",
        Kind::Unsupported => "unsupported",
        Kind::Conflict | Kind::Other => "engine_error",
    }
}

/// Takes deployments off the queue. Ends with the process.
pub(crate) async fn run(core: Arc<Core>) {
    let mut running: HashMap<DeploymentId, AppId> = HashMap::new();
    let mut building: HashSet<DeploymentId> = HashSet::new();
    let mut tasks: JoinSet<DeploymentId> = JoinSet::new();
    loop {
        let read = core.store.read(store::unfinished_deployments).await;
        let unread = read.is_err();
        match read {
            Ok(waiting) => {
                for d in due(waiting, &running, &building) {
                    running.insert(d.id.clone(), d.app);
                    if builds(&d) {
                        building.insert(d.id.clone());
                    }
                    let core = core.clone();
                    tasks.spawn(async move {
                        let id = d.id.clone();
                        if let Err(error) = prepare(&core, d).await {
                            // It is still in the queue, and is tried again.
                            tracing::error!(deployment = %id, %error, "a deployment is stuck");
                            tokio::time::sleep(RETRY).await;
                        }
                        id
                    });
                }
            }
            Err(error) => tracing::error!(%error, "the queue could not be read"),
        }
        tokio::select! {
            () = core.queue.notified() => {}
            () = tokio::time::sleep(RETRY), if unread => {}
            Some(done) = tasks.join_next() => match done {
                Ok(id) => {
                    running.remove(&id);
                    building.remove(&id);
                }
                Err(error) => {
                    tracing::error!(%error, "preparing a deployment broke off");
                    running.clear();
                    building.clear();
                }
            },
        }
    }
}

fn builds(d: &DeploymentRow) -> bool {
    match d.kind {
        DeploymentKind::Deploy => d.source.is_some(),
        DeploymentKind::Rollback => d.rebuild,
        _ => false,
    }
}

/// Which of the unfinished deployments may begin: one per app, two builds in all, oldest first.
fn due(
    unfinished: Vec<DeploymentRow>,
    running: &HashMap<DeploymentId, AppId>,
    building: &HashSet<DeploymentId>,
) -> Vec<DeploymentRow> {
    let mut busy: HashSet<AppId> = running.values().copied().collect();
    // What a controller before this one was building goes on before what is queued.
    let rolling = unfinished.iter().filter(|d| d.status == DeploymentStatus::Starting);
    busy.extend(rolling.map(|d| d.app));
    let mut builds_left = BUILDS.saturating_sub(building.len());
    let mut due = Vec::new();
    for status in [DeploymentStatus::Building, DeploymentStatus::Queued] {
        for d in unfinished.iter().filter(|d| d.status == status) {
            if running.contains_key(&d.id) || busy.contains(&d.app) {
                continue;
            }
            if builds(d) {
                if builds_left == 0 {
                    continue;
                }
                builds_left -= 1;
            }
            busy.insert(d.app);
            due.push(d.clone());
        }
    }
    due
}

/// Takes a deployment to its release, or to its end; fails only if the store does.
async fn prepare(core: &Arc<Core>, d: DeploymentRow) -> Result<(), StoreError> {
    let token = CancellationToken::new();
    // From here on a cancellation is heard; one that came before is found in the store.
    core.preparing.tokens().insert(d.id.clone(), token.clone());
    let prepared = tokio::select! {
        prepared = prepare_app(core, &d) => prepared,
        // Dropping the steps cancels the build on the engine.
        () = token.cancelled() => Ok(()),
    };
    core.preparing.tokens().remove(&d.id);
    prepared
}

async fn prepare_app(core: &Arc<Core>, d: &DeploymentRow) -> Result<(), StoreError> {
    let app_id = d.app;
    let app = match core.store.read(move |c| store::app_by_id(c, app_id)).await? {
        Some(app) if app.desired != Desired::Destroy => app,
        _ => return Ok(()),
    };
    let failed = match patient_steps(core, &app, d).await {
        Ok(()) => {
            core.drivers.wake(&app.name);
            return Ok(());
        }
        Err(Stopped::Finished) => return Ok(()),
        Err(Stopped::Cause(cause) | Stopped::EngineAway(cause)) => cause,
        Err(Stopped::Store(StoreError::Full(why))) => {
            tracing::error!(%why, "a deployment could not be written down");
            Cause::new("storage_full", "the server's data folder cannot be written")
                .hint("free some space on the server and deploy again")
        }
        Err(error) => {
            tracing::error!(deployment = %d.id, %error, "a deployment failed inside the platform");
            Cause::new("internal", "the platform failed; its log says more")
                .hint("deploy again; if it stays, look into the server's log")
        }
    };
    end_failed(core, &app.name, &d.id, failed).await
}

/// The steps, again from the first one if the engine went away meanwhile and is back.
async fn patient_steps(core: &Arc<Core>, app: &AppRow, d: &DeploymentRow) -> Result<(), Stopped> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match steps(core, app, d).await {
            Err(Stopped::EngineAway(_)) if begun.elapsed() < ENGINE_PATIENCE => {}
            ended => return ended,
        }
        if !std::mem::replace(&mut told, true) {
            note(core, &app.name, &d.id, "The engine does not answer: waiting for it").await?;
        }
        tokio::time::sleep(ENGINE_RETRY).await;
    }
}

async fn steps(core: &Arc<Core>, app: &AppRow, d: &DeploymentRow) -> Result<(), Stopped> {
    core.logs.say(&app.name, "deploy", format!("{}: {}", d.id, d.description));
    fault::point("queue.taken");
    match d.kind {
        DeploymentKind::Deploy => {
            let built = build::image(core, app, d).await?;
            fault::point("build.done");
            release::from_image(core, app, d, built).await
        }
        DeploymentKind::Config => release::with_new_settings(core, app, d).await,
        DeploymentKind::Restart | DeploymentKind::Start => release::again(core, app, d).await,
        DeploymentKind::Rollback => release::back(core, app, d).await,
    }
}

/// Moves a deployment on, and tells its followers.
async fn set_status(
    core: &Core,
    id: &DeploymentId,
    status: DeploymentStatus,
) -> Result<(), Stopped> {
    let (id, now) = (id.clone(), clock::now());
    let moved = core.store.write(move |tx| store::set_status(tx, &id, status, now)).await?;
    core.events_stored();
    if moved { Ok(()) } else { Err(Stopped::Finished) }
}

/// Tells followers, and the app's log, something worth knowing.
async fn note(core: &Core, app: &AppName, id: &DeploymentId, text: &str) -> Result<(), Stopped> {
    core.logs.say(app, "build", text);
    let (id, body, now) = (id.clone(), EventBody::Note { text: text.to_owned() }, clock::now());
    core.store.write(move |tx| store::add_event(tx, &id, &body, now)).await?;
    core.events_stored();
    Ok(())
}
