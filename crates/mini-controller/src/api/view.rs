//! Rows and observations as the wire shows them.

use mini_api::{App, AppState, Deployment, Instance, InstanceState, Release, ReleaseStatus};
use mini_core::control::Verdict;
use mini_core::name::{AppName, HostPattern};
use mini_core::plan::{Checked, Desired};
use mini_core::ports;
use mini_core::time::Millis;

use crate::clock::timestamp;
use crate::core::Core;
use crate::store::{AppRow, DeploymentRow, ReleaseRow};
use crate::usage::Used;

/// What the store says of an app, for the wire.
pub(super) struct AppFacts {
    pub(super) row: AppRow,
    pub(super) live: Option<ReleaseRow>,
    pub(super) domains: Vec<HostPattern>,
    pub(super) rolling_out: bool,
    pub(super) env_staged: bool,
    /// Instances that are wanted, of all process types together.
    pub(super) wanted: u32,
}

pub(super) fn app(core: &Core, facts: AppFacts) -> App {
    let state = app_state(core, &facts);
    let AppFacts { row, live, domains, env_staged, .. } = facts;
    App {
        urls: core.urls(&row.name, &domains),
        domains,
        state,
        release: row.live_release.map(|n| format!("v{n}")),
        image: live.map(|r| r.image_name.unwrap_or_else(|| short_image(&r.spec.image))),
        created_at: timestamp(row.created_at),
        deployed_at: row.live_at.map(timestamp),
        env_staged,
        maintenance: row.maintenance,
        name: row.name,
    }
}

/// `sha256:0123456789ab…` as the engine's own client shows it.
fn short_image(id: &str) -> String {
    id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect()
}

fn app_state(core: &Core, facts: &AppFacts) -> AppState {
    let row = &facts.row;
    let instances = core.world.of_app(&row.name);
    let no_one_offs = |all: Vec<ports::Instance>| -> Vec<ports::Instance> {
        all.into_iter().filter(|i| i.one_off.is_none()).collect()
    };
    let instances = instances.map(no_one_offs);
    let none_left = instances.as_ref().is_some_and(Vec::is_empty);
    match row.desired {
        Desired::Destroy => return AppState::Destroying,
        Desired::Stop if none_left => return AppState::Stopped,
        Desired::Stop => return AppState::Stopping,
        Desired::Run => {}
    }
    let Some(live) = &row.live_deployment else {
        return match (facts.rolling_out, row.live_release) {
            (true, _) => AppState::Starting,
            (false, None) => AppState::Empty,
            (false, Some(_)) => AppState::Stopped,
        };
    };
    let Some(instances) = instances else { return AppState::Unknown };
    let own: Vec<&ports::Instance> = instances.iter().filter(|i| i.rollout == *live).collect();
    if own.is_empty() && facts.wanted == 0 {
        return AppState::Stopped;
    }
    let gate = |i: &&&ports::Instance| i.process.is_web();
    let gating: Vec<&&ports::Instance> = if own.iter().any(|i| i.process.is_web()) {
        own.iter().filter(gate).collect()
    } else {
        own.iter().collect()
    };
    if gating.iter().any(|i| i.state.is_running() && state_of(core, i) != InstanceState::Starting) {
        AppState::Running
    } else if gating.iter().any(|i| is_crashed(core, i)) {
        AppState::Crashed
    } else {
        AppState::Starting
    }
}

/// What the image's check makes of an instance that is well otherwise.
fn checked(core: &Core, instance: &ports::Instance) -> InstanceState {
    let is_web = instance.process.is_web();
    match core.checks.of(&instance.id) {
        Some(Some(Checked { verdict: Verdict::Unhealthy { .. }, passed: true, .. })) => {
            InstanceState::Unhealthy
        }
        // Of a process without HTTP a check that never passed says nothing.
        Some(Some(Checked { passed: false, .. })) if is_web => InstanceState::Starting,
        // Not checked yet, by a controller that has just started: what serves passed before.
        Some(None) if is_web && !core.link.serves(&instance.id, &instance.app) => {
            InstanceState::Starting
        }
        _ => InstanceState::Up,
    }
}

fn state_of(core: &Core, instance: &ports::Instance) -> InstanceState {
    match instance.state {
        ports::InstanceState::Running { .. } if !instance.process.is_web() => {
            checked(core, instance)
        }
        ports::InstanceState::Running { since } => match core.link.verdict(&instance.id) {
            Some(Verdict::Healthy) => checked(core, instance),
            // One that requests are sent to was healthy before.
            Some(Verdict::Unhealthy { .. }) if core.link.serves(&instance.id, &instance.app) => {
                InstanceState::Unhealthy
            }
            Some(Verdict::Unhealthy { .. }) if was_healthy(core, instance, since) => {
                InstanceState::Unhealthy
            }
            // The proxy is away: running is all that is known.
            None if !core.link.connected() => InstanceState::Up,
            _ => InstanceState::Starting,
        },
        ports::InstanceState::Created => InstanceState::Starting,
        // It has ended, and goes.
        ports::InstanceState::Exited { .. } if instance.one_off.is_some() => {
            InstanceState::Stopping
        }
        ports::InstanceState::Paused { .. } => InstanceState::Draining,
        ports::InstanceState::Exited { .. } => InstanceState::Crashed,
        ports::InstanceState::Dead => InstanceState::Stopping,
    }
}

/// Whether it has exited without being told to.
fn is_crashed(core: &Core, instance: &ports::Instance) -> bool {
    let handle = core.drivers.get(&instance.app);
    matches!(instance.state, ports::InstanceState::Exited { .. })
        && !handle.is_some_and(|h| h.notes().was_asked_to_stop(&instance.id))
}

fn was_healthy(core: &Core, instance: &ports::Instance, since: Millis) -> bool {
    let handle = core.drivers.get(&instance.app);
    handle.is_some_and(|h| h.notes().is_proven(&instance.id, since))
}

pub(super) fn instance(
    core: &Core,
    row: &AppRow,
    i: &ports::Instance,
    used: Option<&Used>,
) -> Instance {
    let handle = core.drivers.get(&row.name);
    let own_state = state_of(core, i);
    let notes = handle.as_ref().map(|h| h.notes());
    let stopping = notes.as_ref().is_some_and(|n| n.is_stopping(&i.id));
    let stopped = notes.as_ref().is_some_and(|n| n.was_asked_to_stop(&i.id));
    let leaving = row.live_deployment.as_ref().is_some_and(|live| *live != i.rollout)
        || row.desired != Desired::Run;
    let served = core.link.drains(&i.id, &i.app);
    let state = match own_state {
        _ if stopping => InstanceState::Stopping,
        InstanceState::Crashed if stopped => InstanceState::Stopped,
        _ if leaving && served => InstanceState::Draining,
        state => state,
    };
    let (since, exit_code, oom) = match i.state {
        ports::InstanceState::Running { since } | ports::InstanceState::Paused { since } => {
            (Some(since), None, false)
        }
        ports::InstanceState::Exited { code, oom, at } => {
            (Some(at), Some(code), oom && code == 137)
        }
        _ => (None, None, false),
    };
    Instance {
        id: i.id.clone(),
        name: i.label(),
        process: i.process.clone(),
        release: format!("v{}", i.release),
        state,
        since: since.map(timestamp),
        exit_code,
        out_of_memory: oom,
        restarts: notes.as_ref().map_or(0, |n| n.restarts(&i.id)),
        memory_bytes: used.map(|u| u.memory_bytes),
        cpu_percent: used.and_then(|u| u.cpu_percent),
        one_off: i.one_off.is_some(),
    }
}

pub(super) fn deployment(core: &Core, app: &AppName, d: DeploymentRow) -> Deployment {
    Deployment {
        id: d.id,
        app: app.clone(),
        kind: d.kind,
        status: d.status,
        release: d.release.map(|n| format!("v{n}")),
        created_at: timestamp(d.created_at),
        finished_at: d.finished_at.map(timestamp),
        url: core.url(app),
        cause: d.cause,
        description: d.description,
        created_by: d.created_by,
    }
}

/// `rolling_out` and `failed` are the numbers of releases whose deployment is so.
pub(super) fn release(
    row: &AppRow,
    r: ReleaseRow,
    status: Option<mini_api::DeploymentStatus>,
) -> Release {
    use mini_api::DeploymentStatus as D;
    let live = row.live_release == Some(r.number);
    let status = match status {
        _ if live => ReleaseStatus::Live,
        Some(D::Queued | D::Building | D::Starting) => ReleaseStatus::Pending,
        Some(D::Failed | D::Cancelled | D::Superseded) => ReleaseStatus::Failed,
        Some(D::Live) | None => ReleaseStatus::Past,
    };
    Release {
        name: format!("v{}", r.number),
        number: r.number,
        created_at: timestamp(r.created_at),
        description: r.description,
        image: r.image_name.unwrap_or_else(|| short_image(&r.spec.image)),
        source: r.source.map(|s| s.short().to_owned()),
        created_by: r.created_by,
        live,
        status,
    }
}
