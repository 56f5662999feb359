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
//! leave: out of the routes, drained, stopped, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::control::Verdict;
use crate::id::{DeploymentId, InstanceId};
use crate::name::{AppName, HostName, ProcessType};
use crate::ports::{Instance, InstanceState};
use crate::release::{ReleaseSpec, Timing};
use crate::route::{AppRoute, Role, Target, WebState};
use crate::time::Millis;

mod backoff;
mod notes;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use backoff::{crash_delay_ms, start_delay_ms};
pub use notes::{Notes, StartError};

/// A process without HTTP counts as up after it stayed up for this long (CONTRACTS).
pub const UP_AFTER_MS: u64 = 5_000;
/// How long a rollout may take beyond its boot timeout before it is given up: what the engine
/// and the proxy may need.
pub const ROLLOUT_SLACK_MS: u64 = 120_000;
/// How long a committed rollout may take until the user is told, whether requests reach it or not:
/// it was healthy, and one that has crashed since must not keep the next deployment waiting.
pub const ANNOUNCE_WITHIN_MS: u64 = 10_000;

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
    pub hosts: Vec<HostName>,
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
    /// The engine would not start it.
    CannotStart(String),
    /// Neither healthy nor failed within any reasonable time.
    TookTooLong,
}

/// What `plan` decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The app's entry in the route table; `None` leaves it as it is.
    pub route: Option<AppRoute>,
    pub actions: Vec<Action>,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Millis>,
}

/// Decides. Never fails, and the same arguments always give the same plan.
pub fn plan(intent: &Intent, observed: Observed<'_>, now: Millis) -> Plan {
    let Some(instances) = observed.instances else {
        return without_a_look(intent, observed.notes, now);
    };
    let mut planner = Planner {
        intent,
        instances,
        proxy: observed.proxy,
        notes: observed.notes,
        now,
        staying: BTreeSet::new(),
        targets: Vec::new(),
        actions: Vec::new(),
        wake_at: None,
    };
    planner.run();
    Plan { route: Some(planner.route()), actions: planner.actions, wake_at: planner.wake_at }
}

/// While nothing is known of the engine nothing on it is touched, but what has waited for too
/// long still ends.
fn without_a_look(intent: &Intent, notes: &Notes, now: Millis) -> Plan {
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
        by(rollout_deadline(candidate, notes, now), fail);
    }
    if let Some(id) = &intent.unannounced {
        by(
            notes.unannounced_since(id).unwrap_or(now).plus(ANNOUNCE_WITHIN_MS),
            Action::Announce(id.clone()),
        );
    }
    Plan { route: None, actions, wake_at }
}

/// When a candidate has had any reasonable time.
fn rollout_deadline(candidate: &Rollout, notes: &Notes, now: Millis) -> Millis {
    let begun = notes.candidate_since(&candidate.id).unwrap_or(now);
    begun.plus(candidate.spec.timing.boot_timeout_ms).plus(ROLLOUT_SLACK_MS)
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
            if let Some(live) = &intent.live {
                self.keep_running(live);
            }
            if let Some(candidate) = &intent.candidate {
                self.bring_in(candidate);
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
        if intent.desired == Desired::Destroy && self.instances.is_empty() {
            self.actions.push(Action::Forget);
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
                Some(instance) => self.revive(instance, live),
            }
        }
    }

    fn revive(&mut self, instance: &'a Instance, live: &Rollout) {
        match instance.state {
            InstanceState::Running { since } => {
                let role = if self.serves(&instance.id, since) { Role::Serve } else { Role::Probe };
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

    /// The candidate: its gate (web, or everything where there is no web) must come up.
    fn bring_in(&mut self, candidate: &'a Rollout) {
        let web = ProcessType::web();
        let gated_by_web = candidate.spec.count(&web) > 0;
        let mut all_up = true;
        for (process, ordinal) in slots(&candidate.spec) {
            if gated_by_web && !process.is_web() {
                continue;
            }
            let up = match self.keeper(candidate, process, ordinal) {
                Some(instance) => match self.is_up(candidate, instance) {
                    Ok(up) => up,
                    Err(why) => return self.fail(candidate, why),
                },
                None => match self.notes.start_error(candidate, process, ordinal) {
                    Some(error) if error.fatal => {
                        let why = FailedBecause::CannotStart(error.message.clone());
                        return self.fail(candidate, why);
                    }
                    _ => {
                        self.start(candidate, process, ordinal);
                        false
                    }
                },
            };
            all_up &= up;
        }
        if all_up {
            return self.actions.push(Action::Commit(candidate.id.clone()));
        }
        let deadline = rollout_deadline(candidate, self.notes, self.now);
        if self.now >= deadline {
            let why = match self.notes.any_start_error(candidate) {
                Some(error) => FailedBecause::CannotStart(error.message.clone()),
                None => FailedBecause::TookTooLong,
            };
            self.fail(candidate, why);
        } else {
            self.wake(deadline);
        }
    }

    /// Whether a candidate's instance is up; `Err` when it never will be.
    fn is_up(
        &mut self,
        candidate: &Rollout,
        instance: &'a Instance,
    ) -> Result<bool, FailedBecause> {
        let since = match instance.state {
            InstanceState::Running { since } => since,
            InstanceState::Exited { .. } | InstanceState::Dead => {
                return Err(FailedBecause::Exited(instance.id.clone()));
            }
            InstanceState::Created => {
                let due = self.notes.start_again_at(&instance.id);
                self.at(due, Action::StartAgain(instance.id.clone()));
                return Ok(false);
            }
            InstanceState::Paused { .. } => return Ok(false),
        };
        if !instance.process.is_web() {
            let up_at = since.plus(UP_AFTER_MS);
            if self.now < up_at {
                self.wake(up_at);
            }
            return Ok(self.now >= up_at);
        }
        self.target(instance, since, Role::Probe);
        if self.proxy.healthy(&instance.id, since) {
            return Ok(true);
        }
        let deadline = since.plus(candidate.spec.timing.boot_timeout_ms);
        if self.now < deadline {
            self.wake(deadline);
            Ok(false)
        } else if self.proxy.connected {
            Err(FailedBecause::Unhealthy(instance.id.clone()))
        } else {
            // Nobody can tell; the rollout's own deadline still holds.
            Ok(false)
        }
    }

    /// An instance with no slot: out of the routes, drained, stopped, removed.
    fn let_go(&mut self, instance: &'a Instance) {
        let started = match instance.state {
            InstanceState::Running { since } => since,
            InstanceState::Paused { since } => since,
            _ => return self.remove(instance),
        };
        let timing = self.leaving_timing(instance);
        let stop = Action::Stop { instance: instance.id.clone(), grace_ms: timing.grace_ms };
        if !instance.process.is_web() || instance.address.is_none() {
            return self.unless_stopping(instance, stop);
        }
        if self.stands_in(instance, started) {
            return self.target(instance, started, Role::Serve);
        }
        let drained = self.proxy.drained.contains(&instance.id);
        let deadline = self.notes.draining_since(&instance.id).map(|at| at.plus(timing.drain_ms));
        let over = deadline.is_some_and(|at| self.now >= at);
        // Past its time and still busy: leaving the table cuts what is left.
        let role = if over && !drained { None } else { Some(Role::Drain) };
        if let Some(role) = role {
            self.target(instance, started, role);
        }
        let told = self.proxy.sent.is_some()
            && self.proxy.sent_role(&instance.id, started) == role
            && self.proxy.sent_is_durable;
        if told && (drained || over) {
            return self.unless_stopping(instance, stop);
        }
        if let (Some(at), false) = (deadline, over) {
            self.wake(at);
        }
        // Without a proxy nothing is known of requests. A user who stops or destroys the app
        // waits for no longer than the drain time all the same.
        if !self.proxy.connected
            && self.intent.desired != Desired::Run
            && let Some(since) = self.notes.leaving_since(&instance.id)
            && !self.notes.is_stopping(&instance.id)
        {
            self.at(Some(since.plus(timing.drain_ms)), stop);
        }
    }

    /// Whether an instance with no slot goes on serving, since nothing of the live rollout does:
    /// the proxy may have started from an older table, or the one that was healthy at the
    /// commit is gone since.
    fn stands_in(&self, instance: &Instance, started: Millis) -> bool {
        let live = self.intent.live.as_ref().filter(|_| self.intent.desired == Desired::Run);
        live.is_some_and(|l| l.spec.count(&ProcessType::web()) > 0)
            && instance.state.is_running()
            && !self.notes.is_stopping(&instance.id)
            && !self.live_serves()
            && self.proxy.sends_to(&instance.id, started)
    }

    fn live_serves(&self) -> bool {
        self.targets.iter().any(|t| t.role == Role::Serve && self.staying.contains(&t.instance))
    }

    fn leaving_timing(&self, instance: &Instance) -> &'a Timing {
        let mut known = self.intent.live.iter().chain(&self.intent.candidate);
        let own = known.find(|r| r.id == instance.rollout);
        own.map_or(&self.intent.timing, |r| &r.spec.timing)
    }

    fn unless_stopping(&mut self, instance: &Instance, stop: Action) {
        if !self.notes.is_stopping(&instance.id) {
            self.actions.push(stop);
        }
    }

    fn remove(&mut self, instance: &Instance) {
        if !self.notes.is_stopping(&instance.id) {
            self.actions.push(Action::Remove(instance.id.clone()));
        }
    }

    /// The instance that holds a slot: of several (a reply was lost) the best one.
    fn keeper(
        &mut self,
        rollout: &Rollout,
        process: &ProcessType,
        ordinal: u32,
    ) -> Option<&'a Instance> {
        let rank = |i: &Instance| match i.state {
            // What gets requests keeps them: another may look well and be on its way out.
            InstanceState::Running { since } if self.proxy.sends_to(&i.id, since) => 0,
            InstanceState::Running { since } if self.serves(&i.id, since) => 1,
            InstanceState::Running { .. } => 2,
            InstanceState::Paused { .. } => 3,
            InstanceState::Created => 4,
            InstanceState::Exited { .. } => 5,
            InstanceState::Dead => 6,
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

    fn target(&mut self, instance: &Instance, started: Millis, role: Role) {
        let (Some(address), Some(port), true) =
            (instance.address, instance.port, instance.process.is_web())
        else {
            return;
        };
        self.targets.push(Target {
            instance: instance.id.clone(),
            started,
            addr: (address, port).into(),
            process: instance.label(),
            release: instance.release,
            role,
        });
    }

    fn route(&mut self) -> AppRoute {
        let mut targets = std::mem::take(&mut self.targets);
        targets.sort_by(|a, b| a.instance.cmp(&b.instance));
        let web = if targets.iter().any(|t| t.role == Role::Serve) {
            WebState::Serving
        } else {
            self.web_state()
        };
        let probed = self.intent.candidate.as_ref().or(self.intent.live.as_ref());
        AppRoute {
            app: self.intent.app.clone(),
            hosts: self.intent.hosts.clone(),
            web,
            targets,
            health: probed.map(|r| r.spec.health.clone()).unwrap_or_default(),
        }
    }

    /// What a request meets while no target serves.
    fn web_state(&self) -> WebState {
        let intent = self.intent;
        if intent.desired != Desired::Run {
            return if intent.released { WebState::Stopped } else { WebState::NothingDeployed };
        }
        let Some(live) = &intent.live else {
            return match (intent.released, &intent.candidate) {
                (false, _) => WebState::NothingDeployed,
                (true, Some(_)) => WebState::Booting,
                (true, None) => WebState::Stopped,
            };
        };
        let web = ProcessType::web();
        if live.spec.count(&web) == 0 {
            return WebState::Stopped;
        }
        let waits = |i: &Instance| {
            matches!(i.state, InstanceState::Exited { at, .. }
                if self.notes.restart_at(&i.id, at).is_some_and(|due| due > self.now))
        };
        let mut own = self.instances.iter().filter(|i| i.rollout == live.id && i.process.is_web());
        let refused =
            (1..=live.spec.count(&web)).all(|n| self.notes.start_error(live, &web, n).is_some());
        let crashed = if own.clone().next().is_some() { own.all(waits) } else { refused };
        if crashed { WebState::Crashed } else { WebState::Booting }
    }
}

/// Every slot of a release, web first.
fn slots(spec: &ReleaseSpec) -> impl Iterator<Item = (&ProcessType, u32)> {
    let web_first = spec.processes.iter().filter(|(p, _)| p.is_web());
    let others = spec.processes.iter().filter(|(p, _)| !p.is_web());
    web_first.chain(others).flat_map(|(process, p)| (1..=p.count).map(move |n| (process, n)))
}
