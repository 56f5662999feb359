//! The steps of a rollout that are written down: prepared, live, told, failed.

use std::sync::Arc;

use mini_api::DeploymentStatus;
use mini_core::cause::Cause;
use mini_core::fault;
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::name::AppName;
use mini_core::plan::FailedBecause;

use super::cause::cause_of;
use super::{Done, release_of};
use crate::clock;
use crate::core::Core;
use crate::drivers::Handle;
use crate::release_command;
use crate::store::{self, StoreError};

/// The release command went well: it does not run again for this release.
pub(super) async fn prepared(
    core: &Arc<Core>,
    app: &AppName,
    rollout: &DeploymentId,
    instance: &InstanceId,
) -> Done {
    core.telling.told(instance).await;
    let (row, release) = release_of(core, app, rollout).await?;
    if let Some(instance) = core.world.get(instance) {
        core.pumps.finish(&instance).await;
    }
    let number = release.number;
    fault::point("prepared.begun");
    core.store.write(move |tx| store::set_prepared(tx, row.id, number)).await?;
    fault::point("prepared.done");
    core.logs.say(app, "deploy", format!("The release command of v{number} ended well"));
    core.drivers.wake(app);
    Ok(())
}

/// The commit point of a rollout: one transaction. All after it is convergence.
pub(super) async fn commit(
    core: &Core,
    app: &AppName,
    handle: &Handle,
    rollout: &DeploymentId,
) -> Done {
    let now = clock::now();
    let took = handle.notes().candidate_age_ms(rollout, now);
    let id = rollout.clone();
    fault::point("commit.begun");
    let committed =
        core.store.write_from_reserve(move |tx| store::commit_live(tx, &id, took, now)).await?;
    fault::point("commit.done");
    core.drivers.wake(app);
    if !committed {
        // Cancelled meanwhile.
        return Ok(());
    }
    core.events_stored();
    // Its first release makes it reachable by name.
    core.certs.wake();
    for instance in core.world.of_app(app).unwrap_or_default() {
        if instance.rollout == *rollout && instance.one_off.is_none() {
            core.logs.say(app, &instance.label(), "State changed from starting to up");
        }
    }
    core.logs.say(app, "deploy", format!("Healthy after {took} ms"));
    Ok(())
}

/// Requests reach the release: the deployment is done.
pub(super) async fn announce(core: &Arc<Core>, app: &AppName, rollout: &DeploymentId) -> Done {
    let (id, url, now) = (rollout.clone(), core.url(app), clock::now());
    fault::point("announce.begun");
    let told =
        core.store.write_from_reserve(move |tx| store::announce_live(tx, &id, &url, now)).await?;
    fault::point("announce.done");
    core.events_stored();
    if told {
        core.logs.say(app, "deploy", "Live");
    }
    core.queue.notify_one();
    core.drivers.wake(app);
    crate::orphans::collect_later(core);
    Ok(())
}

pub(super) async fn fail(
    core: &Core,
    app: &AppName,
    rollout: &DeploymentId,
    why: &FailedBecause,
) -> Done {
    let cause = match why {
        FailedBecause::Exited(id) | FailedBecause::Unhealthy(id) => {
            cause_of(core, app, rollout, id).await
        }
        FailedBecause::ReleaseCommand(id) => release_command::cause(core, id, None).await,
        FailedBecause::ReleaseCommandTookTooLong(id) => {
            let release = release_of(core, app, rollout).await.ok();
            let limit_ms = release.map_or(0, |(_, r)| r.spec.timing.release_ms);
            release_command::cause(core, id, Some(limit_ms)).await
        }
        FailedBecause::CannotStart(message) => Cause::new("cannot_start", message.clone())
            .hint("`minid doctor` on the server says whether the engine is well"),
        FailedBecause::TookTooLong if let Some(why) = core.world.trouble() => {
            Cause::new("engine_unavailable", format!("the engine went away: {why}"))
                .hint("`minid doctor` on the server says more; then deploy again")
        }
        FailedBecause::TookTooLong if !core.link.connected() => Cause::new(
            "proxy_away",
            "the proxy did not answer, so nobody could tell whether the app is healthy",
        )
        .hint("`minid doctor` on the server says more"),
        FailedBecause::TookTooLong => {
            Cause::new("took_too_long", "the rollout did not come to an end in time")
                .hint("`minid doctor` on the server says whether the engine is well")
        }
    };
    end_failed(core, app, rollout, cause).await?;
    Ok(())
}

/// Ends a deployment as failed, and says so everywhere.
pub(crate) async fn end_failed(
    core: &Core,
    app: &AppName,
    deployment: &DeploymentId,
    cause: Cause,
) -> Result<(), StoreError> {
    let (id, told) = (deployment.clone(), cause.clone());
    let now = clock::now();
    fault::point("fail.begun");
    let failed = core
        .store
        .write_from_reserve(move |tx| {
            store::finish(tx, &id, DeploymentStatus::Failed, Some(&cause), now)
        })
        .await?;
    fault::point("fail.done");
    core.events_stored();
    if failed {
        core.logs.say(app, "deploy", format!("Failed: {}", told.message));
    }
    core.queue.notify_one();
    core.drivers.wake(app);
    Ok(())
}
