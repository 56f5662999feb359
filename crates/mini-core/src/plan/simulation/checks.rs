//! What must hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use super::engine::Made;
use super::proxy::{Table, shown};
use super::store::{App, Command, Nature, TIMING};
use crate::id::{DeploymentId, InstanceId};
use crate::name::ProcessType;
use crate::plan::{Action, Desired, Intent, Plan, slots};
use crate::route::Role;
use crate::time::Millis;

#[derive(Default)]
pub(super) struct Checks {
    /// Requests are answered by the proxy's table, and would be by its snapshot; that may end
    /// only for one of the reasons that [`Checks::excuse`] is called for.
    pub(super) answered: [bool; 2],
    /// When the intent was read that the route on its way comes from.
    pub(super) read_at: u64,
    /// From when to when each deployment was live.
    live: Vec<(DeploymentId, u64, Option<u64>)>,
    rollouts: BTreeMap<InstanceId, DeploymentId>,
    /// The starts that a probe found healthy.
    proven: BTreeSet<(InstanceId, Millis)>,
    /// The starts that ended by themselves.
    crashes: BTreeSet<(InstanceId, Millis)>,
    /// When the last crash was that excused anything.
    excused_at: u64,
    /// When nobody was to answer requests, last.
    unwanted_at: u64,
    /// When each instance was first planned to drain.
    left_at: BTreeMap<InstanceId, u64>,
    /// What was stopped for the user after the drain time, whether the proxy knew or not.
    given_up: BTreeSet<InstanceId>,
}

impl Checks {
    /// Requests may be unanswered from here on, until they are answered again.
    pub(super) fn excuse(&mut self) {
        self.answered = [false; 2];
    }

    pub(super) fn committed(&mut self, id: &DeploymentId, now: u64, app: Option<&App>) {
        if app.is_some_and(|a| a.live.as_ref() == Some(id)) {
            self.not_live(now);
            self.live.push((id.clone(), now, None));
        }
    }

    fn not_live(&mut self, now: u64) {
        for (_, _, to) in self.live.iter_mut().filter(|(_, _, to)| to.is_none()) {
            *to = Some(now);
        }
    }

    /// The user stopped or destroyed the app.
    pub(super) fn user_ended(&mut self, now: u64) {
        self.not_live(now);
        self.excuse();
    }

    pub(super) fn forgotten(&mut self) {
        self.excuse();
    }

    pub(super) fn proven(&mut self, id: &InstanceId, started: Millis) {
        self.proven.insert((id.clone(), started));
    }

    fn was_ever_proven(&self, id: &InstanceId) -> bool {
        self.proven.range((id.clone(), Millis(0))..).next().is_some_and(|(first, _)| first == id)
    }

    pub(super) fn planned(&self, plan: &Plan, unknown: bool) -> Result<(), String> {
        let harmless = |a: &Action| matches!(a, Action::Fail { .. } | Action::Announce(_));
        if unknown && (plan.route.is_some() || !plan.actions.iter().all(harmless)) {
            return Err(format!("the engine is away and the plan is {plan:?}"));
        }
        let mut subjects = BTreeSet::new();
        match plan.actions.iter().find(|a| !subjects.insert(a.subject())) {
            Some(action) => Err(format!("two actions on one subject: {action:?}")),
            None => Ok(()),
        }
    }
}

impl World {
    /// A process ended by itself: excused if it is of what serves, is about to, or served in the
    /// table that the proxy has or would start from.
    pub(super) fn crashed(&mut self, id: &InstanceId, since: Millis, rollout: &DeploymentId) {
        self.checks.crashes.insert((id.clone(), since));
        let app = self.store.app.as_ref();
        let rolling = app.and_then(|a| a.deployment(rollout)).is_some_and(|d| !d.finished);
        let live = app.is_some_and(|a| a.live.as_ref() == Some(rollout));
        let tables = [&self.proxy.table, &self.proxy.durable];
        let mut routed = tables.into_iter().flat_map(Table::targets);
        if live || rolling || routed.any(|t| t.instance == *id && t.role == Role::Serve) {
            self.checks.excuse();
            self.checks.excused_at = self.now;
        }
    }

    /// Requests that were answered are answered, or there is a reason.
    pub(super) fn check(&mut self) -> Result<(), String> {
        let app = self.store.app.as_ref();
        // What must be alone is stopped before it is started again.
        let stops = |a: &App| {
            let mut wishes = a.replace.iter();
            let alone = a.live_release.is_some_and(|n| a.releases[n as usize - 1].spec.recreates());
            let runs = |(id, since): (&InstanceId, &Millis)| {
                self.engine.get(id).is_some_and(|c| c.is_running(*since))
            };
            a.makes_way() || (alone && wishes.any(runs))
        };
        let wanted = app.is_some_and(|a| a.wants(&ProcessType::web()) && !stops(a));
        if !wanted {
            self.checks.excuse();
            self.checks.unwanted_at = self.now;
            return Ok(());
        }
        for (n, table) in [&self.proxy.table, &self.proxy.durable].into_iter().enumerate() {
            if n == 0 && !self.proxy.up {
                continue;
            }
            if self.answers_knowingly(table) {
                // A table from when no answers were wanted may still be on its way.
                let meant = table.read_at > self.checks.unwanted_at;
                // A snapshot from before a crash may be followed by one from amid it.
                let later = n == 0 || table.read_at > self.checks.excused_at;
                self.checks.answered[n] |= meant && later;
            } else if self.checks.answered[n] {
                // What was planned before a crash was known may still be on its way.
                let serve = table.targets().iter().filter(|t| t.role == Role::Serve);
                let mut starts = serve.map(|t| (t.instance.clone(), t.started));
                if starts.any(|start| self.checks.crashes.contains(&start)) {
                    self.checks.excuse();
                    self.checks.excused_at = self.now;
                    continue;
                }
                if self.answers(table) {
                    continue;
                }
                let (which, route) = (["table", "snapshot"][n], shown(table.route.as_ref()));
                return Err(format!("nobody answers by the proxy's {which}: {route}"));
            }
        }
        Ok(())
    }

    /// What must run alone does.
    pub(super) fn check_alone(&self, id: &InstanceId) -> Result<(), String> {
        let Some(own) = self.engine.get(id) else { return Ok(()) };
        let other = self.engine.containers.iter().find(|c| {
            c.app == own.app
                && c.seen.rollout != own.seen.rollout
                && c.seen.state.is_running()
                && (c.seen.alone || own.seen.alone)
        });
        match other {
            Some(other) => {
                Err(format!("{id} starts while {} runs, and one is alone", other.seen.id))
            }
            None => Ok(()),
        }
    }

    pub(super) fn check_decided(&mut self, intent: &Intent, plan: &Plan) -> Result<(), String> {
        let drains = plan.route.iter().flat_map(|r| &r.targets).filter(|t| t.role == Role::Drain);
        for target in drains {
            self.checks.left_at.entry(target.instance.clone()).or_insert(self.now);
        }
        for action in &plan.actions {
            if let (Action::Stop { instance, .. }, true) = (action, intent.desired != Desired::Run)
                && let Some(at) = self.checks.left_at.get(instance)
                && self.now >= at + TIMING.drain_ms
            {
                self.checks.given_up.insert(instance.clone());
            }
        }
        let web = ProcessType::web();
        for action in &plan.actions {
            let (Action::Commit(id), Some(candidate)) = (action, &intent.candidate) else {
                continue;
            };
            let release =
                self.store.app.as_ref().map(|a| &a.releases[candidate.release as usize - 1]);
            if release.is_some_and(|r| r.command != Command::None && !r.prepared) {
                return Err(format!("{id} is committed and its command has not run"));
            }
            let unproven = slots(&candidate.spec).filter(|(p, _)| **p == web).find(|(p, n)| {
                !self.engine.containers.iter().any(|c| {
                    let i = &c.seen;
                    let here = i.rollout == *id && i.process == **p && i.ordinal == *n;
                    here && self.checks.was_ever_proven(&i.id)
                })
            });
            if let Some((process, n)) = unproven {
                return Err(format!("{id} is committed and {process}.{n} never answered"));
            }
        }
        Ok(())
    }

    /// Requests go to what is live, or was when the table was planned; to what was live before
    /// only while nothing of the live rollout serves.
    pub(super) fn check_serve(&self, table: &Table) -> Result<(), String> {
        let serving = || table.targets().iter().filter(|t| t.role == Role::Serve);
        let live = self.checks.live.last().filter(|(_, _, to)| to.is_none()).map(|(id, ..)| id);
        let live_serves = serving().any(|t| self.checks.rollouts.get(&t.instance) == live);
        for target in serving() {
            if !self.checks.proven.contains(&(target.instance.clone(), target.started)) {
                return Err(format!("{} serves and this start never answered", target.instance));
            }
            let rollout = self.checks.rollouts.get(&target.instance);
            let Some((id, _, to)) =
                self.checks.live.iter().rev().find(|(id, ..)| Some(id) == rollout)
            else {
                return Err(format!(
                    "{} of {rollout:?} serves and was never live",
                    target.instance
                ));
            };
            let in_time = to.is_none_or(|to| to >= table.read_at);
            if !in_time && live_serves {
                return Err(format!("{} of {id} serves beside the live {live:?}", target.instance));
            }
        }
        Ok(())
    }

    /// No table in use, in memory or on disk, has the address for anybody else.
    pub(super) fn check_new_address(&mut self, made: &Made) -> Result<(), String> {
        self.checks.rollouts.insert(made.id.clone(), made.rollout.clone());
        let tables = [&self.proxy.table, &self.proxy.durable];
        let mut routed = tables.into_iter().flat_map(Table::targets);
        if let Some(target) = routed.find(|t| t.addr.ip() == made.address) {
            let other = &target.instance;
            return Err(format!("{} gets the address that {other} has in the table", made.id));
        }
        Ok(())
    }

    /// Whether nobody minds what becomes of an instance: the user ended its app.
    fn is_given_up(&self, id: &InstanceId) -> bool {
        let Some(app) = &self.store.app else { return true };
        let of_another = self.engine.get(id).is_some_and(|c| c.app != app.number);
        of_another || self.checks.given_up.contains(id)
    }

    /// We stop an instance: no table in use may send requests to it.
    pub(super) fn check_stop(&self, id: &InstanceId) -> Result<(), String> {
        if self.is_given_up(id) {
            return Ok(());
        }
        let tables = [&self.proxy.table, &self.proxy.durable];
        let mut routed = tables.into_iter().flat_map(Table::targets);
        match routed.find(|t| t.instance == *id && t.role == Role::Serve) {
            Some(_) => Err(format!("{id} is stopped while a table of the proxy sends it requests")),
            None => Ok(()),
        }
    }

    /// Requests in flight are cut: their drain time must be over.
    pub(super) fn check_cut(
        &self,
        id: &InstanceId,
        since: Millis,
        why: &str,
    ) -> Result<(), String> {
        let drains = self.proxy.drains_since.get(&(id.clone(), since));
        let over = drains.is_some_and(|at| self.now >= at + TIMING.drain_ms);
        if over || self.is_given_up(id) {
            return Ok(());
        }
        let had = drains.map_or(0, |at| self.now - at);
        Err(format!("requests at {id} are cut after {had} ms of drain time: {why}"))
    }

    /// Why the world is not what the intent says; `None` when it is, and nothing is under way.
    pub(super) fn unrest(&self) -> Option<String> {
        let Some(controller) = &self.controller else { return Some("no controller".into()) };
        let Some(app) = &self.store.app else {
            let left = !self.engine.containers.is_empty() || self.proxy.table.route.is_some();
            return left.then(|| "something is left of a destroyed app".to_owned());
        };
        if let Some(d) = app.deployments.iter().find(|d| !d.finished) {
            return Some(format!("{} is {:?}", d.id, d.status));
        }
        if app.desired == Desired::Destroy {
            return Some("the app is not gone yet".to_owned());
        }
        let intent = self.store.intent()?;
        let live = intent.live.as_ref().filter(|_| intent.desired == Desired::Run);
        let nature = live.map_or(Nature::Good, |l| app.nature(l.release));
        let wanted: Vec<_> = live.iter().flat_map(|l| slots(&l.spec)).collect();
        if nature == Nature::Refused {
            return None;
        }
        let wished = |c: &&super::engine::Container| {
            app.replace.get(&c.seen.id).is_some_and(|since| c.is_running(*since))
        };
        if let Some(c) = self.engine.containers.iter().find(wished) {
            return Some(format!("{} is not replaced", c.seen.id));
        }
        for c in &self.engine.containers {
            let i = &c.seen;
            let own = live.is_some_and(|l| l.id == i.rollout);
            if !own || !wanted.contains(&(&i.process, i.ordinal)) {
                return Some(format!("{} is left of {}", i.id, i.rollout));
            }
        }
        for (process, n) in &wanted {
            let here = |i: &crate::ports::Instance| i.process == **process && i.ordinal == *n;
            let own: Vec<_> = self.engine.containers.iter().filter(|c| here(&c.seen)).collect();
            // Nothing else is started before web is up.
            let held = !process.is_web() && !nature.listens();
            if held && own.is_empty() && wanted.iter().any(|(p, _)| p.is_web()) {
                continue;
            }
            let [c] = own[..] else {
                return Some(format!("{process}.{n} has {} instances", own.len()));
            };
            let role = |role| {
                self.proxy.targets().iter().any(|t| t.instance == c.seen.id && t.role == role)
            };
            let well = !process.is_web() || !nature.listens() || c.answers(self.now);
            if !well {
                return Some(format!("{} answers nobody", c.seen.id));
            }
            let routed = !process.is_web() || !nature.listens() || role(Role::Serve);
            if nature != Nature::Exits && !(c.seen.state.is_running() && routed) {
                return Some(format!("{} is {:?}, routed: {routed}", c.seen.id, c.seen.state));
            }
        }
        let routes = self.proxy.targets().len();
        if nature.listens() && routes != wanted.iter().filter(|(p, _)| p.is_web()).count() {
            return Some(format!(
                "the proxy's table is {}",
                shown(self.proxy.table.route.as_ref())
            ));
        }
        let rests = controller.driver.as_ref().is_some_and(super::driver::Driver::at_rest);
        (!rests && nature != Nature::Exits).then(|| "something is under way".to_owned())
    }
}
