//! The engine: containers that start, listen, crash and stop by a clock of their own.

use std::net::Ipv4Addr;

use super::World;
use super::event::{Answer, Call, Event, Input, Op, Refusal};
use super::store::{Command, Nature};
use crate::id::{DeploymentId, InstanceId};
use crate::name::ProcessType;
use crate::ports::{Instance, InstanceState};
use crate::time::Millis;

#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) seen: Instance,
    pub(super) nature: Nature,
    /// The incarnation of the app that it was made for.
    pub(super) app: u32,
    /// When it listens, once it runs.
    pub(super) listens_at: Option<u64>,
    /// Since when it is being stopped by us.
    stopping: bool,
    command: Command,
}

impl Container {
    pub(super) fn is_running(&self, started: Millis) -> bool {
        self.seen.state == InstanceState::Running { since: started }
    }

    pub(super) fn listens(&self, started: Millis, now: u64) -> bool {
        self.is_running(started) && self.answers(now)
    }

    /// Whether it answers at its address; since which start does not matter to a request.
    pub(super) fn answers(&self, now: u64) -> bool {
        self.seen.state.is_running() && self.listens_at.is_some_and(|at| at <= now)
    }
}

/// What a new container is made from.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) id: InstanceId,
    pub(super) rollout: DeploymentId,
    pub(super) release: u32,
    pub(super) process: ProcessType,
    pub(super) ordinal: u32,
    pub(super) address: Ipv4Addr,
    pub(super) nature: Nature,
    pub(super) app: u32,
    pub(super) alone: bool,
    pub(super) command: Command,
}

#[derive(Default)]
pub(super) struct Engine {
    pub(super) containers: Vec<Container>,
    pub(super) away: bool,
    /// The stream of changes: what was sent over an older one is lost.
    pub(super) stream: u64,
    told_at: u64,
}

impl Engine {
    pub(super) fn get(&self, id: &InstanceId) -> Option<&Container> {
        self.containers.iter().find(|c| c.seen.id == *id)
    }

    fn get_mut(&mut self, id: &InstanceId) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.seen.id == *id)
    }

    pub(super) fn all(&self) -> Vec<Instance> {
        self.containers.iter().map(|c| c.seen.clone()).collect()
    }
}

impl World {
    /// A call reaches the engine.
    pub(super) fn engine_call(&mut self, call: Call) -> Result<(), String> {
        let alive = self.controller.as_ref().is_some_and(|c| c.epoch == call.epoch);
        // What a dead controller asked for may have got through, or not.
        if !alive && self.rng.percent(40) {
            return Ok(());
        }
        let broken = self.faults && self.rng.percent(3);
        let lost = self.faults && self.rng.percent(3);
        let answer = match (&call.op, self.engine.away || broken) {
            (Op::Stop { id, grace_ms }, false) => {
                let (id, grace) = (id.clone(), *grace_ms);
                return self.begin_stop(&id, grace, call);
            }
            (_, true) => Err(Refusal::Transient),
            (Op::Create(made), _) => self.create(made.clone())?,
            (Op::Start(id), _) => self.start(&id.clone())?,
            (Op::Remove(id), _) => self.remove(&id.clone())?,
            (Op::Look(id), _) => {
                Ok(Answer::One(self.engine.get(id).map(|c| Box::new(c.seen.clone()))))
            }
            (Op::LookAtAll, _) => Ok(Answer::All(self.engine.all())),
        };
        // Done, and nobody hears of it.
        let answer = if lost { Err(Refusal::Transient) } else { answer };
        self.answer(call, answer);
        Ok(())
    }

    fn answer(&mut self, call: Call, answer: Result<Answer, Refusal>) {
        let late = if self.faults { 2_000 } else { 20 };
        let delay = self.rng.delay(10, late);
        let input = Input::Answer { token: call.token, answer };
        self.after(delay, Event::Controller(call.epoch, input));
    }

    fn create(&mut self, made: Made) -> Result<Result<Answer, Refusal>, String> {
        if made.nature == Nature::Refused && self.rng.percent(50) {
            return Ok(Err(Refusal::Fatal));
        }
        if self.engine.containers.iter().any(|c| c.seen.address == Some(made.address)) {
            // The engine itself refuses to give an address to two.
            return Ok(Err(Refusal::Transient));
        }
        self.check_new_address(&made)?;
        let state = InstanceState::Created;
        let seen = Instance {
            id: made.id.clone(),
            app: "blue".parse().unwrap(),
            rollout: made.rollout,
            release: made.release,
            port: made.process.is_web().then_some(8080),
            process: made.process,
            ordinal: made.ordinal,
            address: Some(made.address),
            alone: made.alone,
            one_off: None,
            state,
        };
        self.log(|| {
            format!("engine: {} created for {} at {}", seen.id, seen.rollout, made.address)
        });
        let answer = Answer::One(Some(Box::new(seen.clone())));
        let (nature, app, command) = (made.nature, made.app, made.command);
        let container = Container { seen, nature, app, listens_at: None, stopping: false, command };
        self.engine.containers.push(container);
        self.tell_change(&made.id);
        Ok(Ok(answer))
    }

    fn start(&mut self, id: &InstanceId) -> Result<Result<Answer, Refusal>, String> {
        self.check_alone(id)?;
        Ok(self.begin_to_run(id))
    }

    fn begin_to_run(&mut self, id: &InstanceId) -> Result<Answer, Refusal> {
        let now = self.now;
        let (boot, life) = (self.rng.between(5, 1_500), self.rng.between(2_000, 40_000));
        let faults = self.faults;
        let Some(c) = self.engine.get_mut(id) else { return Err(Refusal::Fatal) };
        if c.nature == Nature::Refused {
            return Err(Refusal::Fatal);
        }
        if !c.seen.state.is_running() && c.seen.state != InstanceState::Dead {
            // Two starts within one millisecond are not to look the same.
            let since = Millis(now);
            c.seen.state = InstanceState::Running { since };
            c.stopping = false;
            let is_web = c.seen.process.is_web();
            let boot = if c.nature == Nature::Slow { 9_000 + boot } else { boot };
            c.listens_at = (is_web && c.nature.listens()).then_some(now + boot);
            let exit_in = match c.nature {
                _ if c.seen.process.is_release() => match c.command {
                    Command::Hangs => None,
                    _ => Some(boot),
                },
                Nature::Exits if is_web => Some(boot / 2 + 1),
                Nature::Flaky if faults => Some(boot + life),
                _ => None,
            };
            let id = id.clone();
            if let Some(delay) = exit_in {
                let exit = Event::Exit { id: id.clone(), since, ours: false };
                self.after(delay, exit);
            }
            self.log(|| format!("engine: {id} runs"));
            self.tell_change(&id);
        }
        let seen = self.engine.get(id).map(|c| Box::new(c.seen.clone()));
        Ok(Answer::One(seen))
    }

    fn begin_stop(&mut self, id: &InstanceId, grace: u64, call: Call) -> Result<(), String> {
        let Some(c) = self.engine.get_mut(id) else {
            self.answer(call, Ok(Answer::Done));
            return Ok(());
        };
        let InstanceState::Running { since } = c.seen.state else {
            self.answer(call, Ok(Answer::Done));
            return Ok(());
        };
        c.stopping = true;
        let id = id.clone();
        self.check_stop(&id)?;
        self.log(|| format!("engine: SIGTERM for {id}"));
        let takes = self.rng.delay(grace / 10, grace);
        self.after(takes, Event::Exit { id, since, ours: true });
        let lost = self.faults && self.rng.percent(3);
        let answer = if lost { Err(Refusal::Transient) } else { Ok(Answer::Done) };
        let input = Input::Answer { token: call.token, answer };
        self.after(takes + 1, Event::Controller(call.epoch, input));
        Ok(())
    }

    fn remove(&mut self, id: &InstanceId) -> Result<Result<Answer, Refusal>, String> {
        let Some(c) = self.engine.get(id) else { return Ok(Ok(Answer::Done)) };
        if c.seen.state.is_running() {
            self.check_stop(id)?;
            self.cut_by_exit(id)?;
        }
        self.log(|| format!("engine: {id} removed"));
        self.engine.containers.retain(|c| c.seen.id != *id);
        self.tell_change(id);
        Ok(Ok(Answer::Done))
    }

    /// The process of a container ends: by our signal, or by itself.
    pub(super) fn exit(
        &mut self,
        id: &InstanceId,
        since: Millis,
        ours: bool,
    ) -> Result<(), String> {
        let (now, faults) = (self.now, self.faults);
        let oom = self.rng.percent(20);
        let dead = faults && self.rng.percent(2);
        let Some(c) = self.engine.get_mut(id).filter(|c| c.is_running(since)) else {
            return Ok(());
        };
        if !ours && !faults && c.nature == Nature::Flaky {
            return Ok(());
        }
        let is_release = c.seen.process.is_release();
        let by_itself = !ours && !c.stopping && !is_release;
        let code = match (is_release && !c.stopping && c.command == Command::Works, oom) {
            (true, _) => 0,
            (false, true) => 137,
            (false, false) => 1,
        };
        let exited = InstanceState::Exited { code, oom, at: Millis(now) };
        c.seen.state = if dead { InstanceState::Dead } else { exited };
        c.listens_at = None;
        let rollout = c.seen.rollout.clone();
        self.log(|| format!("engine: {id} exits, {}", if ours { "told to" } else { "by itself" }));
        if by_itself {
            self.crashed(id, since, &rollout);
            self.proxy.requests.retain(|r| r.instance != *id);
        } else {
            self.cut_by_exit(id)?;
        }
        self.tell_change(id);
        Ok(())
    }

    /// A process runs on and answers no more.
    pub(super) fn sicken(&mut self, id: &InstanceId, since: Millis) {
        let Some(c) = self.engine.get_mut(id).filter(|c| c.is_running(since)) else { return };
        if c.listens_at.is_none_or(|at| at > self.now) {
            return;
        }
        c.listens_at = None;
        let rollout = c.seen.rollout.clone();
        self.log(|| format!("FAULT {id} hangs"));
        self.crashed(id, since, &rollout);
        let delay = self.rng.between(100, 8_000);
        let (proxy, id) = (self.proxy.life(), id.clone());
        self.after(delay, Event::Probed { proxy, id, started: since });
    }

    fn tell_change(&mut self, id: &InstanceId) {
        if self.faults && self.rng.percent(1) {
            // Lost: the next full look makes up for it.
            return;
        }
        let late = if self.faults { 3_000 } else { 30 };
        let delay = self.rng.delay(10, late);
        let change = Input::Change { stream: self.engine.stream, id: id.clone() };
        if let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) {
            self.after(delay, Event::Controller(epoch, change));
        }
    }

    /// The engine goes away, with or without its containers.
    pub(super) fn engine_away(&mut self) {
        if self.engine.away {
            return;
        }
        self.engine.away = true;
        self.engine.stream += 1;
        let kept = self.rng.percent(70);
        self.log(|| format!("FAULT the engine is away, containers kept: {kept}"));
        if !kept {
            let running: Vec<_> = self
                .engine
                .containers
                .iter()
                .filter_map(|c| match c.seen.state {
                    InstanceState::Running { since } => Some((c.seen.id.clone(), since)),
                    _ => None,
                })
                .collect();
            for (id, since) in running {
                self.after(0, Event::Exit { id, since, ours: false });
            }
        }
        let back = self.rng.between(50, 15_000);
        self.after(back, Event::EngineBack);
        self.tell_stream(false);
    }

    pub(super) fn engine_back(&mut self) {
        self.engine.away = false;
        self.log(|| "the engine is back".to_owned());
        self.tell_stream(true);
    }

    pub(super) fn tell_stream(&mut self, there: bool) {
        // In order: that it is back is not heard before that it went.
        let at = (self.now + self.rng.delay(20, 500)).max(self.engine.told_at);
        self.engine.told_at = at;
        let input = Input::Stream { stream: self.engine.stream, there };
        if let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) {
            self.at(at, Event::Controller(epoch, input));
        }
    }
}
