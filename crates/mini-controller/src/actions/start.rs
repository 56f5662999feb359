//! Starting an instance: its network, its volumes, a free address, its environment.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mini_core::fault;
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::Desired;
use mini_core::ports::{
    Fut, InstanceSpec, InstanceState, NetworkSpec, RuntimeErrorKind, RuntimeResult, VolumeSpec,
};
use mini_core::release::{Limits, Mount, ReleaseSpec};

use super::{Done, Problem, release_of};
use crate::clock;
use crate::core::Core;
use crate::drivers::Handle;
use crate::gate::Urgency;
use crate::release_command;
use crate::store::{self, AppRow, ReleaseRow};
use crate::vault;

/// How long a start waits for the proxy to have forgotten the address's last holder.
const FORGETTING: Duration = Duration::from_secs(5);

pub(super) async fn start(
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

pub(super) async fn start_again(
    core: &Core,
    app: &AppName,
    handle: &Handle,
    id: &InstanceId,
) -> Done {
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
    let mut taken: Vec<IpAddr> = route.targets.iter().map(|t| t.addr.ip()).collect();
    taken.extend(instances.iter().filter_map(|i| i.address).map(IpAddr::from));
    taken.extend(handle.addresses().iter().map(|a| IpAddr::from(*a)));
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
