//! The candidate: brought up, judged, committed or failed.

use super::{Action, FailedBecause, Planner, Rollout, UP_AFTER_MS, rollout_deadline, slots};
use crate::name::ProcessType;
use crate::ports::{Instance, InstanceState};
use crate::route::Role;

impl<'a> Planner<'a> {
    /// The candidate: its gate (web, or everything where there is no web) must come up.
    pub(super) fn bring_in(&mut self, candidate: &'a Rollout) {
        if !candidate.prepared && candidate.spec.release_command.is_some() {
            return self.prepare(candidate);
        }
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
        self.wait_for(candidate);
    }

    /// The release command: an instance of its own that must end with status 0.
    fn prepare(&mut self, candidate: &'a Rollout) {
        let process = ProcessType::release();
        let Some(instance) = self.keeper(candidate, &process, 1) else {
            match self.notes.start_error(candidate, &process, 1) {
                Some(error) if error.fatal => {
                    let why = FailedBecause::CannotStart(error.message.clone());
                    return self.fail(candidate, why);
                }
                _ => self.start(candidate, &process, 1),
            }
            return self.wait_for(candidate);
        };
        match instance.state {
            InstanceState::Running { since } => {
                let deadline = since.plus(candidate.spec.timing.release_ms);
                if self.now >= deadline {
                    let why = FailedBecause::ReleaseCommandTookTooLong(instance.id.clone());
                    return self.fail(candidate, why);
                }
                self.wake(deadline);
            }
            InstanceState::Exited { code: 0, .. } => {
                let (rollout, instance) = (candidate.id.clone(), instance.id.clone());
                return self.actions.push(Action::Prepared { rollout, instance });
            }
            InstanceState::Exited { .. } => {
                return self.fail(candidate, FailedBecause::ReleaseCommand(instance.id.clone()));
            }
            InstanceState::Dead => {
                return self.fail(candidate, FailedBecause::Exited(instance.id.clone()));
            }
            InstanceState::Created => {
                let due = self.notes.start_again_at(&instance.id);
                self.at(due, Action::StartAgain(instance.id.clone()));
            }
            InstanceState::Paused { .. } => {}
        }
        self.wait_for(candidate);
    }

    /// A candidate that is not up yet has any reasonable time.
    pub(super) fn wait_for(&mut self, candidate: &Rollout) {
        let deadline = rollout_deadline(self.intent, candidate, self.notes, self.now);
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
                return Ok(false);
            }
            if candidate.spec.health.check.is_none() || self.proxy.healthy(&instance.id, since) {
                return Ok(true);
            }
            let deadline = since.plus(candidate.spec.timing.boot_timeout_ms).max(up_at);
            if self.now >= deadline {
                return Err(FailedBecause::Unhealthy(instance.id.clone()));
            }
            self.wake(deadline);
            return Ok(false);
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
}
