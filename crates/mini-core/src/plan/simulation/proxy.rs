//! The proxy: a route table in memory, an older one on disk, requests, probes.

use std::collections::BTreeMap;

use super::World;
use super::event::{Event, Input};
use crate::control::{FromProxy, Verdict};
use crate::id::InstanceId;
use crate::route::{AppRoute, Role, Target};
use crate::time::Millis;

/// The one app's entry of a route table.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) generation: u64,
    /// When the intent was read that it comes from.
    pub(super) read_at: u64,
    pub(super) route: Option<AppRoute>,
}

#[derive(Debug)]
pub(super) struct Request {
    number: u64,
    pub(super) instance: InstanceId,
    started: Millis,
}

#[derive(Default)]
pub(super) struct Proxy {
    pub(super) up: bool,
    /// Counts its processes.
    life: u64,
    /// The controller's connection; 0 is none.
    pub(super) connection: u64,
    /// The table came over this connection.
    ready: bool,
    pub(super) table: Table,
    pub(super) durable: Table,
    saving: Option<Table>,
    health: BTreeMap<(InstanceId, Millis), Verdict>,
    pub(super) requests: Vec<Request>,
    requests_made: u64,
    /// Since when a target is not sent requests any more.
    pub(super) drains_since: BTreeMap<(InstanceId, Millis), u64>,
    pub(super) heard_at: u64,
}

impl Table {
    pub(super) fn targets(&self) -> &[Target] {
        self.route.as_ref().map_or(&[], |r| r.targets.as_slice())
    }
}

impl Proxy {
    pub(super) fn targets(&self) -> &[Target] {
        self.table.targets()
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    fn has(&self, id: &InstanceId, started: Millis, role: Role) -> bool {
        let mut targets = self.targets().iter();
        targets.any(|t| t.instance == *id && t.started == started && t.role == role)
    }

    fn busy(&self, id: &InstanceId, started: Millis) -> bool {
        self.requests.iter().any(|r| r.instance == *id && r.started == started)
    }
}

impl World {
    /// Says something to the controller, in order.
    pub(super) fn proxy_says(&mut self, document: FromProxy) {
        let connection = self.proxy.connection;
        let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) else { return };
        if connection == 0 {
            return;
        }
        let late = if self.faults { 1_000 } else { 5 };
        let at = (self.now + self.rng.delay(3, late)).max(self.proxy.heard_at);
        self.proxy.heard_at = at;
        let input = Input::FromProxy { connection, document };
        self.at(at, Event::Controller(epoch, input));
    }

    /// A controller connects.
    pub(super) fn proxy_greets(&mut self, connection: u64) {
        self.proxy.connection = connection;
        self.proxy.ready = false;
        let serve = self.proxy.targets().iter().filter(|t| t.role == Role::Serve);
        let serving = serve.map(|t| (t.instance.clone(), t.started)).collect();
        let hello = FromProxy::Hello {
            version: String::new(),
            generation: self.proxy.table.generation,
            durable: self.proxy.durable.generation,
            boot_id: String::new(),
            pid: 1,
            serving,
        };
        self.proxy_says(hello);
    }

    pub(super) fn proxy_hears(
        &mut self,
        connection: u64,
        table: Table,
        is_whole: bool,
    ) -> Result<(), String> {
        if !self.proxy.up || connection != self.proxy.connection {
            return Ok(());
        }
        let (generation, current) = (table.generation, self.proxy.table.generation);
        if generation <= current {
            self.proxy_says(FromProxy::Refused { generation, current });
            return Ok(());
        }
        self.apply(table)?;
        if is_whole {
            self.proxy.ready = true;
            self.tell_all();
        }
        Ok(())
    }

    fn apply(&mut self, table: Table) -> Result<(), String> {
        let generation = table.generation;
        self.log(|| format!("proxy: applies {generation}: {}", shown(table.route.as_ref())));
        self.check_serve(&table)?;
        let old = std::mem::replace(&mut self.proxy.table, table);
        self.proxy_says(FromProxy::Applied { generation });
        for target in old.targets() {
            let key = (target.instance.clone(), target.started);
            let now =
                self.proxy.targets().iter().find(|t| (&t.instance, t.started) == (&key.0, key.1));
            match now.map(|t| t.role) {
                Some(Role::Serve) => {
                    self.proxy.drains_since.remove(&key);
                }
                Some(_) => {
                    self.proxy.drains_since.entry(key).or_insert(self.now);
                }
                None => {
                    if self.proxy.busy(&key.0, key.1) {
                        self.proxy.drains_since.entry(key.clone()).or_insert(self.now);
                        self.check_cut(&key.0, key.1, "its target left the table")?;
                    }
                    self.proxy.requests.retain(|r| r.instance != key.0 || r.started != key.1);
                    self.proxy.health.remove(&key);
                    self.proxy.drains_since.remove(&key);
                }
            }
        }
        self.probe_all();
        let idle: Vec<InstanceId> = self.idle_drains();
        if self.proxy.ready {
            for instance in idle {
                self.proxy_says(FromProxy::Drained { instance });
            }
        }
        self.save();
        Ok(())
    }

    fn idle_drains(&self) -> Vec<InstanceId> {
        let drains = self.proxy.targets().iter().filter(|t| t.role == Role::Drain);
        let idle = drains.filter(|t| !self.proxy.busy(&t.instance, t.started));
        idle.map(|t| t.instance.clone()).collect()
    }

    fn tell_all(&mut self) {
        for instance in self.idle_drains() {
            self.proxy_says(FromProxy::Drained { instance });
        }
        let probed = self.proxy.targets().iter().filter(|t| t.role != Role::Drain);
        let keys: Vec<_> = probed.map(|t| (t.instance.clone(), t.started)).collect();
        for key in keys {
            if let Some(verdict) = self.proxy.health.get(&key).cloned() {
                let (instance, started) = key;
                self.proxy_says(FromProxy::Health { instance, started, verdict });
            }
        }
    }

    /// Sees to it that every target that is not draining is asked once it listens.
    fn probe_all(&mut self) {
        // What drains is not asked: when it is again, its first verdict is told as news.
        let drains = self.proxy.table.targets().iter().filter(|t| t.role == Role::Drain);
        for t in drains {
            self.proxy.health.remove(&(t.instance.clone(), t.started));
        }
        let targets: Vec<_> = self
            .proxy
            .targets()
            .iter()
            .filter(|t| t.role != Role::Drain)
            .map(|t| (t.instance.clone(), t.started))
            .filter(|key| !self.proxy.health.contains_key(key))
            .collect();
        for (id, started) in targets {
            let why = "connection refused".to_owned();
            let first = Verdict::Unhealthy { why };
            self.proxy.health.insert((id.clone(), started), first);
            let container = self.engine.get(&id).filter(|c| c.is_running(started));
            let Some(listens_at) = container.and_then(|c| c.listens_at) else { continue };
            let at = listens_at.max(self.now) + self.rng.delay(30, 3_000);
            self.at(at, Event::Probed { proxy: self.proxy.life, id, started });
        }
    }

    pub(super) fn probed(&mut self, proxy: u64, id: InstanceId, started: Millis) {
        if proxy != self.proxy.life {
            return;
        }
        let asked =
            self.proxy.has(&id, started, Role::Probe) || self.proxy.has(&id, started, Role::Serve);
        let runs = self.engine.get(&id).is_some_and(|c| c.is_running(started));
        let answers = self.engine.get(&id).is_some_and(|c| c.listens(started, self.now));
        if !asked || !runs {
            return;
        }
        // Slow for a moment, now and then.
        let slow = !answers || (self.faults && self.rng.percent(3));
        let verdict = match slow {
            true => Verdict::Unhealthy { why: "no answer within 5 s".to_owned() },
            false => {
                self.checks.proven(&id, started);
                Verdict::Healthy
            }
        };
        if (slow && answers) || (self.faults && self.rng.percent(10)) {
            let again = self.rng.between(500, 3_000);
            self.after(again, Event::Probed { proxy: self.proxy.life, id: id.clone(), started });
        }
        let old = self.proxy.health.insert((id.clone(), started), verdict.clone());
        if old.as_ref() != Some(&verdict) && self.proxy.ready {
            self.log(|| format!("proxy: {id} is {verdict:?}"));
            self.proxy_says(FromProxy::Health { instance: id, started, verdict });
        }
    }

    fn save(&mut self) {
        if self.proxy.saving.is_some()
            || self.proxy.durable.generation >= self.proxy.table.generation
        {
            return;
        }
        let (proxy, generation) = (self.proxy.life, self.proxy.table.generation);
        self.proxy.saving = Some(self.proxy.table.clone());
        let late = if self.faults { 8_000 } else { 50 };
        let delay = self.rng.delay(20, late);
        self.after(delay, Event::Saved { proxy, generation });
    }

    pub(super) fn saved(&mut self, proxy: u64, generation: u64) {
        let Some(saved) = self.proxy.saving.take_if(|_| proxy == self.proxy.life) else { return };
        self.proxy.durable = saved;
        self.proxy_says(FromProxy::Durable { generation });
        self.save();
    }

    pub(super) fn request(&mut self) {
        let serve: Vec<_> = self.proxy.targets().iter().filter(|t| t.role == Role::Serve).collect();
        if !self.proxy.up || serve.is_empty() {
            return;
        }
        let target = serve[self.rng.below(serve.len() as u64) as usize];
        let (instance, started) = (target.instance.clone(), target.started);
        // A request to a start that the table does not know counts for nothing: it crashed.
        if !self.engine.get(&instance).is_some_and(|c| c.listens(started, self.now)) {
            return;
        }
        self.proxy.requests_made += 1;
        let number = self.proxy.requests_made;
        self.proxy.requests.push(Request { number, instance, started });
        let takes = match self.rng.below(10) {
            0 => return, // A WebSocket: it never ends.
            1 | 2 => self.rng.between(1_000, 8_000),
            _ => self.rng.between(1, 300),
        };
        self.after(takes, Event::RequestEnds(number));
    }

    pub(super) fn request_ends(&mut self, number: u64) {
        let Some(at) = self.proxy.requests.iter().position(|r| r.number == number) else { return };
        let Request { instance, started, .. } = self.proxy.requests.swap_remove(at);
        let drains = self.proxy.has(&instance, started, Role::Drain);
        if drains && self.proxy.ready && !self.proxy.busy(&instance, started) {
            self.proxy_says(FromProxy::Drained { instance });
        }
    }

    /// A process ends while requests are at it.
    pub(super) fn cut_by_exit(&mut self, id: &InstanceId) -> Result<(), String> {
        let at_it = self.proxy.requests.iter().find(|r| r.instance == *id).map(|r| r.started);
        if let Some(started) = at_it {
            self.check_cut(id, started, "it was stopped")?;
            self.proxy.requests.retain(|r| r.instance != *id);
        }
        Ok(())
    }

    pub(super) fn hang_up(&mut self) {
        let connection = self.proxy.connection;
        if connection == 0 {
            return;
        }
        self.log(|| "FAULT the connection to the proxy is cut".to_owned());
        // What was said already may still be read.
        if self.rng.percent(50) {
            self.proxy.connection = 0;
        }
        self.proxy.heard_at = 0;
        self.tell_hung_up(connection);
    }

    fn tell_hung_up(&mut self, connection: u64) {
        let delay = self.rng.delay(5, 2_000);
        if let Some(epoch) = self.controller.as_ref().map(|c| c.epoch) {
            self.after(delay, Event::Controller(epoch, Input::HungUp(connection)));
        }
    }

    pub(super) fn kill_proxy(&mut self) {
        if !self.proxy.up {
            return;
        }
        self.log(|| "FAULT the proxy is killed".to_owned());
        let connection = std::mem::take(&mut self.proxy.connection);
        self.tell_hung_up(connection);
        // What was being written may be on the disk, and nobody was told.
        if self.rng.percent(50)
            && let Some(saving) = self.proxy.saving.take()
        {
            self.proxy.durable = saving;
        }
        let durable = std::mem::take(&mut self.proxy.durable);
        self.checks.answered[0] = self.checks.answered[1];
        let (life, requests_made) = (self.proxy.life, self.proxy.requests_made);
        self.proxy = Proxy { life, requests_made, durable, ..Proxy::default() };
        let back = self.rng.delay(500, 20_000);
        self.after(back, Event::ProxyUp);
    }

    pub(super) fn proxy_up(&mut self) {
        self.proxy.up = true;
        self.proxy.life += 1;
        let table = self.proxy.durable.clone();
        self.log(|| format!("the proxy starts with {}", shown(table.route.as_ref())));
        for t in table.targets().iter().filter(|t| t.role == Role::Drain) {
            self.proxy.drains_since.insert((t.instance.clone(), t.started), self.now);
        }
        self.proxy.table = table;
        // Written before what serves was started again: to the controller it is another start.
        if !self.answers_knowingly(&self.proxy.table) {
            self.checks.excuse();
        }
        self.probe_all();
    }

    /// Whether a request that comes now would be answered by this table.
    pub(super) fn answers(&self, table: &Table) -> bool {
        let mut serve = table.targets().iter().filter(|t| t.role == Role::Serve);
        serve.any(|t| self.engine.get(&t.instance).is_some_and(|c| c.answers(self.now)))
    }

    /// Whether it would, by a start of an instance that the table knows.
    pub(super) fn answers_knowingly(&self, table: &Table) -> bool {
        let mut serve = table.targets().iter().filter(|t| t.role == Role::Serve);
        serve.any(|t| self.engine.get(&t.instance).is_some_and(|c| c.listens(t.started, self.now)))
    }
}

pub(super) fn shown(route: Option<&AppRoute>) -> String {
    let Some(route) = route else { return "no route".to_owned() };
    let targets = route.targets.iter().map(|t| format!("{}={:?}", t.instance, t.role));
    format!("{:?} {}", route.web, targets.collect::<Vec<_>>().join(" "))
}
