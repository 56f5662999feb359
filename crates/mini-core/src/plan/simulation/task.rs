//! Doing what a plan says, step by step.

use super::engine::Made;
use super::event::{Answer, Call, Event, Input, Op, Refusal};
use super::store::Status;
use super::{Sabotage, World};
use crate::id::InstanceId;
use crate::plan::{Action, Subject};
use crate::ports::InstanceState;

/// How long a start waits for the proxy to have forgotten the address's last holder.
const FORGETTING: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Task {
    action: Action,
    step: Step,
    /// What the instance was when it was to be started again.
    before: Option<InstanceState>,
    /// The instance that a start made.
    made: Option<InstanceId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Begin,
    /// A start waits until the snapshot is as new as the route, and no longer than this.
    Durable(u64),
    /// A call of the engine is under way.
    Called,
    /// The second call of a start.
    Starting,
    /// After a stop: what became of it.
    LookingAt,
    /// After a start that failed: what became of it.
    Settling(Refusal),
    /// The store is written.
    Writing,
    /// Over; a failed one rests for a moment.
    Over,
}

impl World {
    pub(super) fn begin(&mut self, action: Action) {
        self.log(|| format!("driver: {action:?}"));
        let token = self.token();
        let delay = self.rng.delay(2, if self.faults { 1_000 } else { 2 });
        let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) else { return };
        let Some(controller) = self.controller.as_mut() else { return };
        let known = controller.known.as_ref();
        let starts = action.starts(|id| known.and_then(|k| k.get(id)).cloned());
        let Some(driver) = self.driver() else { return };
        if let Action::Stop { instance, .. } | Action::Remove(instance) = &action {
            driver.notes.stop_begun(instance);
        }
        if let Some(rollout) = starts {
            driver.notes.start_begun(action.subject(), rollout);
        }
        driver.tasks.insert(token, Task { action, step: Step::Begin, before: None, made: None });
        self.after(delay, Event::Controller(epoch, Input::Task(token)));
    }

    /// An action goes on.
    pub(super) fn task(&mut self, token: u64) -> Result<(), String> {
        let Some(task) = self.driver().and_then(|d| d.tasks.get(&token)) else { return Ok(()) };
        let (action, step) = (task.action.clone(), task.step.clone());
        match (&action, step) {
            (Action::Start { .. }, Step::Begin) => {
                let until = self.now + FORGETTING;
                self.set_step(token, Step::Durable(until));
                self.wait_durable(token, until);
            }
            (Action::Start { .. }, Step::Durable(until)) => self.wait_durable(token, until),
            (Action::StartAgain(id), Step::Begin) => {
                let known = self.controller.as_ref().and_then(|c| c.known.as_ref());
                let before = known.and_then(|k| k.get(id)).map(|i| i.state);
                if let Some(task) = self.driver().and_then(|d| d.tasks.get_mut(&token)) {
                    task.before = before;
                }
                self.call(token, Step::Called, Op::Start(id.clone()));
            }
            (Action::Stop { instance, grace_ms }, Step::Begin) => {
                let op = Op::Stop { id: instance.clone(), grace_ms: *grace_ms };
                self.call(token, Step::Called, op);
            }
            (Action::Remove(id), Step::Begin) => {
                self.call(token, Step::Called, Op::Remove(id.clone()));
            }
            (Action::Forget, Step::Begin) => {
                // The network goes first, and cannot while anything is in it.
                let number = self.driver().map(|d| d.app);
                let empty = !self.engine.containers.iter().any(|c| Some(c.app) == number);
                self.wait(token, if empty { Step::Writing } else { Step::Over });
            }
            (
                Action::Commit(_)
                | Action::Announce(_)
                | Action::Prepared { .. }
                | Action::Fail { .. },
                Step::Begin,
            ) => {
                self.wait(token, Step::Writing);
            }
            (_, Step::Writing) => self.write(token, &action)?,
            (_, Step::Over) => self.over(token, &action),
            _ => {}
        }
        Ok(())
    }

    fn set_step(&mut self, token: u64, step: Step) {
        if let Some(task) = self.driver().and_then(|d| d.tasks.get_mut(&token)) {
            task.step = step;
        }
    }

    fn wait(&mut self, token: u64, step: Step) {
        let failed = (step == Step::Over).then(|| self.failed(token));
        let delay = match step {
            Step::Over => (100 << failed.unwrap_or(0).min(6)).min(5_000),
            _ => self.rng.delay(3, if self.faults { 1_000 } else { 3 }),
        };
        self.set_step(token, step);
        if let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) {
            self.after(delay, Event::Controller(epoch, Input::Task(token)));
        }
    }

    /// Counts a failure; returns how many there were before, in a row.
    fn failed(&mut self, token: u64) -> u32 {
        let Some(driver) = self.driver() else { return 0 };
        let Some(task) = driver.tasks.get(&token) else { return 0 };
        let count = driver.failures.entry(task.action.subject()).or_default();
        *count += 1;
        *count - 1
    }

    fn call(&mut self, token: u64, step: Step, op: Op) {
        self.set_step(token, step);
        let delay = self.rng.delay(10, if self.faults { 4_000 } else { 20 });
        if let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) {
            self.after(delay, Event::Engine(Call { epoch, token, op }));
        }
    }

    fn write(&mut self, token: u64, action: &Action) -> Result<(), String> {
        if self.faults && self.rng.percent(3) {
            self.wait(token, Step::Over);
            return Ok(());
        }
        match action {
            Action::Commit(id) => {
                let done = self.store.commit(id);
                self.log(|| format!("store: {id} is live: {done}"));
                self.checks.committed(id, self.now, self.store.app.as_ref());
            }
            Action::Prepared { rollout, .. } => {
                self.store.prepared(rollout);
                self.log(|| format!("store: {rollout} is prepared"));
            }
            Action::Announce(id) => {
                self.store.finish(id, Status::Live);
            }
            Action::Fail { rollout, .. } => {
                self.store.finish(rollout, Status::Failed);
            }
            Action::Forget => {
                let own = self.driver().map(|d| d.app);
                self.store.app.take_if(|app| Some(app.number) == own);
                self.checks.forgotten();
                self.log(|| "store: the app is gone".to_owned());
            }
            _ => {}
        }
        self.wake();
        self.queue();
        self.over(token, action);
        Ok(())
    }

    fn over(&mut self, token: u64, action: &Action) {
        let app_is_there = self.store.app.as_ref().map(|a| a.number);
        let Some(driver) = self.driver() else { return };
        let went_well = driver.tasks.remove(&token).is_none_or(|t| t.step != Step::Over);
        if went_well {
            driver.failures.remove(&action.subject());
        }
        if let Action::Stop { instance, .. } | Action::Remove(instance) = action {
            driver.notes.stop_ended(instance);
        }
        driver.notes.start_ended(&action.subject());
        let mut subject = action.subject();
        if subject == Subject::App && app_is_there == Some(driver.app) {
            // It failed: the next plan tries again.
            driver.under_way.remove(&subject);
            subject = Subject::Rollout("none".parse().unwrap());
        }
        self.ended(subject);
    }

    /// The proxy wrote a snapshot: starts that waited for it go on.
    pub(super) fn wake_starts(&mut self) {
        let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) else { return };
        let Some(driver) = self.driver() else { return };
        let waiting = driver.tasks.iter().filter(|(_, t)| matches!(t.step, Step::Durable(_)));
        let tokens: Vec<u64> = waiting.map(|(token, _)| *token).collect();
        for token in tokens {
            self.after(0, Event::Controller(epoch, Input::Task(token)));
        }
    }

    fn wait_durable(&mut self, token: u64, until: u64) {
        let now = self.now;
        let careless = self.sabotage_is(Sabotage::ReusesAddress);
        let Some(controller) = self.controller.as_mut() else { return };
        let epoch = controller.epoch;
        if !controller.link.is_durable() && !careless {
            if now >= until {
                return self.start_failed(token, Refusal::Transient);
            }
            return self.at(until, Event::Controller(epoch, Input::Task(token)));
        }
        let Some(known) = &controller.known else {
            return self.start_failed(token, Refusal::Transient);
        };
        let routed = controller.link.sent_route().into_iter().flat_map(|r| &r.targets);
        let mut taken: Vec<std::net::IpAddr> = routed.map(|t| t.addr.ip()).collect();
        taken.extend(known.values().filter_map(|i| i.address).map(std::net::IpAddr::from));
        let Some(address) = self.store.take_address(|a| taken.contains(&a.into())) else {
            return self.start_failed(token, Refusal::Transient);
        };
        let id: InstanceId = format!("i{token}").parse().unwrap();
        let task = self.driver().and_then(|d| d.tasks.get(&token));
        let Some(Action::Start { rollout, process, ordinal }) = task.map(|t| t.action.clone())
        else {
            return;
        };
        let found = self.store.app.as_ref().and_then(|a| {
            let release = a.deployment(&rollout)?.release?;
            let alone = a.releases[release as usize - 1].spec.recreates();
            Some((release, (a.nature(release), a.command(release)), (a.number, alone)))
        });
        let Some((release, (nature, command), (app, alone))) = found else {
            return self.start_failed(token, Refusal::Transient);
        };
        let made =
            Made { id, rollout, release, process, ordinal, address, nature, app, alone, command };
        if let Some(task) = self.driver().and_then(|d| d.tasks.get_mut(&token)) {
            task.made = Some(made.id.clone());
        }
        self.call(token, Step::Called, Op::Create(made));
    }

    fn start_failed(&mut self, token: u64, why: Refusal) {
        let now = crate::time::Millis(self.now);
        let Some(driver) = self.driver() else { return };
        if let Some(Action::Start { rollout, process, ordinal }) =
            driver.tasks.get(&token).map(|t| t.action.clone())
        {
            let error = ("it does not start", why == Refusal::Fatal);
            driver.notes.start_failed(&rollout, &process, ordinal, error, now);
        }
        self.wait(token, Step::Over);
    }

    /// The engine answered an action's call.
    pub(super) fn task_answered(&mut self, token: u64, answer: Result<Answer, Refusal>) {
        let now = crate::time::Millis(self.now);
        let Some(controller) = self.controller.as_mut() else { return };
        let Some(driver) = controller.driver.as_mut() else { return };
        let Some(task) = driver.tasks.get(&token) else { return };
        let (action, step) = (task.action.clone(), task.step.clone());
        match (&action, step, answer) {
            (Action::Start { .. } | Action::StartAgain(_), Step::Settling(why), answer) => {
                let id = match &action {
                    Action::StartAgain(id) => Some(id.clone()),
                    _ => task.made.clone(),
                };
                match (answer, id) {
                    (Ok(Answer::One(seen)), Some(id)) => {
                        controller.set_one(&id, seen.map(|s| *s));
                        self.wake();
                    }
                    // Nobody knows what became of it, so nothing is known.
                    _ => {
                        controller.known = None;
                        controller.look_again();
                        self.look();
                    }
                }
                if matches!(action, Action::Start { .. }) {
                    return self.start_failed(token, why);
                }
                self.wait(token, Step::Over);
            }
            (Action::Start { .. }, _, Err(why)) => {
                let made = task.made.clone();
                match made {
                    Some(id) => self.call(token, Step::Settling(why), Op::Look(id)),
                    None => self.start_failed(token, why),
                }
            }
            (Action::Start { .. }, Step::Called, Ok(Answer::One(Some(made)))) => {
                self.call(token, Step::Starting, Op::Start(made.id));
            }
            (Action::Start { rollout, process, ordinal }, _, Ok(Answer::One(Some(seen)))) => {
                driver.notes.start_worked(rollout, process, *ordinal);
                controller.started(None, &seen);
                self.over(token, &action);
            }
            (Action::StartAgain(id), _, Ok(Answer::One(Some(seen)))) => {
                let before = task.before;
                let crashed = matches!(before, Some(InstanceState::Exited { .. }));
                driver.notes.started_again(id, crashed);
                controller.started(before, &seen);
                self.over(token, &action);
            }
            (Action::StartAgain(id), _, _) => {
                driver.notes.start_again_failed(id, "it does not start", now);
                self.call(token, Step::Settling(Refusal::Transient), Op::Look(id.clone()));
            }
            (Action::Stop { instance, .. }, Step::Called, Ok(_)) => {
                self.call(token, Step::LookingAt, Op::Look(instance.clone()));
            }
            (Action::Stop { instance, .. }, Step::LookingAt, Ok(Answer::One(seen))) => {
                controller.set_one(instance, seen.map(|s| *s));
                self.wake();
                self.over(token, &action);
            }
            (Action::Stop { .. }, Step::LookingAt, Err(_)) => self.over(token, &action),
            (Action::Remove(id), _, Ok(_)) => {
                controller.set_one(id, None);
                controller.link.prune(id);
                self.over(token, &action);
            }
            _ => self.wait(token, Step::Over),
        }
    }
}
