//! An instance of the live rollout that is to be replaced: unhealthy for too long, or at the
//! user's wish.
//!
//! Another is started in its slot, and takes its place once it is up. One that gets no requests
//! anyway, or must be alone, is stopped and started again instead.

use super::{Planner, REPLACE_AFTER_MS, Rollout, UP_AFTER_MS};
use crate::ports::{Instance, InstanceState};
use crate::route::Role;
use crate::time::Millis;

impl<'a> Planner<'a> {
    /// Since when the instance runs, if this start of it is to be replaced.
    pub(super) fn doomed(&self, instance: &Instance, rollout: &Rollout) -> Option<Millis> {
        let InstanceState::Running { since } = instance.state else { return None };
        let wished = self.intent.replace.get(&instance.id) == Some(&since);
        let due = self.replace_at(instance, since, rollout);
        (wished || due.is_some_and(|due| self.now >= due)).then_some(since)
    }

    /// When a live instance that is unhealthy now is given up. One that still boots has the boot
    /// timeout.
    fn replace_at(&self, instance: &Instance, since: Millis, rollout: &Rollout) -> Option<Millis> {
        let unhealthy = self.notes.unhealthy_since(&instance.id, since)?;
        match self.notes.is_proven(&instance.id, since) {
            true => Some(unhealthy.plus(REPLACE_AFTER_MS)),
            false => Some(since.plus(rollout.spec.timing.boot_timeout_ms)),
        }
    }

    /// What the proxy does with a running instance of the live rollout: one that is found unhealthy
    /// gets no requests while another serves. A lone one keeps them, since slow is better than none.
    pub(super) fn live_role(&mut self, instance: &Instance, since: Millis, live: &Rollout) -> Role {
        if let Some(due) = self.replace_at(instance, since, live)
            && due > self.now
        {
            self.wake(due);
        }
        if !self.serves(&instance.id, since) {
            return Role::Probe;
        }
        let unhealthy = self.notes.unhealthy_since(&instance.id, since).is_some();
        if unhealthy && self.another_is_well(instance, live) { Role::Probe } else { Role::Serve }
    }

    fn another_is_well(&self, instance: &Instance, live: &Rollout) -> bool {
        self.instances.iter().any(|other| {
            other.id != instance.id
                && other.rollout == live.id
                && other.process.is_web()
                && other.ordinal <= live.spec.count(&other.process)
                && !self.notes.is_stopping(&other.id)
                && matches!(other.state, InstanceState::Running { since }
                    if self.proxy.sends_to(&other.id, since) && self.proxy.healthy(&other.id, since))
        })
    }

    /// Whether a running instance is as good as one that served: a probe passed, or without HTTP
    /// it stayed up.
    pub(super) fn has_come_up(&self, instance: &Instance, since: Millis) -> bool {
        match instance.process.is_web() {
            true => self.serves(&instance.id, since),
            false => {
                self.now >= since.plus(UP_AFTER_MS)
                    && self.notes.unhealthy_since(&instance.id, since).is_none()
            }
        }
    }

    pub(super) fn replace(&mut self, instance: &'a Instance, since: Millis, live: &'a Rollout) {
        let role = self.live_role(instance, since, live);
        let idle = instance.process.is_web() && role != Role::Serve;
        if live.spec.recreates() || idle {
            // It is started again once it has exited.
            return self.leave(instance, since, &live.spec.timing);
        }
        self.target(instance, since, role);
        let mut others = self.instances.iter().filter(|i| {
            i.rollout == live.id
                && i.process == instance.process
                && i.ordinal == instance.ordinal
                && i.id != instance.id
                && i.state != InstanceState::Dead
                && !self.notes.is_stopping(&i.id)
                && self.doomed(i, live).is_none()
        });
        match others.next() {
            Some(successor) => {
                self.staying.insert(&successor.id);
                if let (InstanceState::Running { since }, false) =
                    (successor.state, successor.process.is_web())
                {
                    self.wake(since.plus(UP_AFTER_MS));
                }
                self.revive(successor, live);
            }
            None => self.start(live, &instance.process, instance.ordinal),
        }
    }
}
