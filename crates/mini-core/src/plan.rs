//! What to do for one app now: `plan(intent, observed, now)`, pure.
//!
//! ```text
//!   store ──intent──┐
//!   engine ─────────┼──> plan ──> route for the proxy, actions for the driver, when to look again
//!   proxy ──────────┘
//! ```
//!
//! There is no script of a rollout and no separate path for recovery: the driver calls `plan`
//! whenever something may have changed, does what it says, and calls it again. Observation has
//! three values: known, absent, unknown. Unknown never justifies a stop or a removal.
//!
//! An instance belongs to a *rollout* (a deployment). The live rollout's instances serve, the
//! candidate's are probed until all are healthy and the rollout is committed, and all others
//! leave: out of the routes, drained, stopped, removed. A candidate that cannot run beside another
//! release waits until the live instances have made way, and they are started again if it fails.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::control::Verdict;
use crate::id::{DeploymentId, InstanceId};
use crate::name::{AppName, HostPattern, ProcessType};
use crate::ports::{Instance, InstanceState};
use crate::release::{ReleaseSpec, Timing};
use crate::route::{AppRoute, Role, Target};
use crate::time::Millis;

mod backoff;
mod candidate;
mod checks;
mod leaving;
mod making_way;
mod notes;
mod replacing;
mod routing;
#[cfg(test)]
mod simulation;
mod subject;
#[cfg(test)]
mod tests;

pub use backoff::{crash_delay_ms, start_delay_ms};
pub use checks::{Checked, Checks};
pub use notes::{Notes, StartError};
pub use subject::Subject;

/// A process without HTTP counts as up after it stayed up for this long (CONTRACTS).
pub const UP_AFTER_MS: u64 = 5_000;
/// How long a rollout may take beyond its boot timeout before it is given up: what the engine
/// and the proxy may need.
pub const ROLLOUT_SLACK_MS: u64 = 120_000;
/// How long a committed rollout may take until the user is told, whether requests reach it or not:
/// it was healthy, and one that has crashed since must not keep the next deployment waiting.
pub const ANNOUNCE_WITHIN_MS: u64 = 10_000;

/// How long an instance that was healthy may be unhealthy before another takes its place. It leaves
/// the routes at once where others serve.
pub const REPLACE_AFTER_MS: u64 = 30_000;
/// How long what makes way for a candidate may drain at most: requests are held meanwhile, and the
/// proxy holds them for 30 s.
pub const MAKE_WAY_DRAIN_MS: u64 = 10_000;

/// What should be, from the store.
#[derive(Debug, Clone)]
pub struct Intent {
    pub app: AppName,
    pub desired: Desired,
    /// What serves, or should.
    pub live: Option<Rollout>,
    /// What is on its way in.
    pub candidate: Option<Rollout>,
    /// Committed as live, and the user not told yet: the proxy must route to it first.
    pub unannounced: Option<DeploymentId>,
    /// Whether any release was ever live.
    pub released: bool,
    /// Deadlines for what leaves and belongs to neither rollout: those of the last live release.
    pub timing: Timing,
    /// Custom domains.
    pub hosts: Vec<HostPattern>,
    /// Requests are answered H80, whatever runs.
    pub maintenance: bool,
    /// The app's own error pages, by code.
    pub pages: Vec<(String, String)>,
    /// Starts of instances that the user wants replaced, by id and by when they were started.
    pub replace: BTreeMap<InstanceId, Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    Run,
    Stop,
    Destroy,
}

#[derive(Debug, Clone)]
pub struct Rollout {
    pub id: DeploymentId,
    pub release: u32,
    pub spec: Arc<ReleaseSpec>,
    /// Whether its release command has run, or it has none.
    pub prepared: bool,
}

/// What is, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The app's instances on the engine; `None` is unknown.
    pub instances: Option<&'a [Instance]>,
    pub proxy: &'a ProxyView,
    pub notes: &'a Notes,
}

/// What the proxy said about one app's targets.
#[derive(Debug, Clone, Default)]
pub struct ProxyView {
    pub connected: bool,
    /// Until a route is sent, only what the proxy's hello named as serving.
    pub health: BTreeMap<InstanceId, (Millis, Verdict)>,
    pub drained: BTreeSet<InstanceId>,
    /// The route that was last sent over this connection.
    pub sent: Option<AppRoute>,
    /// Whether requests are routed by `sent`.
    pub sent_is_applied: bool,
    /// Whether the proxy's snapshot on disk is at least as new as `sent`.
    pub sent_is_durable: bool,
}

impl ProxyView {
    /// Whether a probe of this very start of the instance passed.
    fn healthy(&self, id: &InstanceId, started: Millis) -> bool {
        self.health.get(id).is_some_and(|(at, v)| *at == started && *v == Verdict::Healthy)
    }

    fn sent_role(&self, id: &InstanceId, started: Millis) -> Option<Role> {
        let target = self.sent.as_ref()?.targets.iter().find(|t| t.instance == *id)?;
        (target.started == started).then_some(target.role)
    }

    /// Whether requests are sent to this start of the instance now.
    fn sends_to(&self, id: &InstanceId, started: Millis) -> bool {
        match &self.sent {
            Some(_) => self.sent_role(id, started) == Some(Role::Serve),
            None => self.healthy(id, started),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make and start a new instance.
    Start {
        rollout: DeploymentId,
        process: ProcessType,
        ordinal: u32,
    },
    /// Start one that exists and does not run.
    StartAgain(InstanceId),
    /// The candidate's release command went well: write that down.
    Prepared {
        rollout: DeploymentId,
        instance: InstanceId,
    },
    /// The candidate is healthy: make it live, in one transaction.
    Commit(DeploymentId),
    /// The live rollout serves: tell the user.
    Announce(DeploymentId),
    /// The candidate will not do.
    Fail {
        rollout: DeploymentId,
        why: FailedBecause,
    },
    Stop {
        instance: InstanceId,
        grace_ms: u64,
    },
    Remove(InstanceId),
    /// Nothing is left on the engine: remove the network, the images and the app itself.
    Forget,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailedBecause {
    /// It exited before it was healthy.
    Exited(InstanceId),
    /// It ran for its whole boot timeout and never was healthy.
    Unhealthy(InstanceId),
    /// The release command ended with another status than 0.
    ReleaseCommand(InstanceId),
    /// The release command did not end in its time.
    ReleaseCommandTookTooLong(InstanceId),
    /// The engine would not start it.
    CannotStart(String),
    /// Neither healthy nor failed within any reasonable time.
    TookTooLong,
}

/// What `plan` decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The app's entry in the route table; `None` leaves it as it is. While nothing is known of the
    /// engine its targets are those that were sent last.
    pub route: Option<AppRoute>,
    pub actions: Vec<Action>,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Millis>,
}

/// Decides. Never fails, and the same arguments always give the same plan.
pub fn plan(intent: &Intent, observed: Observed<'_>, now: Millis) -> Plan {
    let Some(instances) = observed.instances else {
        return without_a_look(intent, &observed, now);
    };
    // One-offs are no part of the formation, and nothing that plans it ever sees them.
    let formation = match instances.iter().any(|i| i.one_off.is_some()) {
        true => Cow::Owned(instances.iter().filter(|i| i.one_off.is_none()).cloned().collect()),
        false => Cow::Borrowed(instances),
    };
    let mut planner = Planner {
        intent,
        instances: &formation,
        proxy: observed.proxy,
        notes: observed.notes,
        now,
        staying: BTreeSet::new(),
        targets: Vec::new(),
        actions: Vec::new(),
        wake_at: None,
    };
    planner.run();
    planner.one_offs(instances);
    Plan { route: Some(planner.route()), actions: planner.actions, wake_at: planner.wake_at }
}

/// While nothing is known of the engine nothing on it is touched, but what has waited for too
/// long still ends.
fn without_a_look(intent: &Intent, observed: &Observed<'_>, now: Millis) -> Plan {
    let (notes, sent) = (observed.notes, observed.proxy.sent.as_ref());
    let (mut actions, mut wake_at) = (Vec::new(), None);
    let mut by = |deadline: Millis, action: Action| {
        if now >= deadline {
            actions.push(action);
        } else {
            wake_at = Some(deadline);
        }
    };
    if let Some(candidate) = &intent.candidate {
        let why = FailedBecause::TookTooLong;
        let fail = Action::Fail { rollout: candidate.id.clone(), why };
        by(rollout_deadline(intent, candidate, notes, now), fail);
    }
    if let Some(id) = &intent.unannounced {
        by(
            notes.unannounced_since(id).unwrap_or(now).plus(ANNOUNCE_WITHIN_MS),
            Action::Announce(id.clone()),
        );
    }
    // What the user says of the app's names and of maintenance needs no engine to be true.
    let route = sent.map(|sent| AppRoute {
        hosts: intent.hosts.clone(),
        rules: Box::new(routing::rules(intent)),
        ..sent.clone()
    });
    Plan { route: route.filter(|new| Some(new) != sent), actions, wake_at }
}

/// When a candidate has had any reasonable time.
fn rollout_deadline(intent: &Intent, candidate: &Rollout, notes: &Notes, now: Millis) -> Millis {
    let begun = notes.candidate_since(&candidate.id).unwrap_or(now);
    let timing = &candidate.spec.timing;
    let command = candidate.spec.release_command.as_ref().map_or(0, |_| timing.release_ms);
    let live = intent.live.as_ref().filter(|_| intent.makes_way());
    let way = live.map_or(0, |live| MAKE_WAY_DRAIN_MS + live.spec.timing.grace_ms);
    begun.plus(way).plus(command).plus(timing.boot_timeout_ms).plus(ROLLOUT_SLACK_MS)
}

struct Planner<'a> {
    intent: &'a Intent,
    instances: &'a [Instance],
    proxy: &'a ProxyView,
    notes: &'a Notes,
    now: Millis,
    /// Instances that hold a slot of the live or the candidate rollout.
    staying: BTreeSet<&'a InstanceId>,
    targets: Vec<Target>,
    actions: Vec<Action>,
    wake_at: Option<Millis>,
}

impl<'a> Planner<'a> {
    fn run(&mut self) {
        let intent = self.intent;
        if intent.desired == Desired::Run {
            match &intent.live {
                // It has no slots then, and leaves.
                Some(_) if intent.makes_way() => {}
                Some(live) => self.keep_running(live),
                None => {}
            }
            match &intent.candidate {
                Some(candidate) if self.must_wait(candidate) => self.wait_for(candidate),
                Some(candidate) => self.bring_in(candidate),
                None => {}
            }
            if let Some(id) = &intent.unannounced {
                let since = self.notes.unannounced_since(id).unwrap_or(self.now);
                let due = (!self.is_routed(id)).then(|| since.plus(ANNOUNCE_WITHIN_MS));
                self.at(due, Action::Announce(id.clone()));
            }
        }
        for instance in self.instances {
            if !self.staying.contains(&instance.id) {
                self.let_go(instance);
            }
        }
    }

    /// The live rollout: every slot filled, what died started again.
    fn keep_running(&mut self, live: &'a Rollout) {
        let web_wanted = live.spec.count(&ProcessType::web()) > 0;
        let web_is_up = self.instances.iter().any(|i| {
            i.rollout == live.id
                && i.process.is_web()
                && matches!(i.state, InstanceState::Running { since } if self.serves(&i.id, since))
        });
        for (process, ordinal) in slots(&live.spec) {
            match self.keeper(live, process, ordinal) {
                // The barrier: web is up before anything else is started.
                None if process.is_web() || web_is_up || !web_wanted => {
                    self.start(live, process, ordinal);
                }
                None => {}
                Some(instance) => match self.doomed(instance, live) {
                    Some(since) => self.replace(instance, since, live),
                    None => self.revive(instance, live),
                },
            }
        }
    }

    fn revive(&mut self, instance: &'a Instance, live: &Rollout) {
        if !instance.state.is_running() && self.must_wait(live) {
            return;
        }
        match instance.state {
            InstanceState::Running { since } => {
                let role = self.live_role(instance, since, live);
                self.target(instance, since, role);
            }
            InstanceState::Created => {
                self.at(
                    self.notes.start_again_at(&instance.id),
                    Action::StartAgain(instance.id.clone()),
                );
            }
            InstanceState::Exited { at, .. } => {
                let due = self.notes.restart_at(&instance.id, at);
                self.at(due, Action::StartAgain(instance.id.clone()));
            }
            InstanceState::Dead => {
                self.remove(instance);
                self.start(live, &instance.process, instance.ordinal);
            }
            InstanceState::Paused { .. } => {}
        }
    }

    /// Whether a request that comes now meets the rollout. Without a proxy nobody can wait for it.
    fn is_routed(&self, rollout: &DeploymentId) -> bool {
        let mut web = self.instances.iter().filter(|i| i.rollout == *rollout && i.process.is_web());
        let serves = |i: &Instance| {
            let route = self.proxy.sent.iter().flat_map(|r| &r.targets);
            route.clone().any(|t| t.instance == i.id && t.role == Role::Serve)
        };
        !self.proxy.connected
            || web.clone().next().is_none()
            || (self.proxy.sent_is_applied && web.any(serves))
    }

    /// The instance that holds a slot: of several (a reply was lost) the best one.
    fn keeper(
        &mut self,
        rollout: &Rollout,
        process: &ProcessType,
        ordinal: u32,
    ) -> Option<&'a Instance> {
        let rank = |i: &Instance| match i.state {
            InstanceState::Running { since } => {
                let doomed = self.doomed(i, rollout).is_some();
                // What gets requests keeps them: another may look well and be on its way out.
                match (self.proxy.sends_to(&i.id, since), self.has_come_up(i, since)) {
                    (true, _) if !doomed => 0,
                    (false, true) if !doomed => 1,
                    (true, _) => 2,
                    (false, true) => 3,
                    (false, false) if doomed => 4,
                    (false, false) => 5,
                }
            }
            InstanceState::Paused { .. } => 6,
            InstanceState::Created => 7,
            InstanceState::Exited { .. } => 8,
            InstanceState::Dead => 9,
        };
        let in_slot = self
            .instances
            .iter()
            .filter(|i| i.rollout == rollout.id && i.process == *process && i.ordinal == ordinal);
        // One that is being stopped already cannot be kept.
        let keeper = in_slot
            .filter(|i| !self.notes.is_stopping(&i.id))
            .min_by_key(|i| (rank(i), i.id.clone()))?;
        self.staying.insert(&keeper.id);
        Some(keeper)
    }

    /// Whether requests may go to this start of the instance: a probe passed, or they go already.
    fn serves(&self, id: &InstanceId, since: Millis) -> bool {
        self.proxy.healthy(id, since) || self.proxy.sent_role(id, since) == Some(Role::Serve)
    }

    fn start(&mut self, rollout: &Rollout, process: &ProcessType, ordinal: u32) {
        if self.must_wait(rollout) {
            return;
        }
        let due = self.notes.start_at(rollout, process, ordinal);
        let action =
            Action::Start { rollout: rollout.id.clone(), process: process.clone(), ordinal };
        self.at(due, action);
    }

    /// Does `action` if `due` has come, else looks again then.
    fn at(&mut self, due: Option<Millis>, action: Action) {
        match due {
            Some(due) if due > self.now => self.wake(due),
            _ => self.actions.push(action),
        }
    }

    fn wake(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |w| w.min(at)));
    }

    fn fail(&mut self, candidate: &Rollout, why: FailedBecause) {
        self.actions.push(Action::Fail { rollout: candidate.id.clone(), why });
    }
}

/// Every slot of a release, web first.
fn slots(spec: &ReleaseSpec) -> impl Iterator<Item = (&ProcessType, u32)> {
    let web_first = spec.processes.iter().filter(|(p, _)| p.is_web());
    let others = spec.processes.iter().filter(|(p, _)| !p.is_web());
    web_first.chain(others).flat_map(|(process, p)| (1..=p.count).map(move |n| (process, n)))
}
