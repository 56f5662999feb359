//! Instances with no slot: out of the routes, drained, stopped, removed. One-offs: left alone
//! while somebody wants them, then stopped and removed.

use super::{Action, Desired, MAKE_WAY_DRAIN_MS, Planner, Rollout};
use crate::name::ProcessType;
use crate::ports::{Instance, InstanceState, OneOff};
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
        if self.stands_in(instance, started) {
            return self.target(instance, started, Role::Serve);
        }
        let mut timing = self.leaving_timing(instance).clone();
        if self.intent.makes_way() {
            timing.drain_ms = timing.drain_ms.min(MAKE_WAY_DRAIN_MS);
        }
        self.leave(instance, started, &timing);
    }

    /// Out of the routes, drained, stopped.
    pub(super) fn leave(&mut self, instance: &'a Instance, started: Millis, timing: &Timing) {
        let stop = Action::Stop { instance: instance.id.clone(), grace_ms: timing.grace_ms };
        if !instance.process.is_web() || instance.address.is_none() {
            return self.unless_stopping(instance, stop);
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

    /// The one-offs among all instances; and the end of an app of which nothing is left.
    pub(super) fn one_offs(&mut self, all: &[Instance]) {
        for instance in all {
            if let Some(how) = instance.one_off {
                self.one_off(instance, how);
            }
        }
        // A one-off that is being made is seen nowhere yet.
        let nothing_left = all.is_empty() && self.notes.held() == 0;
        if self.intent.desired == Desired::Destroy && nothing_left {
            self.actions.push(Action::Forget);
        }
    }

    /// A one-off command has no slot, gets no requests and is no part of any rollout. A detached
    /// one runs until it ends by itself; an attached one, which may wait for input that will never
    /// come, no longer than somebody holds it.
    fn one_off(&mut self, instance: &Instance, how: OneOff) {
        let over = self.intent.desired == Desired::Destroy;
        let held = self.notes.is_held(&instance.id);
        match instance.state {
            InstanceState::Running { .. } | InstanceState::Paused { .. } => {
                if over || !(held || how == OneOff::Detached) {
                    let grace_ms = self.leaving_timing(instance).grace_ms;
                    let stop = Action::Stop { instance: instance.id.clone(), grace_ms };
                    self.unless_stopping(instance, stop);
                }
            }
            // It is just being started, or its exit code just being read.
            _ if held && !over => {}
            _ => self.remove(instance),
        }
    }

    /// Whether an instance with no slot goes on serving, since nothing of the live rollout does:
    /// the proxy may have started from an older table, or the one that was healthy at the
    /// commit is gone since.
    fn stands_in(&self, instance: &Instance, started: Millis) -> bool {
        let live = self.intent.live.as_ref().filter(|_| self.intent.desired == Desired::Run);
        // One of another rollout would keep what must be alone from starting.
        let in_nobodys_way =
            |l: &Rollout| instance.rollout == l.id || !(l.spec.recreates() || instance.alone);
        live.is_some_and(|l| l.spec.count(&ProcessType::web()) > 0 && in_nobodys_way(l))
            && !self.intent.makes_way()
            && instance.process.is_web()
            && instance.address.is_some()
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
