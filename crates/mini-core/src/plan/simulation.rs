//! A seeded simulation of the planner: a world in which everything that can go wrong does, at
//! any time, on a clock of its own.
//!
//! ```text
//!   user ──> store <── driver ──> engine (containers start, crash, stop; answers get lost)
//!                        │ ▲
//!                        ▼ │
//!                       proxy (table, snapshot, requests, probes; dies, hangs up)
//! ```
//!
//! One seed is one history. The world is a queue of events; after every one of them the
//! invariants in `checks.rs` are asserted. When the faults end, the world must come to rest at
//! exactly what the store wants. Replay a seed with
//! `MINI_SIM_SEED=n cargo test -p mini-core simulation -- --nocapture`.

use std::collections::BTreeMap;

use checks::Checks;
use controller::Controller;
use engine::Engine;
use event::{Event, Input};
use proxy::Proxy;
use rng::Rng;
use store::{Status, Store, TIMING};

use super::{ANNOUNCE_WITHIN_MS, MAKE_WAY_DRAIN_MS, ROLLOUT_SLACK_MS};
use crate::name::ProcessType;

mod checks;
mod controller;
mod driver;
mod engine;
mod event;
mod link;
mod properties;
mod proxy;
mod rng;
mod store;
mod task;
mod user;

const SEEDS: u64 = 10_000;
/// How long deployments may take to end when nothing goes wrong any more: one that is rolled out
/// and one that waits, each with all the time it may have.
const END_WITHIN: u64 = 2
    * (MAKE_WAY_DRAIN_MS
        + TIMING.grace_ms
        + TIMING.release_ms
        + TIMING.boot_timeout_ms
        + ROLLOUT_SLACK_MS
        + ANNOUNCE_WITHIN_MS);
/// How long the world may take to come to rest: the longest pause after crashes besides.
const REST_WITHIN: u64 = END_WITHIN + 400_000;
/// Lines of history that are shown with a failure.
const HISTORY: usize = 60;

/// A way to break the planner or the driver, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// An instance is stopped before the proxy wrote down that it left.
    NotDurable,
    NotDrained,
    NotHealthy,
    UnknownIsEmpty,
    CommitEarly,
    /// Old instances leave the table at once.
    NoDrain,
    NeverFails,
    NeverRemoves,
    ServesCandidate,
    ReusesAddress,
    /// A look that began before an action was answered wins over the answer.
    StaleLooks,
    /// What was said of an earlier drain counts for the next.
    StaleDrained,
    /// A release that must run alone starts at once.
    NeverAlone,
    /// The release command is taken for done.
    Unprepared,
    /// Nobody hears of what turned unhealthy.
    NeverIll,
}

impl Sabotage {
    const ALL: [Self; 15] = [
        Self::NotDurable,
        Self::NotDrained,
        Self::NotHealthy,
        Self::UnknownIsEmpty,
        Self::CommitEarly,
        Self::NoDrain,
        Self::NeverFails,
        Self::NeverRemoves,
        Self::ServesCandidate,
        Self::ReusesAddress,
        Self::StaleLooks,
        Self::StaleDrained,
        Self::NeverAlone,
        Self::Unprepared,
        Self::NeverIll,
    ];
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    steps: u64,
    /// What the user did.
    user: u64,
    faults: u64,
    live: u64,
    failed: u64,
    cancelled: u64,
    superseded: u64,
    /// The longest that a world took to come to rest, in milliseconds.
    rest_ms: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.user += other.user;
        self.faults += other.faults;
        self.live += other.live;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.superseded += other.superseded;
        self.rest_ms = self.rest_ms.max(other.rest_ms);
    }
}

struct World {
    rng: Rng,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    numbers: u64,
    /// Every line of what happened, when it is wanted.
    history: Option<Vec<String>>,
    sabotage: Option<Sabotage>,
    faults: bool,
    fault_every: u64,
    faults_ended_at: u64,
    user_left: u64,
    rested: bool,
    epochs: u64,
    connections: u64,
    store: Store,
    engine: Engine,
    proxy: Proxy,
    controller: Option<Controller>,
    checks: Checks,
    counts: Counts,
}

impl World {
    fn new(seed: u64, sabotage: Option<Sabotage>, tell: bool) -> Self {
        let mut rng = Rng::new(seed);
        let user_left = rng.between(2, 9);
        let fault_every = [1_500, 6_000, 20_000, 100_000][rng.below(4) as usize];
        let faults_for = user_left * 6_000;
        let mut world = Self {
            rng,
            now: 1_000_000,
            queue: BTreeMap::new(),
            numbers: 0,
            history: tell.then(Vec::new),
            sabotage,
            faults: true,
            fault_every,
            faults_ended_at: 0,
            user_left,
            rested: false,
            epochs: 0,
            connections: 0,
            store: Store::default(),
            engine: Engine::default(),
            proxy: Proxy::default(),
            controller: None,
            checks: Checks::default(),
            counts: Counts::default(),
        };
        world.proxy_up();
        world.controller_up();
        world.after(100, Event::User);
        world.after(500, Event::Request);
        world.after(fault_every, Event::Fault);
        world.after(faults_for, Event::FaultsEnd);
        world
    }

    fn at(&mut self, at: u64, event: Event) {
        self.numbers += 1;
        self.queue.insert((at, self.numbers), event);
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    fn token(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn log(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(history) = &mut self.history {
            history.push(format!("{:>9} ms  {}", now - 1_000_000, line()));
        }
    }

    fn sabotage_is(&self, what: Sabotage) -> bool {
        self.sabotage == Some(what)
    }

    /// Runs to the end; the error says what was wrong, and at which step.
    fn run(&mut self) -> Result<(), String> {
        while !self.rested {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return Err("nothing happens any more".to_owned());
            };
            self.now = at;
            self.counts.steps += 1;
            self.step(event)
                .and_then(|()| self.check())
                .map_err(|what| format!("step {}: {what}", self.counts.steps))?;
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::User => self.user(),
            Event::ScaleUp => {
                self.scale(ProcessType::web(), 1);
            }
            Event::Fault => self.fault(),
            Event::FaultsEnd => self.faults_end(),
            Event::Judge => self.judge()?,
            Event::Request => {
                let pause = self.rng.between(50, 2_000);
                self.after(pause, Event::Request);
                self.request();
            }
            Event::RequestEnds(number) => self.request_ends(number),
            Event::ControllerUp => self.controller_up(),
            Event::Controller(epoch, input) => {
                if self.controller.as_ref().is_some_and(|c| c.epoch == epoch) {
                    self.controller_step(input)?;
                }
            }
            Event::Engine(call) => self.engine_call(call)?,
            Event::EngineBack => self.engine_back(),
            Event::Exit { id, since, ours } => self.exit(&id, since, ours)?,
            Event::ToProxy { connection, table, is_whole } => {
                self.proxy_hears(connection, table, is_whole)?;
            }
            Event::Saved { proxy, generation } => self.saved(proxy, generation),
            Event::Probed { proxy, id, started } => self.probed(proxy, id, started),
            Event::ProxyUp => self.proxy_up(),
        }
        Ok(())
    }

    fn controller_step(&mut self, input: Input) -> Result<(), String> {
        match input {
            Input::Load => self.load(),
            Input::Plan(intent, read_at) => self.activate(intent.map(|i| *i), read_at)?,
            Input::Timer(number) => self.timer(number),
            Input::Task(token) => self.task(token)?,
            Input::Answer { token, mut answer } => {
                if !self.looked(token, &mut answer) {
                    self.task_answered(token, answer);
                }
            }
            Input::Change { stream, id } => self.changed(stream, id),
            Input::Stream { stream, there } => self.stream(stream, there),
            Input::FullLook(number) => self.full_look(number),
            Input::Dial => self.dial(),
            Input::FromProxy { connection, document } => self.link_hears(connection, document),
            Input::HungUp(connection) => self.hung_up(connection),
            Input::OthersPlanned(connection) => self.others_planned(connection),
            Input::Queue => self.queue(),
            Input::Prepared(id) => self.prepared(&id),
        }
        // Between any two steps the controller may die.
        if self.faults && self.rng.below(self.fault_every) < 2 {
            self.kill_controller();
        }
        Ok(())
    }

    fn faults_end(&mut self) {
        self.log(|| "the faults end".to_owned());
        self.faults = false;
        self.user_left = 0;
        self.faults_ended_at = self.now;
        self.after(1_000, Event::Judge);
    }

    /// Whether what is left to do takes longer than it may.
    fn is_late(&self) -> bool {
        let app = self.store.app.as_ref();
        let rolling = app.is_some_and(|a| a.deployments.iter().any(|d| !d.finished));
        let within = if rolling { END_WITHIN } else { REST_WITHIN };
        self.now > self.faults_ended_at + within
    }

    fn count(&mut self) {
        self.counts.rest_ms = self.now - self.faults_ended_at;
        for d in self.store.app.iter().flat_map(|a| &a.deployments) {
            match d.status {
                Status::Live => self.counts.live += 1,
                Status::Failed => self.counts.failed += 1,
                Status::Cancelled => self.counts.cancelled += 1,
                _ => self.counts.superseded += 1,
            }
        }
    }

    /// Whether the world came to rest, and stays so.
    fn judge(&mut self) -> Result<(), String> {
        match self.unrest() {
            None if self.user_left == 1 => {
                self.rested = true;
                self.count();
            }
            None => {
                self.user_left = 1;
                self.after(6_000, Event::Judge);
            }
            Some(why) if self.is_late() => {
                return Err(format!("the world does not come to rest: {why}"));
            }
            Some(_) => {
                self.user_left = 0;
                self.after(4_000, Event::Judge);
            }
        }
        Ok(())
    }
}

/// Runs one seed; a failure is told with its history.
fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Counts, String> {
    let mut world = World::new(seed, sabotage, false);
    match world.run() {
        Ok(()) => Ok(world.counts),
        Err(_) => Err(tell(seed, sabotage).1),
    }
}

/// Runs one seed once more and keeps its history.
fn tell(seed: u64, sabotage: Option<Sabotage>) -> (Vec<String>, String) {
    let mut world = World::new(seed, sabotage, true);
    let end = world.run();
    let history = world.history.take().unwrap_or_default();
    let last = history[history.len().saturating_sub(HISTORY)..].join("\n");
    let what = end.map_or_else(|what| what, |()| "it went well".to_owned());
    let text = format!(
        "{last}\n\nseed {seed}, {what}\n\
         replay: MINI_SIM_SEED={seed} cargo test -p mini-core simulation -- --nocapture"
    );
    (history, text)
}

/// A simulation that cannot fail shows nothing: broken in each of these ways, it does.
#[test]
fn the_simulation_notices_what_is_broken() {
    for sabotage in Sabotage::ALL {
        let caught = (0..SEEDS).find_map(|seed| Some((seed, run(seed, Some(sabotage)).err()?)));
        let Some((seed, text)) = caught else { panic!("{sabotage:?} goes unnoticed") };
        let what = text.lines().find(|l| l.starts_with("seed ")).unwrap_or_default();
        println!("{sabotage:?}: {}", what.trim_start_matches(&format!("seed {seed}, ")));
    }
}

#[test]
fn the_world_comes_to_rest_at_what_the_user_wants_whatever_happens() {
    if let Some(seed) = std::env::var("MINI_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
        let (history, text) = tell(seed, None);
        println!("{}\n\n{text}", history.join("\n"));
        assert!(text.contains("it went well"), "seed {seed} fails");
        return;
    }
    let seeds = std::env::var("MINI_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SEEDS);
    let begun = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    let lane = |lane: u64| {
        let mut sum = Counts::default();
        for seed in (lane..seeds).step_by(threads as usize) {
            sum.add(run(seed, None)?);
        }
        Ok::<_, String>(sum)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..threads).map(|n| scope.spawn(move || lane(n))).collect();
        lanes.into_iter().map(|l| l.join().unwrap()).collect()
    });
    let mut sum = Counts::default();
    for result in results {
        sum.add(result.unwrap_or_else(|text| panic!("{text}")));
    }
    println!("{seeds} seeds in {:?}: {sum:?}", begun.elapsed());
    // A world in which little happens would find little.
    let seldom = [sum.live, sum.failed, sum.cancelled, sum.superseded].into_iter().min();
    assert!(seldom > Some(seeds / 20), "{sum:?}");
}
