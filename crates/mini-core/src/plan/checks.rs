//! What the image's own check says of an instance, joined to what the proxy says: an instance is
//! as healthy as the worse of the two.

use std::collections::BTreeMap;

use super::{Intent, ProxyView, Rollout};
use crate::control::Verdict;
use crate::id::InstanceId;
use crate::ports::{Instance, InstanceState};
use crate::release::CommandCheck;
use crate::time::Millis;

/// What is known of the check of one start of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub started: Millis,
    pub verdict: Verdict,
    /// Whether it ever passed.
    pub passed: bool,
}

/// What the checks that were run said.
pub type Checks = BTreeMap<InstanceId, Checked>;

impl Intent {
    fn rollout_of(&self, instance: &Instance) -> Option<&Rollout> {
        let mut known = self.live.iter().chain(&self.candidate);
        known.find(|r| r.id == instance.rollout)
    }

    /// The check of an instance, and since when it runs, if it has one and runs for a rollout.
    pub fn check_of(&self, instance: &Instance) -> Option<(&CommandCheck, Millis)> {
        let InstanceState::Running { since } = instance.state else { return None };
        // The release command and one-offs come and go, and are nobody's health.
        if instance.one_off.is_some() || instance.process.is_release() {
            return None;
        }
        Some((self.rollout_of(instance)?.spec.health.check.as_ref()?, since))
    }
}

impl ProxyView {
    /// The view with what the checks say.
    ///
    /// - What is not known to pass yet is not healthy yet, but for what gets requests already: it
    ///   did pass, before this controller began.
    /// - A process without HTTP has its check's word alone. One that never passed may be of an
    ///   image whose check asks for `web`'s port: it does not come up, but nothing is held against
    ///   it later.
    #[must_use]
    pub fn judged(mut self, intent: &Intent, instances: &[Instance], checks: &Checks) -> Self {
        // No candidate gets requests.
        let comes = |i: &Instance| intent.candidate.as_ref().is_some_and(|c| c.id == i.rollout);
        for instance in instances {
            let Some((_, since)) = intent.check_of(instance) else { continue };
            let id = &instance.id;
            let checked = checks.get(id).filter(|c| c.started == since);
            if !instance.process.is_web() {
                if let Some(c) = checked.filter(|c| c.passed) {
                    self.health.insert(id.clone(), (since, c.verdict.clone()));
                }
                continue;
            }
            if !self.healthy(id, since) {
                continue;
            }
            match checked {
                Some(Checked { verdict: Verdict::Healthy, .. }) => {}
                Some(Checked { verdict, .. }) => {
                    self.health.insert(id.clone(), (since, verdict.clone()));
                }
                None if !comes(instance) && self.sends_to(id, since) => {}
                None => drop(self.health.remove(id)),
            }
        }
        self
    }
}
