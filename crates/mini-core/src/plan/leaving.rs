//! Instances with no slot: out of the routes, drained, stopped, removed.

use super::{Action, Desired, Planner};
use crate::name::ProcessType;
use crate::ports::{Instance, InstanceState};
use crate::release::Timing;
use crate::route::Role;
use crate::time::Millis;

impl<'a> Planner<'a> {
    /// An instance with no slot: out of the routes, drained, stopped, removed.
    pub(super) fn let_go(&mut self, instance: &'a Instance) {
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

    pub(super) fn remove(&mut self, instance: &Instance) {
        if !self.notes.is_stopping(&instance.id) {
            self.actions.push(Action::Remove(instance.id.clone()));
        }
    }
}
