//! What holds of any plan, of situations made up at random: sensible or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::rng::Rng;
use super::store::{TIMING, spec, worker};
use crate::control::Verdict;
use crate::id::{DeploymentId, InstanceId};
use crate::name::ProcessType;
use crate::plan::{Action, Desired, Intent, Notes, Observed, Plan, ProxyView, Rollout, plan};
use crate::ports::{Instance, InstanceState, OneOff};
use crate::release::Strategy;
use crate::route::{Role, Target};
use crate::time::Millis;

const CASES: u64 = 20_000;

struct Situation {
    intent: Intent,
    instances: Option<Vec<Instance>>,
    proxy: ProxyView,
    notes: Notes,
    now: Millis,
}

fn rollout(rng: &mut Rng, number: u32) -> Rollout {
    let mut spec = spec(rng.below(3) as u32);
    let own = Arc::make_mut(&mut spec);
    if let Some(web) = own.processes.get_mut(&ProcessType::web()) {
        web.count = rng.below(4) as u32;
    }
    own.strategy = if rng.percent(20) { Strategy::Recreate } else { Strategy::Rolling };
    own.release_command = rng.percent(20).then(Vec::new);
    Rollout {
        id: format!("d{number}").parse().unwrap(),
        release: number,
        spec,
        prepared: rng.percent(50),
    }
}

fn instance(rng: &mut Rng, number: u64) -> Instance {
    let rollout = rng.between(1, 3);
    let since = Millis(rng.below(100_000));
    let process = match rng.below(10) {
        0 => ProcessType::release(),
        1 | 2 => worker(),
        _ => ProcessType::web(),
    };
    // Never of `web`; of a type that a Procfile may name too.
    let one_off = match rng.below(3) {
        _ if process.is_web() => None,
        0 => Some(OneOff::Attached),
        1 => Some(OneOff::Detached),
        _ => None,
    };
    Instance {
        id: format!("i{number}").parse().unwrap(),
        app: "blue".parse().unwrap(),
        rollout: format!("d{rollout}").parse().unwrap(),
        release: rollout as u32,
        port: process.is_web().then_some(8080),
        process,
        ordinal: rng.between(1, 3) as u32,
        one_off,
        address: rng.percent(95).then(|| [10, 210, 0, 2 + number as u8].into()),
        alone: rng.percent(15),
        state: match rng.below(10) {
            0 => InstanceState::Created,
            1 => InstanceState::Exited { code: 1, oom: rng.percent(20), at: since },
            2 => InstanceState::Dead,
            3 => InstanceState::Paused { since },
            _ => InstanceState::Running { since },
        },
    }
}

impl Situation {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let desired = match rng.below(6) {
            0 => Desired::Stop,
            1 => Desired::Destroy,
            _ => Desired::Run,
        };
        let live = rng.percent(70).then(|| rollout(rng, 1));
        let candidate = rng.percent(50).then(|| rollout(rng, 2));
        let announces = candidate.is_none() && rng.percent(30);
        let intent = Intent {
            app: "blue".parse().unwrap(),
            desired,
            unannounced: live.as_ref().filter(|_| announces).map(|l| l.id.clone()),
            released: live.is_some() || rng.percent(20),
            live,
            candidate,
            timing: TIMING,
            hosts: Vec::new(),
            maintenance: false,
            pages: Vec::new(),
            replace: BTreeMap::new(),
        };
        let there = rng.below(8);
        let instances: Vec<_> = (0..there).map(|n| instance(rng, n)).collect();
        let mut situation = Self {
            intent,
            proxy: ProxyView { connected: rng.percent(80), ..ProxyView::default() },
            notes: Notes::default(),
            now: Millis(rng.between(90_000, 110_000)),
            instances: rng.percent(95).then_some(instances),
        };
        situation.hear(rng);
        situation
    }

    /// What was said and done before.
    fn hear(&mut self, rng: &mut Rng) {
        let before = Millis(rng.between(50_000, self.now.0));
        let instances = self.instances.clone().unwrap_or_default();
        self.notes.saw(&instances);
        self.notes.meant(&self.intent, before);
        let mut targets = Vec::new();
        for i in &instances {
            let (InstanceState::Running { since } | InstanceState::Paused { since }) = i.state
            else {
                continue;
            };
            let since = if rng.percent(90) { since } else { Millis(since.0 + 1) };
            if rng.percent(50) {
                let why = "connection refused".to_owned();
                let bad = Verdict::Unhealthy { why };
                let verdict = if rng.percent(80) { Verdict::Healthy } else { bad };
                self.proxy.health.insert(i.id.clone(), (since, verdict));
            }
            if rng.percent(30) {
                self.proxy.drained.insert(i.id.clone());
            }
            if rng.percent(15) {
                self.intent.replace.insert(i.id.clone(), since);
            }
            if rng.percent(20) {
                self.notes.stop_begun(&i.id);
            }
            if let (Some(address), true) = (i.address, rng.percent(70) && i.process.is_web()) {
                let role = [Role::Probe, Role::Serve, Role::Drain][rng.below(3) as usize];
                let (process, addr) = (i.label(), (address, 8080).into());
                let (instance, release) = (i.id.clone(), i.release);
                targets.push(Target { instance, started: since, addr, process, release, role });
            }
        }
        if rng.percent(20) {
            let error = ("no space left", rng.percent(50));
            let id = format!("d{}", rng.between(1, 2)).parse().unwrap();
            self.notes.start_failed(&id, &ProcessType::web(), 1, error, before);
        }
        let planned = self.plan().route;
        if let (Some(route), true) = (planned, rng.percent(80)) {
            self.proxy.sent = Some(crate::route::AppRoute { targets, ..route });
            self.proxy.sent_is_applied = rng.percent(70);
            self.proxy.sent_is_durable = self.proxy.sent_is_applied && rng.percent(70);
        }
        let _news = self.notes.heard(&self.proxy, before);
    }

    fn plan(&self) -> Plan {
        let instances = self.instances.as_deref();
        let observed = Observed { instances, proxy: &self.proxy, notes: &self.notes };
        plan(&self.intent, observed, self.now)
    }

    fn get(&self, id: &InstanceId) -> Option<&Instance> {
        self.instances.iter().flatten().find(|i| i.id == *id)
    }

    /// Whether an instance of another rollout runs, and one of the two must be alone.
    fn beside_another(&self, id: &DeploymentId) -> bool {
        let known = self.intent.live.iter().chain(&self.intent.candidate).find(|r| r.id == *id);
        let alone = known.is_some_and(|r| r.spec.recreates());
        self.instances.iter().flatten().any(|i| {
            let runs =
                matches!(i.state, InstanceState::Running { .. } | InstanceState::Paused { .. });
            // A one-off runs beside what it looks into by the user's own wish.
            runs && i.one_off.is_none() && i.rollout != *id && (i.alone || alone)
        })
    }

    /// What is wrong with the plan.
    fn wrong(&mut self) -> Option<&'static str> {
        let decided = self.plan();
        self.notes.meant(&self.intent, self.now);
        self.notes.saw(self.instances.as_deref().unwrap_or_default());
        if let Some(route) = &decided.route {
            self.notes.planned(route, self.now);
        }
        // Only a stop for the user may come of what was just planned, and no sooner than the
        // drain time.
        if self.plan().route != decided.route || self.plan().actions != decided.actions {
            return Some("planned twice, it is not the same");
        }
        let mut subjects = BTreeSet::new();
        if !decided.actions.iter().all(|a| subjects.insert(a.subject())) {
            return Some("two actions on one subject");
        }
        let untouched = |a: &Action| matches!(a, Action::Fail { .. } | Action::Announce(_));
        if self.instances.is_none() {
            let idle = decided.route.is_none() && decided.actions.iter().all(untouched);
            return (!idle).then_some("unknown, and acted on");
        }
        if decided.wake_at.is_some_and(|at| at < self.now) {
            return Some("it wakes in the past");
        }
        let live = self.intent.live.as_ref().map(|l| &l.id);
        let targets = decided.route.iter().flat_map(|r| &r.targets);
        for target in targets.clone().filter(|t| t.role == Role::Serve) {
            let id = &target.instance;
            let since = InstanceState::Running { since: target.started };
            let own = self.get(id).filter(|i| i.state == since);
            let sent = self.proxy.sent_role(id, target.started) == Some(Role::Serve);
            match own {
                None => return Some("what does not run serves"),
                Some(_) if !sent && !self.proxy.healthy(id, target.started) => {
                    return Some("what never was healthy serves");
                }
                Some(_) if self.intent.desired != Desired::Run => {
                    return Some("something serves of an app that is stopped");
                }
                Some(i) if live != Some(&i.rollout) && self.proxy.sent.is_some() && !sent => {
                    return Some("what is not live begins to serve");
                }
                Some(_) => {}
            }
        }
        for action in &decided.actions {
            let routed = |id: &InstanceId| {
                targets.clone().any(|t| t.instance == *id && t.role != Role::Drain)
            };
            match action {
                Action::Stop { instance, .. } | Action::Remove(instance) => {
                    if routed(instance) {
                        return Some("what is stopped is in the routes");
                    }
                    let running = self.get(instance).is_some_and(|i| i.state.is_running());
                    if running && matches!(action, Action::Remove(_)) {
                        return Some("what runs is removed");
                    }
                    let served = self.proxy.sent.iter().flat_map(|r| &r.targets);
                    let told = self.proxy.sent_is_durable || !self.proxy.connected;
                    if running && served.clone().any(|t| t.instance == *instance) && !told {
                        return Some("stopped before the proxy wrote it down");
                    }
                }
                Action::Start { rollout, .. } if self.beside_another(rollout) => {
                    return Some("what must run alone starts beside another");
                }
                Action::StartAgain(id)
                    if self.get(id).is_some_and(|i| self.beside_another(&i.rollout)) =>
                {
                    return Some("what must run alone is started again beside another");
                }
                Action::StartAgain(id) if self.get(id).is_none_or(|i| i.state.is_running()) => {
                    return Some("what runs is started again");
                }
                Action::Commit(_) if self.intent.desired != Desired::Run => {
                    return Some("a commit for an app that is stopped");
                }
                _ => {}
            }
        }
        None
    }
}

#[test]
fn any_plan_is_sound() {
    for seed in 0..CASES {
        let mut situation = Situation::new(seed);
        if let Some(what) = situation.wrong() {
            let Situation { intent, instances, proxy, .. } = &situation;
            let decided = situation.plan();
            panic!("seed {seed}: {what}\n{intent:#?}\n{instances:#?}\n{proxy:#?}\n{decided:#?}");
        }
    }
}
