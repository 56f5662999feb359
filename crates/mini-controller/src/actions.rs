//! Doing what a plan says. Every action may be done again, and finding it done is done.

mod cause;
mod rollout;
mod start;

use std::sync::Arc;

use mini_core::fault;
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::name::AppName;
use mini_core::plan::{Action, Desired};
use mini_core::ports::RuntimeError;

pub(crate) use cause::log_tail;
pub(crate) use rollout::end_failed;
use rollout::{announce, commit, fail, prepared};
pub(crate) use start::{at_free_address, environment, make_volume};
use start::{start, start_again};

use crate::clock;
use crate::core::Core;
use crate::drivers::Handle;
use crate::store::{self, AppRow, ReleaseRow, StoreError};
use crate::vault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Said in the log; the next plan tries again.
    Failed,
    AppForgotten,
}

pub(crate) async fn perform(
    core: &Arc<Core>,
    app: &AppName,
    handle: &Handle,
    action: &Action,
) -> Outcome {
    let done = match action {
        Action::Start { rollout, process, ordinal } => {
            let started = start(core, app, handle, (rollout, process, *ordinal)).await;
            if let Err(problem) = &started {
                let (message, fatal) = (problem.to_string(), problem.is_fatal());
                let now = clock::now();
                handle.notes().start_failed(rollout, process, *ordinal, (&message, fatal), now);
                let told = format!("{process}.{ordinal} did not start: {message}");
                // Once, and not at each try.
                if handle.is_news(Some(&told)) {
                    core.logs.say(app, "deploy", told);
                }
            } else {
                handle.notes().start_worked(rollout, process, *ordinal);
                handle.is_news(None);
            }
            started
        }
        Action::StartAgain(id) => start_again(core, app, handle, id).await,
        Action::Prepared { rollout, instance } => prepared(core, app, rollout, instance).await,
        Action::Commit(rollout) => commit(core, app, handle, rollout).await,
        Action::Announce(rollout) => announce(core, app, rollout).await,
        Action::Fail { rollout, why } => fail(core, app, rollout, why).await,
        Action::Stop { instance, grace_ms } => stop(core, instance, *grace_ms).await,
        Action::Remove(id) => remove(core, id).await,
        Action::Forget => match forget(core, app).await {
            Ok(()) => return Outcome::AppForgotten,
            Err(problem) => Err(problem),
        },
    };
    match done {
        Ok(()) => Outcome::Done,
        Err(problem) => {
            if let (Problem::Store(StoreError::Full(_)), Some(what)) = (&problem, waits(action)) {
                let told = format!("{what} waits: {problem}");
                if handle.is_news(Some(&told)) {
                    core.logs.say(app, "deploy", told);
                }
            }
            tracing::warn!(%app, ?action, error = %problem, "an action failed");
            Outcome::Failed
        }
    }
}

/// What of an app goes no further while nothing can be written.
fn waits(action: &Action) -> Option<&'static str> {
    match action {
        Action::Prepared { .. } | Action::Commit(_) | Action::Announce(_) => {
            Some("The new release")
        }
        Action::Fail { .. } => Some("The end of the deployment"),
        Action::Forget => Some("The end of the app"),
        _ => None,
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0}")]
    Engine(#[from] RuntimeError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Secret(#[from] vault::VaultError),
    #[error("{0}")]
    Other(String),
}

impl Problem {
    fn is_fatal(&self) -> bool {
        match self {
            Self::Engine(error) => !error.is_transient(),
            Self::Secret(_) => true,
            Self::Store(_) | Self::Other(_) => false,
        }
    }
}

type Done = Result<(), Problem>;

async fn release_of(
    core: &Core,
    app: &AppName,
    rollout: &DeploymentId,
) -> Result<(AppRow, ReleaseRow), Problem> {
    let (name, id) = (app.clone(), rollout.clone());
    let found = core.store.read(move |c| {
        let Some(app) = store::app_by_name(c, &name)? else { return Ok(None) };
        let Some(number) = store::deployment(c, &id)?.and_then(|d| d.release) else {
            return Ok(None);
        };
        Ok(store::release(c, app.id, number)?.map(|release| (app, release)))
    });
    found.await?.ok_or_else(|| Problem::Other(format!("{app} has no rollout {rollout}")))
}

async fn stop(core: &Core, id: &InstanceId, grace_ms: u64) -> Done {
    fault::point("stop.begun");
    let stopped = core.runtime.stop(id.clone(), grace_ms).await;
    fault::point("stop.answered");
    // Also after an error: what was asked for may have happened.
    if let Ok(seen) = core.runtime.observe_one(id.clone()).await
        && let Some(app) = core.world.set_one(id, seen)
    {
        core.drivers.wake(&app);
    }
    Ok(stopped?)
}

async fn remove(core: &Core, id: &InstanceId) -> Done {
    if let Some(instance) = core.world.get(id) {
        core.pumps.finish(&instance).await;
    }
    fault::point("remove.begun");
    core.runtime.remove(id.clone()).await?;
    fault::point("remove.answered");
    core.pumps.forget(id);
    core.world.removed(id);
    core.link.prune(id);
    Ok(())
}

/// The end of an app: nothing of it runs any more.
async fn forget(core: &Arc<Core>, app: &AppName) -> Done {
    fault::point("forget.begun");
    core.runtime.remove_network(app.clone()).await?;
    fault::point("forget.network");
    // Before the name is free: the next app of that name has a log of its own.
    core.logs.remove(app).await;
    fault::point("forget.logs");
    let name = app.clone();
    core.store
        .write_from_reserve(move |tx| match store::app_by_name(tx, &name)? {
            Some(row) if row.desired == Desired::Destroy => store::delete_app(tx, row.id),
            _ => Ok(()),
        })
        .await?;
    fault::point("forget.done");
    core.events_stored();
    crate::orphans::collect_later(core);
    Ok(())
}
