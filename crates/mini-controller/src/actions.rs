//! Doing what a plan says. Every action may be done again, and finding it done is done.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mini_api::DeploymentStatus;
use mini_core::cause::{Cause, Findings, diagnose};
use mini_core::control::Verdict;
use mini_core::fault;
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::{Action, Desired, FailedBecause};
use mini_core::ports::{
    Fut, Instance, InstanceSpec, InstanceState, Listening, NetworkSpec, RuntimeError,
    RuntimeErrorKind, RuntimeResult, VolumeSpec,
};

use mini_core::release::{Limits, Mount, ReleaseSpec};

use crate::clock;
use crate::core::Core;
use crate::drivers::Handle;
use crate::gate::Urgency;
use crate::logs::Filter;
use crate::release_command;
use crate::store::{self, AppRow, ReleaseRow, StoreError};
use crate::vault;

/// How long a start waits for the proxy to have forgotten the address's last holder.
const FORGETTING: Duration = Duration::from_secs(5);
/// How many of the last lines go with a failure.
const TAIL: usize = 15;

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

async fn start(
    core: &Arc<Core>,
    app: &AppName,
    handle: &Handle,
    (rollout, process, ordinal): (&DeploymentId, &ProcessType, u32),
) -> Done {
    let (row, _) = release_of(core, app, rollout).await?;
    let urgency = match row.live_deployment.as_ref() == Some(rollout) {
        false => Urgency::Rollout,
        true => urgency_of(process),
    };
    let _place = core.gate.enter(urgency).await;
    // Waiting for a place may have taken long.
    let (row, release) = release_of(core, app, rollout).await?;
    if row.desired != Desired::Run {
        return Ok(());
    }
    let Some((command, limits)) = how_to_run(&release.spec, process) else {
        return Err(Problem::Other(format!("v{} has no process type {process}", release.number)));
    };
    for mount in &release.spec.volumes {
        make_volume(core, &row, mount).await?;
    }
    fault::point("start.volumes");
    let env = environment(core, &row, &release, (process, ordinal))?;
    let instance = InstanceSpec {
        id: InstanceId::from_random(&vault::random_id()?),
        app: app.clone(),
        rollout: rollout.clone(),
        release: release.number,
        process: process.clone(),
        ordinal,
        image: release.spec.image.clone(),
        command,
        env,
        // Chosen below.
        address: row.subnet.gateway(),
        port: process.is_web().then_some(release.spec.port),
        limits,
        alone: release.spec.recreates(),
        volumes: release.spec.volumes.clone(),
        one_off: None,
    };
    let id = instance.id.clone();
    let started = at_free_address(core, handle, (&row, &id), |address| {
        let spec = InstanceSpec { address, ..instance.clone() };
        Box::pin(async move {
            let started = core.runtime.start(spec).await?;
            fault::point("start.answered");
            core.world.started(None, &started);
            core.pumps.ensure(&started);
            Ok(started)
        })
    })
    .await?;
    if process.is_release() {
        release_command::tell_output(core, rollout, &started);
    }
    Ok(())
}

/// Starts something at a free address of the app's network, which is made if it is missing.
/// `start` tells the world of what it started: only until then the address is kept for it.
pub(crate) async fn at_free_address<'a, T>(
    core: &Core,
    handle: &Handle,
    (app, id): (&AppRow, &InstanceId),
    start: impl Fn(Ipv4Addr) -> Fut<'a, RuntimeResult<T>>,
) -> Result<T, Problem> {
    let network = NetworkSpec { app: app.name.clone(), subnet: app.subnet };
    let was_ready = handle.network_ready.load(Ordering::Relaxed);
    if !was_ready {
        fault::point("start.begun");
        core.runtime.ensure_network(network.clone()).await?;
        fault::point("start.network");
        handle.network_ready.store(true, Ordering::Relaxed);
    }
    let reserved = free_address(core, handle, app).await?;
    fault::point("start.address");
    let started = match start(reserved.address).await {
        // The network may have been removed behind our back.
        Err(error) if error.kind == RuntimeErrorKind::NotFound && was_ready => {
            core.runtime.ensure_network(network).await?;
            start(reserved.address).await
        }
        started => started,
    };
    if started.is_err() {
        settle(core, id).await;
    }
    Ok(started?)
}

/// After a start that failed: it may have started all the same, and the answer be lost. If that
/// cannot be found out, nothing is known until a full look.
async fn settle(core: &Core, id: &InstanceId) {
    match core.runtime.observe_one(id.clone()).await {
        Ok(seen) => {
            if let Some(app) = core.world.set_one(id, seen) {
                core.drivers.wake(&app);
            }
        }
        Err(error) => core.world.lost_sight(error.to_string()),
    }
}

/// The volume of a mount. One that was deleted since the release was made begins empty, and is
/// written down again so that it does not get lost.
pub(crate) async fn make_volume(core: &Core, app: &AppRow, mount: &Mount) -> Done {
    let (id, name, wanted) = (app.id, app.name.clone(), mount.clone());
    let known = core.store.read(move |c| store::volumes_of(c, id)).await?;
    if !known.iter().any(|v| v.engine_name == mount.engine_name) {
        let now = clock::now();
        core.store.write(move |tx| store::keep_mount(tx, (id, &name), &wanted, now)).await?;
    }
    let spec = VolumeSpec { app: app.name.clone(), engine_name: mount.engine_name.clone() };
    Ok(core.runtime.ensure_volume(spec).await?)
}

/// The words and the limits of a process type; the release command has those of `web`.
fn how_to_run(spec: &ReleaseSpec, process: &ProcessType) -> Option<(Option<Vec<String>>, Limits)> {
    if process.is_release() {
        let web = spec.processes.get(&ProcessType::web());
        let limits = web.map(|w| w.limits.clone()).unwrap_or_default();
        return spec.release_command.clone().map(|words| (Some(words), limits));
    }
    spec.processes.get(process).map(|own| (own.command.clone(), own.limits.clone()))
}

fn urgency_of(process: &ProcessType) -> Urgency {
    if process.is_web() { Urgency::Web } else { Urgency::Other }
}

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

/// The next address that no container has and that the proxy's snapshot does not name.
async fn free_address<'a>(
    core: &Core,
    handle: &'a Handle,
    app: &AppRow,
) -> Result<Reserved<'a>, Problem> {
    let unconfirmed = || {
        Problem::Other(
            "the proxy has not confirmed its route table, so no address can be given out".into(),
        )
    };
    if !core.link.durable(&app.name, FORGETTING).await {
        return Err(unconfirmed());
    }
    let Some(instances) = core.world.of_app(&app.name) else {
        return Err(Problem::Other("the engine is away".into()));
    };
    // One look for both: a route that changed since the wait may have let go of an address that
    // the snapshot still names.
    let view = core.link.view(&app.name, &[]);
    let Some(route) = view.sent.filter(|_| view.sent_is_durable) else { return Err(unconfirmed()) };
    let mut taken: Vec<std::net::IpAddr> = route.targets.iter().map(|t| t.addr.ip()).collect();
    taken.extend(instances.iter().filter_map(|i| i.address).map(std::net::IpAddr::from));
    taken.extend(handle.addresses().iter().map(|a| std::net::IpAddr::from(*a)));
    let row = app.clone();
    let address = core
        .store
        .write(move |tx| store::take_address(tx, &row, |a| taken.contains(&a.into())))
        .await?;
    let all_taken = || Problem::Other(format!("every address of {} is taken", app.subnet));
    let address = address.ok_or_else(all_taken)?;
    // Two starts at once see the same free ones only if a whole round came between them.
    if !handle.addresses().insert(address) {
        return Err(all_taken());
    }
    Ok(Reserved { address, handle })
}

/// An address that a start under way holds, until the instance itself is seen to have it.
struct Reserved<'a> {
    address: Ipv4Addr,
    handle: &'a Handle,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.handle.addresses().remove(&self.address);
    }
}

/// The whole environment of one instance: the release's, and what CONTRACTS promise.
pub(crate) fn environment(
    core: &Core,
    app: &AppRow,
    release: &ReleaseRow,
    (process, ordinal): (&ProcessType, u32),
) -> Result<Vec<(String, String)>, Problem> {
    let mut env = crate::env::of_release(&core.vault, app.id, release)?;
    if process.is_web() {
        env.insert("PORT".into(), release.spec.port.to_string());
    }
    env.insert("MINI_APP".into(), app.name.to_string());
    env.insert("MINI_RELEASE".into(), format!("v{}", release.number));
    env.insert("MINI_PROCESS".into(), format!("{process}.{ordinal}"));
    if let Some(source) = &release.source {
        env.insert("MINI_SOURCE_DIGEST".into(), source.to_string());
    }
    Ok(env.into_iter().collect())
}

async fn start_again(core: &Core, app: &AppName, handle: &Handle, id: &InstanceId) -> Done {
    let process = core.world.get(id).map(|i| i.process);
    let urgency = process.as_ref().map_or(Urgency::Other, urgency_of);
    let _place = core.gate.enter(urgency).await;
    // Waiting for a place may have taken long.
    let name = app.clone();
    let row = core.store.read(move |c| store::app_by_name(c, &name)).await?;
    if row.is_none_or(|row| row.desired != Desired::Run) {
        return Ok(());
    }
    if process.is_some_and(|process| process.is_release()) {
        // It runs once: what was seen as never started may have run to its end meanwhile.
        settle(core, id).await;
        if core.world.get(id).is_none_or(|i| i.state != InstanceState::Created) {
            return Ok(());
        }
    }
    let before = core.world.get(id).map(|i| i.state);
    fault::point("start_again.begun");
    match core.runtime.start_again(id.clone()).await {
        Ok(instance) => {
            fault::point("start_again.answered");
            let crashed = matches!(before, Some(InstanceState::Exited { .. }));
            handle.notes().started_again(id, crashed);
            core.world.started(before, &instance);
            core.pumps.ensure(&instance);
            Ok(())
        }
        Err(error) => {
            handle.notes().start_again_failed(id, &error.message, clock::now());
            settle(core, id).await;
            Err(error.into())
        }
    }
}

/// The release command went well: it does not run again for this release.
async fn prepared(
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
async fn commit(core: &Core, app: &AppName, handle: &Handle, rollout: &DeploymentId) -> Done {
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
async fn announce(core: &Arc<Core>, app: &AppName, rollout: &DeploymentId) -> Done {
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

async fn fail(core: &Core, app: &AppName, rollout: &DeploymentId, why: &FailedBecause) -> Done {
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

/// Why an instance of a rollout did not become healthy.
async fn cause_of(core: &Core, app: &AppName, rollout: &DeploymentId, id: &InstanceId) -> Cause {
    let Some(instance) = core.world.get(id) else {
        return Cause::new("vanished", "the instance was removed from the engine by somebody else");
    };
    let exited = matches!(instance.state, InstanceState::Exited { .. });
    if exited {
        core.pumps.finish(&instance).await;
    } else {
        core.logs.flush().await;
    }
    let listening = core
        .runtime
        .listening(id.clone())
        .await
        .unwrap_or_else(|error| Listening::Unknown(error.to_string()));
    let probe = match core.link.verdict(id) {
        Some(Verdict::Unhealthy { why }) => Some(why),
        _ => None,
    };
    let check = match core.checks.of(id).flatten().map(|checked| checked.verdict) {
        Some(Verdict::Unhealthy { why }) => Some(why),
        _ => None,
    };
    let release = release_of(core, app, rollout).await.ok().map(|(_, release)| release);
    let limits = release
        .as_ref()
        .and_then(|r| r.spec.processes.get(&instance.process))
        .and_then(|p| p.limits.memory_bytes);
    let waited_ms = match instance.state {
        InstanceState::Running { since } => clock::now().since(since),
        _ => 0,
    };
    let label = instance.label();
    let mut cause = diagnose(&Findings {
        instance: &label,
        state: instance.state,
        port: instance.port,
        listening: &listening,
        probe: probe.as_deref(),
        check: check.as_deref(),
        waited_ms,
        memory_bytes: limits,
    });
    cause.log_tail = log_tail(core, &instance).await;
    cause
}

pub(crate) async fn log_tail(core: &Core, instance: &Instance) -> Vec<String> {
    let reader = core.logs.reader(&instance.app);
    let filter = Filter { instance: Some(instance.id.clone()), ..Filter::default() };
    let read = tokio::task::spawn_blocking(move || {
        let end = reader.end()?;
        reader.last(TAIL, &filter, end)
    });
    let lines = read.await.ok().and_then(Result::ok).unwrap_or_default();
    lines.into_iter().map(|(_, record)| record.text).collect()
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
