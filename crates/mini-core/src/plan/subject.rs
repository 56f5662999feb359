//! What an action is about.

use super::Action;
use crate::id::{DeploymentId, InstanceId};
use crate::name::ProcessType;
use crate::ports::Instance;

/// Two actions with the same subject never run at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Slot(DeploymentId, ProcessType, u32),
    Instance(InstanceId),
    Rollout(DeploymentId),
    App,
}

impl Subject {
    /// The slot that an instance was made for.
    pub fn slot_of(instance: &Instance) -> Self {
        Self::Slot(instance.rollout.clone(), instance.process.clone(), instance.ordinal)
    }
}

impl Action {
    /// The rollout that the action starts an instance of; `look` finds one that is there.
    pub fn starts(&self, look: impl Fn(&InstanceId) -> Option<Instance>) -> Option<DeploymentId> {
        match self {
            Self::Start { rollout, .. } => Some(rollout.clone()),
            Self::StartAgain(id) => look(id).map(|i| i.rollout),
            _ => None,
        }
    }

    pub fn subject(&self) -> Subject {
        match self {
            Self::Start { rollout, process, ordinal } => {
                Subject::Slot(rollout.clone(), process.clone(), *ordinal)
            }
            Self::StartAgain(id) | Self::Remove(id) | Self::Stop { instance: id, .. } => {
                Subject::Instance(id.clone())
            }
            Self::Commit(id)
            | Self::Announce(id)
            | Self::Prepared { rollout: id, .. }
            | Self::Fail { rollout: id, .. } => Subject::Rollout(id.clone()),
            Self::Forget => Subject::App,
        }
    }
}
