//! A release that cannot run beside another: what is live leaves before it starts, and the proxy
//! holds requests meanwhile. If it fails, the live release is started again.

use super::{Intent, Planner, Rollout};
use crate::id::DeploymentId;
use crate::ports::InstanceState;

impl Intent {
    /// Whether what is live leaves before the candidate starts.
    pub(super) fn makes_way(&self) -> bool {
        self.candidate
            .as_ref()
            .zip(self.live.as_ref())
            .is_some_and(|(candidate, live)| candidate.spec.recreates() || live.spec.recreates())
    }
}

impl Planner<'_> {
    /// Whether an instance of another rollout is there or about to be, that this one must not run
    /// beside. One that has exited counts: a start that a controller before this one asked for may
    /// still come through.
    pub(super) fn must_wait(&self, rollout: &Rollout) -> bool {
        let alone = rollout.spec.recreates();
        let runs_alone = |id: &DeploymentId| {
            let mut known = self.intent.live.iter().chain(&self.intent.candidate);
            known.find(|r| r.id == *id).is_none_or(|r| r.spec.recreates())
        };
        let mut others = self.instances.iter().filter(|i| i.rollout != rollout.id);
        let mut starting = self.notes.starting().filter(|id| **id != rollout.id);
        others.any(|i| (alone || i.alone) && i.state != InstanceState::Dead)
            || starting.any(|id| alone || runs_alone(id))
    }
}
