//! The app's entry in the route table, as the plan would have it.

use super::{Desired, Intent, Planner};
use crate::name::ProcessType;
use crate::ports::{Instance, InstanceState};
use crate::release::HealthSpec;
use crate::route::{AppRoute, Role, Target, WebState};
use crate::rules::Rules;
use crate::time::Millis;

impl Planner<'_> {
    pub(super) fn target(&mut self, instance: &Instance, started: Millis, role: Role) {
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

    pub(super) fn route(&mut self) -> AppRoute {
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
            // The check is run by the controller: the proxy knows neither images nor commands.
            health: HealthSpec {
                path: probed.and_then(|r| r.spec.health.path.clone()),
                check: None,
            },
            rules: Box::new(rules(self.intent)),
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
        // What is live makes way for what comes: requests wait for that.
        if intent.makes_way() {
            return WebState::Booting;
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

/// The rules of what serves: of the live release, and of the first one while it comes in. What the
/// app has beside its releases is laid over them.
pub(super) fn rules(intent: &Intent) -> Rules {
    let of = intent.live.as_ref().or(intent.candidate.as_ref());
    let mut rules = of.map(|rollout| rollout.spec.rules.clone()).unwrap_or_default();
    rules.maintenance = intent.maintenance;
    rules.pages = intent.pages.clone();
    rules
}
