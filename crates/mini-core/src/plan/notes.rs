//! What the driver remembers of its own doings between two plans.
//!
//! None of it is stored: a controller that starts anew begins with empty notes, and at worst
//! waits a little longer or restarts a crashed process a little sooner.

use std::collections::{BTreeMap, BTreeSet};

use super::{Intent, ProxyView, Rollout, Subject, crash_delay_ms, start_delay_ms};
use crate::control::Verdict;
use crate::id::{DeploymentId, InstanceId};
use crate::name::ProcessType;
use crate::ports::{Instance, InstanceState};
use crate::route::{AppRoute, Role};
use crate::time::Millis;

/// A process that was up for this long starts its back-off anew.
const STEADY_MS: u64 = 600_000;

#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// Since when an instance is planned to leave.
    leaving: BTreeMap<InstanceId, Millis>,
    /// Since when the proxy is known to send it no more requests.
    draining: BTreeMap<InstanceId, Millis>,
    crashes: BTreeMap<InstanceId, Crashes>,
    start_errors: BTreeMap<(DeploymentId, ProcessType, u32), StartError>,
    again_errors: BTreeMap<InstanceId, StartError>,
    candidate: Option<(DeploymentId, Millis)>,
    unannounced: Option<(DeploymentId, Millis)>,
    stopping: BTreeSet<InstanceId>,
    /// The starts under way, and the rollout of each: the engine does not show them yet.
    starting: BTreeMap<Subject, DeploymentId>,
    /// What was asked to stop since it last began to run: its exit is no crash.
    asked_to_stop: BTreeSet<InstanceId>,
    /// Starts that a probe found healthy at some time.
    proven: BTreeMap<InstanceId, Millis>,
    /// Since when a start of an instance is found unhealthy.
    unhealthy: BTreeMap<InstanceId, (Millis, Millis)>,
    /// One-offs that somebody starts or is attached to, whether they are seen yet or not.
    held: BTreeSet<InstanceId>,
}

/// The engine would not start an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    pub failures: u32,
    pub at: Millis,
    pub message: String,
    /// Trying again cannot help.
    pub fatal: bool,
}

impl StartError {
    fn next(previous: Option<&StartError>, message: &str, fatal: bool, at: Millis) -> Self {
        let failures = previous.map_or(0, |e| e.failures) + 1;
        Self { failures, at, message: message.to_owned(), fatal }
    }

    fn retry_at(&self) -> Millis {
        self.at.plus(start_delay_ms(self.failures))
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Crashes {
    count: u32,
    restarts: u32,
    running_since: Option<Millis>,
    counted_exit: Option<Millis>,
}

impl Notes {
    /// Takes in a look at the app's instances.
    pub fn saw(&mut self, instances: &[Instance]) {
        let there: BTreeSet<&InstanceId> = instances.iter().map(|i| &i.id).collect();
        self.leaving.retain(|id, _| there.contains(id));
        self.draining.retain(|id, _| there.contains(id));
        self.crashes.retain(|id, _| there.contains(id));
        self.again_errors.retain(|id, _| there.contains(id));
        self.stopping.retain(|id| there.contains(id));
        self.asked_to_stop.retain(|id| there.contains(id));
        self.proven.retain(|id, _| there.contains(id));
        self.unhealthy.retain(|id, _| there.contains(id));
        for instance in instances {
            let notes = self.crashes.entry(instance.id.clone()).or_default();
            match instance.state {
                InstanceState::Running { since } => notes.running_since = Some(since),
                InstanceState::Exited { at, .. } if notes.counted_exit == Some(at) => {}
                InstanceState::Exited { at, .. }
                    if self.asked_to_stop.contains(&instance.id)
                        && !was_ill(&self.unhealthy, &instance.id, notes.running_since) =>
                {
                    notes.counted_exit = Some(at);
                    notes.running_since = None;
                }
                InstanceState::Exited { at, .. } => {
                    let steady = notes.running_since.is_some_and(|s| at.since(s) >= STEADY_MS);
                    notes.count = if steady { 1 } else { notes.count + 1 };
                    notes.counted_exit = Some(at);
                    notes.running_since = None;
                }
                _ => {}
            }
        }
    }

    /// Takes in the route that was planned: which targets are to leave.
    pub fn planned(&mut self, route: &AppRoute, now: Millis) {
        for target in route.targets.iter().filter(|t| t.role == Role::Drain) {
            self.leaving.entry(target.instance.clone()).or_insert(now);
        }
    }

    /// Takes in what the proxy does: since when each target drains. The drain time counts from
    /// here, not from the plan: a proxy that was away meanwhile went on sending requests.
    ///
    /// Returns what had been healthy and is no longer, and what is again.
    pub fn heard(&mut self, proxy: &ProxyView, now: Millis) -> Vec<(InstanceId, Verdict)> {
        let serves_again = |id: &InstanceId| {
            let health = proxy.health.get(id);
            health.is_some_and(|(started, _)| proxy.sends_to(id, *started))
        };
        self.draining.retain(|id, _| !serves_again(id));
        let mut news = Vec::new();
        for (id, (started, verdict)) in &proxy.health {
            let was_unhealthy = self.unhealthy.get(id).is_some_and(|(known, _)| known == started);
            let was_proven = self.proven.get(id) == Some(started);
            let is_healthy = *verdict == Verdict::Healthy;
            if was_proven && is_healthy == was_unhealthy {
                news.push((id.clone(), verdict.clone()));
            }
            if is_healthy {
                self.proven.insert(id.clone(), *started);
                self.unhealthy.remove(id);
            } else if !was_unhealthy {
                self.unhealthy.insert(id.clone(), (*started, now));
            }
        }
        if proxy.sent_is_applied {
            let sent = proxy.sent.iter().flat_map(|r| &r.targets);
            for target in sent.filter(|t| t.role == Role::Drain) {
                self.draining.entry(target.instance.clone()).or_insert(now);
            }
        }
        news
    }

    /// Takes in what should be: since when it is so, and that all else is over.
    pub fn meant(&mut self, intent: &Intent, now: Millis) {
        let candidate = intent.candidate.as_ref().map(|c| &c.id);
        since(&mut self.candidate, candidate, now);
        since(&mut self.unannounced, intent.unannounced.as_ref(), now);
        let live = intent.live.as_ref().map(|l| &l.id);
        self.start_errors.retain(|(id, _, _), _| Some(id) == candidate || Some(id) == live);
    }

    pub fn start_failed(
        &mut self,
        rollout: &DeploymentId,
        process: &ProcessType,
        ordinal: u32,
        (message, fatal): (&str, bool),
        now: Millis,
    ) {
        let key = (rollout.clone(), process.clone(), ordinal);
        let error = StartError::next(self.start_errors.get(&key), message, fatal, now);
        self.start_errors.insert(key, error);
    }

    pub fn start_worked(&mut self, rollout: &DeploymentId, process: &ProcessType, ordinal: u32) {
        self.start_errors.remove(&(rollout.clone(), process.clone(), ordinal));
    }

    pub fn start_again_failed(&mut self, id: &InstanceId, message: &str, now: Millis) {
        let error = StartError::next(self.again_errors.get(id), message, false, now);
        self.again_errors.insert(id.clone(), error);
    }

    /// `crashed`: it had run before.
    pub fn started_again(&mut self, id: &InstanceId, crashed: bool) {
        self.again_errors.remove(id);
        self.asked_to_stop.remove(id);
        self.crashes.entry(id.clone()).or_default().restarts += u32::from(crashed);
    }

    pub fn start_begun(&mut self, subject: Subject, rollout: DeploymentId) {
        self.starting.insert(subject, rollout);
    }

    /// The start is over, done or not.
    pub fn start_ended(&mut self, subject: &Subject) {
        self.starting.remove(subject);
    }

    /// What was under way broke off.
    pub fn nothing_under_way(&mut self) {
        self.starting.clear();
        self.stopping.clear();
    }

    /// The rollouts that something is being started of.
    pub(super) fn starting(&self) -> impl Iterator<Item = &DeploymentId> {
        self.starting.values()
    }

    pub fn stop_begun(&mut self, id: &InstanceId) {
        self.stopping.insert(id.clone());
        self.asked_to_stop.insert(id.clone());
    }

    /// The stop or removal is over, done or not: it may be tried again.
    pub fn stop_ended(&mut self, id: &InstanceId) {
        self.stopping.remove(id);
    }

    pub fn is_stopping(&self, id: &InstanceId) -> bool {
        self.stopping.contains(id)
    }

    /// Whether its exit, if it has exited, is ours.
    pub fn was_asked_to_stop(&self, id: &InstanceId) -> bool {
        self.asked_to_stop.contains(id)
    }

    /// Whether this start of an instance was healthy at some time.
    pub fn is_proven(&self, id: &InstanceId, started: Millis) -> bool {
        self.proven.get(id) == Some(&started)
    }

    /// Since when this start of an instance is found unhealthy.
    pub(super) fn unhealthy_since(&self, id: &InstanceId, started: Millis) -> Option<Millis> {
        self.unhealthy.get(id).filter(|(start, _)| *start == started).map(|(_, at)| *at)
    }

    /// From before the one-off is made until nobody is attached to it any more.
    pub fn hold_begun(&mut self, id: &InstanceId) {
        self.held.insert(id.clone());
    }

    pub fn hold_ended(&mut self, id: &InstanceId) {
        self.held.remove(id);
    }

    pub fn is_held(&self, id: &InstanceId) -> bool {
        self.held.contains(id)
    }

    /// How many one-offs are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How often it was started again after an exit.
    pub fn restarts(&self, id: &InstanceId) -> u32 {
        self.crashes.get(id).map_or(0, |c| c.restarts)
    }

    pub(super) fn leaving_since(&self, id: &InstanceId) -> Option<Millis> {
        self.leaving.get(id).copied()
    }

    pub(super) fn draining_since(&self, id: &InstanceId) -> Option<Millis> {
        self.draining.get(id).copied()
    }

    /// When an instance that exited at `at` is due again.
    pub(super) fn restart_at(&self, id: &InstanceId, at: Millis) -> Option<Millis> {
        let count = self.crashes.get(id).map_or(1, |c| c.count);
        let due = at.plus(crash_delay_ms(count));
        Some(self.start_again_at(id).map_or(due, |again| again.max(due)))
    }

    pub(super) fn start_again_at(&self, id: &InstanceId) -> Option<Millis> {
        self.again_errors.get(id).map(StartError::retry_at)
    }

    pub(super) fn start_at(
        &self,
        rollout: &Rollout,
        process: &ProcessType,
        ordinal: u32,
    ) -> Option<Millis> {
        self.start_error(rollout, process, ordinal).map(StartError::retry_at)
    }

    pub(super) fn start_error(
        &self,
        rollout: &Rollout,
        process: &ProcessType,
        ordinal: u32,
    ) -> Option<&StartError> {
        self.start_errors.get(&(rollout.id.clone(), process.clone(), ordinal))
    }

    pub(super) fn any_start_error(&self, rollout: &Rollout) -> Option<&StartError> {
        self.start_errors.iter().find(|((id, _, _), _)| *id == rollout.id).map(|(_, e)| e)
    }

    /// How long a candidate has been on its way, in milliseconds.
    pub fn candidate_age_ms(&self, id: &DeploymentId, now: Millis) -> u64 {
        self.candidate_since(id).map_or(0, |since| now.since(since))
    }

    pub(super) fn unannounced_since(&self, id: &DeploymentId) -> Option<Millis> {
        self.unannounced.as_ref().filter(|(seen, _)| seen == id).map(|(_, at)| *at)
    }

    pub(super) fn candidate_since(&self, id: &DeploymentId) -> Option<Millis> {
        self.candidate.as_ref().filter(|(seen, _)| seen == id).map(|(_, at)| *at)
    }
}

/// Whether a start was found unhealthy to its end: that counts as a crash, so that one which never
/// comes up is started again later and later.
fn was_ill(
    unhealthy: &BTreeMap<InstanceId, (Millis, Millis)>,
    id: &InstanceId,
    running_since: Option<Millis>,
) -> bool {
    unhealthy.get(id).is_some_and(|(started, _)| Some(*started) == running_since)
}

/// Keeps since when `what` is so.
fn since(known: &mut Option<(DeploymentId, Millis)>, what: Option<&DeploymentId>, now: Millis) {
    if known.as_ref().map(|(id, _)| id) != what {
        *known = what.map(|id| (id.clone(), now));
    }
}
