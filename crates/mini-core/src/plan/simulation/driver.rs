//! The app's driver: it plans, does what the plan says, and plans again.
//!
//! Each part of an activation and of an action that the real driver awaits is an event of its
//! own here, so that the controller can die, and the world change, between any two.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::{Event, Input};
use super::task::Task;
use super::{Sabotage, World};
use crate::control::Verdict;
use crate::id::InstanceId;
use crate::plan::{Action, Intent, Notes, Observed, Plan, ProxyView, Subject, plan};
use crate::ports::{Instance, InstanceState};
use crate::release::Strategy;
use crate::route::Role;
use crate::time::Millis;

pub(super) struct Driver {
    /// The incarnation of the app that it was made for.
    pub(super) app: u32,
    pub(super) notes: Notes,
    pub(super) under_way: BTreeSet<Subject>,
    /// How often in a row what is about a subject failed.
    pub(super) failures: BTreeMap<Subject, u32>,
    pub(super) tasks: BTreeMap<u64, Task>,
    /// Tasks that ended and were not taken in yet.
    pub(super) ended: VecDeque<Subject>,
    planning: bool,
    /// Woken while it was planning.
    woken: bool,
    timer: u64,
}

impl Driver {
    pub(super) fn new(app: u32) -> Self {
        Self {
            app,
            notes: Notes::default(),
            under_way: BTreeSet::new(),
            failures: BTreeMap::new(),
            tasks: BTreeMap::new(),
            ended: VecDeque::new(),
            planning: false,
            woken: false,
            timer: 0,
        }
    }

    pub(super) fn at_rest(&self) -> bool {
        self.tasks.is_empty() && self.ended.is_empty() && !self.planning && !self.woken
    }
}

impl World {
    pub(super) fn driver(&mut self) -> Option<&mut Driver> {
        self.controller.as_mut()?.driver.as_mut()
    }

    pub(super) fn wake(&mut self) {
        let delay = self.rng.delay(2, if self.faults { 300 } else { 2 });
        let Some(controller) = self.controller.as_mut() else { return };
        let epoch = controller.epoch;
        let Some(driver) = controller.driver.as_mut() else { return };
        if driver.planning {
            driver.woken = true;
        } else {
            driver.planning = true;
            self.after(delay, Event::Controller(epoch, Input::Load));
        }
    }

    /// The intent is read; what the world is, is read only when it has come.
    pub(super) fn load(&mut self) {
        let delay = self.rng.delay(2, if self.faults { 500 } else { 2 });
        let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) else { return };
        let own = self.driver().map(|d| d.app);
        let intent =
            self.store.intent().filter(|_| self.store.app.as_ref().map(|a| a.number) == own);
        let input = Input::Plan(intent.map(Box::new), self.now);
        self.after(delay, Event::Controller(epoch, input));
    }

    pub(super) fn timer(&mut self, number: u64) {
        if self.driver().is_some_and(|d| d.timer == number) {
            self.wake();
        }
    }

    pub(super) fn activate(&mut self, intent: Option<Intent>, read_at: u64) -> Result<(), String> {
        let Some(intent) = intent else {
            self.end_driver();
            return Ok(());
        };
        let now = Millis(self.now);
        let sabotage = self.sabotage;
        let Some(controller) = self.controller.as_mut() else { return Ok(()) };
        let Some(driver) = controller.driver.as_mut() else { return Ok(()) };
        let instances = controller.known.as_ref().map(in_order);
        let ids: Vec<InstanceId> = instances.iter().flatten().map(|i| i.id.clone()).collect();
        let mut view = controller.link.view(&ids);
        let unknown = instances.is_none();
        let instances = match sabotage {
            Some(Sabotage::UnknownIsEmpty) => Some(instances.unwrap_or_default()),
            _ => instances,
        };
        let mut intent = intent;
        spoil_intent(sabotage, &mut intent);
        spoil(sabotage, &mut view, instances.as_deref().unwrap_or_default());
        if let Some(instances) = &instances {
            driver.notes.saw(instances);
        }
        driver.notes.meant(&intent, now);
        let _news = driver.notes.heard(&view, now);
        let observed =
            Observed { instances: instances.as_deref(), proxy: &view, notes: &driver.notes };
        let mut decided = plan(&intent, observed, now);
        spoil_plan(sabotage, &intent, &mut decided);
        if let Some(route) = &decided.route {
            driver.notes.planned(route, now);
        }
        self.checks.planned(&decided, unknown)?;
        self.check_decided(&intent, &decided)?;
        if let Some(route) = &decided.route {
            self.checks.read_at = read_at;
            if self.publish(route) {
                self.wake();
            }
        }
        self.begin_all(decided);
        Ok(())
    }

    fn begin_all(&mut self, decided: Plan) {
        for action in decided.actions {
            let Some(controller) = self.controller.as_mut() else { return };
            let Some(driver) = controller.driver.as_mut() else { return };
            // An instance that is being made is seen as created before it is started.
            if let Action::StartAgain(id) = &action
                && let Some(instance) = controller.known.as_ref().and_then(|k| k.get(id))
                && driver.under_way.contains(&Subject::slot_of(instance))
            {
                continue;
            }
            // One that is being made is seen nowhere yet.
            if action == Action::Forget && !driver.under_way.is_empty() {
                continue;
            }
            if driver.under_way.insert(action.subject()) {
                self.begin(action);
            }
        }
        let now = self.now;
        let Some(controller) = self.controller.as_mut() else { return };
        let epoch = controller.epoch;
        let Some(driver) = controller.driver.as_mut() else { return };
        driver.planning = false;
        driver.timer += 1;
        let timer = driver.timer;
        if let Some(at) = decided.wake_at {
            self.at(at.0.max(now) + 1, Event::Controller(epoch, Input::Timer(timer)));
        }
        self.idle();
    }

    /// The driver waits for what comes first.
    fn idle(&mut self) {
        let Some(driver) = self.driver() else { return };
        if let Some(subject) = driver.ended.pop_front() {
            driver.under_way.remove(&subject);
            if subject == Subject::App {
                self.end_driver();
            } else {
                self.wake();
            }
        } else if std::mem::take(&mut driver.woken) {
            self.wake();
        }
    }

    /// A task ended.
    pub(super) fn ended(&mut self, subject: Subject) {
        let Some(driver) = self.driver() else { return };
        driver.ended.push_back(subject);
        if !driver.planning {
            self.idle();
        }
    }

    /// The app is gone; what was under way is broken off.
    fn end_driver(&mut self) {
        let number = self.store.app.as_ref().map(|a| a.number);
        let Some(controller) = self.controller.as_mut() else { return };
        controller.driver = None;
        self.log(|| "controller: the driver ends".to_owned());
        self.forget_route();
        // One that was made meanwhile under the same name gets a driver of its own.
        if let (Some(number), Some(controller)) = (number, self.controller.as_mut()) {
            controller.driver = Some(Driver::new(number));
            self.wake();
        }
    }
}

fn in_order(known: &BTreeMap<InstanceId, Instance>) -> Vec<Instance> {
    let mut all: Vec<Instance> = known.values().cloned().collect();
    all.sort_by(|a, b| (&a.process, a.ordinal, &a.id).cmp(&(&b.process, b.ordinal, &b.id)));
    all
}

/// Shows the planner something else than the truth, to see that it is noticed.
fn spoil(sabotage: Option<Sabotage>, view: &mut ProxyView, instances: &[Instance]) {
    match sabotage {
        Some(Sabotage::NotDurable) => view.sent_is_durable = view.sent.is_some(),
        Some(Sabotage::NotDrained) => {
            view.drained = instances.iter().map(|i| i.id.clone()).collect();
        }
        Some(Sabotage::NeverIll) => {
            view.health.retain(|_, (_, verdict)| *verdict == Verdict::Healthy);
        }
        Some(Sabotage::NotHealthy) => {
            for instance in instances {
                if let InstanceState::Running { since } = instance.state {
                    view.health.insert(instance.id.clone(), (since, Verdict::Healthy));
                }
            }
        }
        _ => {}
    }
}

fn spoil_intent(sabotage: Option<Sabotage>, intent: &mut Intent) {
    for rollout in intent.live.iter_mut().chain(&mut intent.candidate) {
        match sabotage {
            Some(Sabotage::NeverAlone) => {
                std::sync::Arc::make_mut(&mut rollout.spec).strategy = Strategy::Rolling;
            }
            Some(Sabotage::Unprepared) => rollout.prepared = true,
            _ => {}
        }
    }
}

fn spoil_plan(sabotage: Option<Sabotage>, intent: &Intent, decided: &mut Plan) {
    let candidate = intent.candidate.as_ref();
    match (sabotage, &mut decided.route, candidate) {
        (Some(Sabotage::CommitEarly), Some(_), Some(c)) => {
            decided.actions.retain(|a| !matches!(a, Action::Fail { .. }));
            decided.actions.push(Action::Commit(c.id.clone()));
        }
        (Some(Sabotage::NoDrain), Some(route), _) => {
            route.targets.retain(|t| t.role != Role::Drain);
        }
        (Some(Sabotage::NeverFails), Some(_), Some(_)) => {
            decided.actions.retain(|a| !matches!(a, Action::Fail { .. }));
        }
        (Some(Sabotage::NeverRemoves), ..) => {
            decided.actions.retain(|a| !matches!(a, Action::Remove(_)));
        }
        (Some(Sabotage::ServesCandidate), Some(route), _) => {
            for target in route.targets.iter_mut().filter(|t| t.role == Role::Probe) {
                target.role = Role::Serve;
            }
        }
        _ => {}
    }
}
