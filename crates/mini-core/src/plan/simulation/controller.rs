//! The controller's process: what it knows of the engine, and how it looks.
//!
//! As in the real one, changes and full looks are taken in one after the other, while the
//! answers to actions come in beside them.

use std::collections::{BTreeMap, VecDeque};

use super::World;
use super::driver::Driver;
use super::event::{Answer, Call, Event, Input, Op, Refusal};
use super::link::Link;
use crate::id::{DeploymentId, InstanceId};
use crate::ports::{Instance, InstanceState};

const FULL_LOOK_EVERY: u64 = 60_000;

pub(super) struct Controller {
    pub(super) epoch: u64,
    /// The instances as last seen; `None` is unknown.
    pub(super) known: Option<BTreeMap<InstanceId, Instance>>,
    /// Counts what actions told: a look that began before says less.
    told: u64,
    connected: bool,
    to_look_at: VecDeque<Look>,
    /// Counts full looks: the next is due a while after the last.
    full_looks: u64,
    /// The look under way: its token, and what was told when it began.
    looking: Option<(u64, Look, u64)>,
    pub(super) link: Link,
    pub(super) driver: Option<Driver>,
    preparing: Option<DeploymentId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    One(InstanceId),
    All,
}

impl Controller {
    pub(super) fn started(&mut self, before: Option<InstanceState>, instance: &Instance) {
        let Some(known) = self.known.as_mut() else { return };
        let now = known.get(&instance.id).map(|i| i.state);
        if now == before || instance.state.is_later_start(now) {
            known.insert(instance.id.clone(), instance.clone());
            self.told += 1;
        }
    }

    pub(super) fn set_one(&mut self, id: &InstanceId, seen: Option<Instance>) {
        let Some(known) = self.known.as_mut() else { return };
        match seen {
            Some(instance) => known.insert(id.clone(), instance),
            None => known.remove(id),
        };
        self.told += 1;
    }

    pub(super) fn look_again(&mut self) {
        if !self.to_look_at.contains(&Look::All) {
            self.to_look_at.push_back(Look::All);
        }
    }
}

impl World {
    pub(super) fn controller_up(&mut self) {
        self.epochs += 1;
        let epoch = self.epochs;
        self.controller = Some(Controller {
            epoch,
            known: None,
            told: 0,
            connected: false,
            to_look_at: VecDeque::new(),
            full_looks: 0,
            looking: None,
            link: Link::default(),
            driver: self.store.app.as_ref().map(|a| Driver::new(a.number)),
            preparing: None,
        });
        self.log(|| format!("controller {epoch} starts"));
        self.after(0, Event::Controller(epoch, Input::Dial));
        self.after(1, Event::Controller(epoch, Input::Queue));
        if !self.engine.away {
            self.tell_stream(true);
        }
        self.wake();
    }

    /// The driver of an app that was just made.
    pub(super) fn start_driver(&mut self) {
        let number = self.store.app.as_ref().map(|a| a.number);
        if let (Some(number), Some(controller)) = (number, self.controller.as_mut())
            && controller.driver.is_none()
        {
            controller.driver = Some(Driver::new(number));
            self.wake();
        }
    }

    pub(super) fn kill_controller(&mut self) {
        if self.controller.take().is_none() {
            return;
        }
        self.log(|| "FAULT the controller is killed".to_owned());
        if self.rng.percent(50) {
            self.proxy.connection = 0;
        }
        self.proxy.heard_at = 0;
        let back = self.rng.delay(2_000, 40_000);
        self.after(back, Event::ControllerUp);
    }

    pub(super) fn stream(&mut self, stream: u64, there: bool) {
        let Some(controller) = self.controller.as_mut() else { return };
        if stream != self.engine.stream {
            return;
        }
        controller.connected = there;
        if there {
            controller.look_again();
            self.look();
        } else {
            controller.known = None;
            controller.to_look_at.clear();
            self.log(|| "controller: the engine is away".to_owned());
            self.wake();
        }
    }

    pub(super) fn changed(&mut self, stream: u64, id: InstanceId) {
        let Some(controller) = self.controller.as_mut() else { return };
        if controller.connected && stream == self.engine.stream {
            controller.to_look_at.push_back(Look::One(id));
            self.look();
        }
    }

    /// Begins the next look, unless one is under way.
    pub(super) fn look(&mut self) {
        let token = self.token();
        let Some(controller) = self.controller.as_mut() else { return };
        if controller.looking.is_some() || !controller.connected {
            return;
        }
        let Some(look) = controller.to_look_at.pop_front() else { return };
        let op = match &look {
            Look::One(id) => Op::Look(id.clone()),
            Look::All => Op::LookAtAll,
        };
        controller.looking = Some((token, look, controller.told));
        let epoch = controller.epoch;
        let delay = self.rng.delay(5, if self.faults { 1_000 } else { 10 });
        self.after(delay, Event::Engine(Call { epoch, token, op }));
    }

    /// Whether an answer was that to the look under way.
    pub(super) fn looked(&mut self, token: u64, answer: &mut Result<Answer, Refusal>) -> bool {
        let Some(controller) = self.controller.as_mut() else { return false };
        let Some((_, look, told)) = controller.looking.take_if(|(t, ..)| *t == token) else {
            return false;
        };
        let epoch = controller.epoch;
        // Told otherwise meanwhile: look again.
        let stale = told != controller.told && !self.sabotage_is(super::Sabotage::StaleLooks);
        let Some(controller) = self.controller.as_mut() else { return false };
        let answer = std::mem::replace(answer, Ok(Answer::Done));
        match answer {
            _ if !controller.connected => {}
            Ok(_) if stale => controller.to_look_at.push_front(look),
            Ok(Answer::One(seen)) => {
                if let (Look::One(id), Some(known)) = (look, controller.known.as_mut()) {
                    match seen {
                        Some(instance) => known.insert(id, *instance),
                        None => known.remove(&id),
                    };
                }
            }
            Ok(Answer::All(all)) => {
                controller.known = Some(all.into_iter().map(|i| (i.id.clone(), i)).collect());
                controller.full_looks += 1;
                let next = Input::FullLook(controller.full_looks);
                self.after(FULL_LOOK_EVERY, Event::Controller(epoch, next));
                self.clear_orphans();
            }
            Ok(Answer::Done) => {}
            Err(_) => {
                if look == Look::All {
                    controller.known = None;
                }
                controller.look_again();
            }
        }
        self.wake();
        self.look();
        true
    }

    pub(super) fn full_look(&mut self, number: u64) {
        if let Some(controller) = self.controller.as_mut().filter(|c| c.full_looks == number) {
            controller.look_again();
            self.look();
        }
    }

    /// What belongs to no app is removed.
    fn clear_orphans(&mut self) {
        if self.store.app.is_some() {
            return;
        }
        let token = self.token();
        let Some(controller) = self.controller.as_mut() else { return };
        let epoch = controller.epoch;
        let ids: Vec<_> = controller.known.iter().flatten().map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.after(5, Event::Engine(Call { epoch, token, op: Op::Remove(id) }));
        }
    }

    /// The queue of deployments: one is prepared at a time.
    pub(super) fn queue(&mut self) {
        let Some(controller) = self.controller.as_mut().filter(|c| c.preparing.is_none()) else {
            return;
        };
        let Some(id) = self.store.due() else { return };
        controller.preparing = Some(id.clone());
        let epoch = controller.epoch;
        let takes = self.rng.delay(500, 5_000);
        self.after(takes, Event::Controller(epoch, Input::Prepared(id)));
    }

    pub(super) fn prepared(&mut self, id: &DeploymentId) {
        if let Some(controller) = self.controller.as_mut() {
            controller.preparing = None;
        }
        if self.store.roll_out(id) {
            self.log(|| format!("store: {id} is rolled out"));
        }
        self.wake();
        self.queue();
    }
}
