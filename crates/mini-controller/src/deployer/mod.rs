//! From "queued" to "starting": builds, pulls, and the making of releases.
//!
//! A build is a durable job with fixed steps, run again from the source's digest after a crash.
//! What comes after it, the rollout, is not here: it is the planner's and the drivers'.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mini_api::{DeploymentKind, DeploymentStatus, EventBody};
use mini_core::cause::Cause;
use mini_core::id::DeploymentId;
use mini_core::name::AppName;
use mini_core::plan::Desired;
use mini_core::ports::RuntimeError;
use tokio::task::JoinSet;

use crate::actions::end_failed;
use crate::clock;
use crate::core::Core;
use crate::store::{self, AppId, AppRow, DeploymentRow, StoreError};
use crate::vault::VaultError;

mod build;
mod context;
mod manifest;
mod output;
mod release;

/// Builds at once on this machine (CONTRACTS, "Limits").
const BUILDS: usize = 2;

/// Why a deployment came to nothing before it was rolled out.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    /// The user's matter, or the engine's: told as the deployment's cause.
    #[error("{}", .0.message)]
    Cause(Cause),
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
        Self::Cause(cause)
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
        match core.store.read(store::unfinished_deployments).await {
            Ok(waiting) => {
                for d in due(waiting, &running, &building) {
                    running.insert(d.id.clone(), d.app);
                    if builds(&d) {
                        building.insert(d.id.clone());
                    }
                    let core = core.clone();
                    tasks.spawn(async move {
                        let id = d.id.clone();
                        prepare(&core, d).await;
                        id
                    });
                }
            }
            Err(error) => tracing::error!(%error, "the queue could not be read"),
        }
        tokio::select! {
            () = core.queue.notified() => {}
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
    d.kind == DeploymentKind::Deploy && d.source.is_some()
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

async fn prepare(core: &Arc<Core>, d: DeploymentRow) {
    let app_id = d.app;
    let app = match core.store.read(move |c| store::app_by_id(c, app_id)).await {
        Ok(Some(app)) if app.desired != Desired::Destroy => app,
        Ok(_) => return,
        Err(error) => return tracing::error!(%error, "an app could not be read"),
    };
    let mut cancelled = core.cancelled.subscribe();
    let id = d.id.clone();
    let prepared = tokio::select! {
        prepared = steps(core, &app, &d) => prepared,
        // Dropping the steps cancels the build on the engine.
        _ = cancelled.wait_for(|c| c.as_ref() == Some(&id)) => Err(Stopped::Finished),
    };
    let failed = match prepared {
        Ok(()) => return core.drivers.wake(&app.name),
        Err(Stopped::Finished) => return,
        Err(Stopped::Cause(cause)) => cause,
        Err(Stopped::Store(StoreError::Full(why))) => {
            tracing::error!(%why, "a deployment could not be written down");
            Cause::new("storage_full", "the server's data folder cannot be written")
                .hint("free some space on the server and deploy again")
        }
        Err(error) => {
            tracing::error!(deployment = %d.id, %error, "a deployment failed inside the platform");
            Cause::new("internal", "the platform failed; its log says more")
        }
    };
    if let Err(error) = end_failed(core, &app.name, &d.id, failed).await {
        tracing::error!(deployment = %d.id, %error, "a failure could not be written down");
    }
}

async fn steps(core: &Arc<Core>, app: &AppRow, d: &DeploymentRow) -> Result<(), Stopped> {
    core.logs.say(&app.name, "deploy", format!("{}: {}", d.id, d.description));
    match d.kind {
        DeploymentKind::Deploy => {
            let built = build::image(core, app, d).await?;
            release::from_image(core, app, d, built).await
        }
        DeploymentKind::Config => release::with_new_env(core, app, d).await,
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
