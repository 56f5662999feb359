//! What the driver remembers of its own doings between two plans.
//!
//! None of it is stored: a controller that starts anew begins with empty notes, and at worst
//! waits a little longer or restarts a crashed process a little sooner.

use std::collections::{BTreeMap, BTreeSet};

use super::{Intent, ProxyView, Rollout, crash_delay_ms, start_delay_ms};
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
        for instance in instances {
            let notes = self.crashes.entry(instance.id.clone()).or_default();
            match instance.state {
                InstanceState::Running { since } => notes.running_since = Some(since),
                InstanceState::Exited { at, .. } if notes.counted_exit != Some(at) => {
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
    pub fn heard(&mut self, proxy: &ProxyView, now: Millis) {
        let serves_again = |id: &InstanceId| {
            let health = proxy.health.get(id);
            health.is_some_and(|(started, _)| proxy.sends_to(id, *started))
        };
        self.draining.retain(|id, _| !serves_again(id));
        if proxy.sent_is_applied {
            let sent = proxy.sent.iter().flat_map(|r| &r.targets);
            for target in sent.filter(|t| t.role == Role::Drain) {
                self.draining.entry(target.instance.clone()).or_insert(now);
            }
        }
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
        self.crashes.entry(id.clone()).or_default().restarts += u32::from(crashed);
    }

    pub fn stop_begun(&mut self, id: &InstanceId) {
        self.stopping.insert(id.clone());
    }

    /// The stop or removal is over, done or not: it may be tried again.
    pub fn stop_ended(&mut self, id: &InstanceId) {
        self.stopping.remove(id);
    }

    pub fn is_stopping(&self, id: &InstanceId) -> bool {
        self.stopping.contains(id)
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

/// Keeps since when `what` is so.
fn since(known: &mut Option<(DeploymentId, Millis)>, what: Option<&DeploymentId>, now: Millis) {
    if known.as_ref().map(|(id, _)| id) != what {
        *known = what.map(|id| (id.clone(), now));
    }
}
