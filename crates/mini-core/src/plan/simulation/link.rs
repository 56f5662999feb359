//! The controller's end of the connection to the proxy, as the real one keeps it: nothing is sent
//! before every app has planned, then the whole table, then single entries.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, Input};
use super::proxy::{Table, shown};
use super::{Sabotage, World};
use crate::control::{FromProxy, Verdict};
use crate::id::InstanceId;
use crate::plan::ProxyView;
use crate::route::{AppRoute, Role};
use crate::time::Millis;

#[derive(Default)]
pub(super) struct Link {
    /// The connection that said hello; 0 is none.
    pub(super) connection: u64,
    dialed: u64,
    table_sent: bool,
    others_planned: bool,
    generation: u64,
    applied: u64,
    durable: u64,
    /// Planned while the table waits.
    planned: Option<AppRoute>,
    sent: Option<(u64, AppRoute)>,
    health: BTreeMap<InstanceId, (Millis, Verdict)>,
    drained: BTreeSet<InstanceId>,
    spoke_at: u64,
}

impl Link {
    pub(super) fn view(&self, ids: &[InstanceId]) -> ProxyView {
        let sent = self.sent.as_ref();
        let health = ids.iter().filter_map(|id| Some((id.clone(), self.health.get(id)?.clone())));
        ProxyView {
            connected: self.connection != 0 && self.table_sent,
            health: health.collect(),
            drained: ids.iter().filter(|id| self.drained.contains(id)).cloned().collect(),
            sent: sent.map(|(_, route)| route.clone()),
            sent_is_applied: sent.is_some_and(|(generation, _)| self.applied >= *generation),
            sent_is_durable: self.is_durable(),
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.sent.as_ref().is_some_and(|(generation, _)| self.durable >= *generation)
    }

    pub(super) fn sent_route(&self) -> Option<&AppRoute> {
        self.sent.as_ref().map(|(_, route)| route)
    }

    pub(super) fn prune(&mut self, gone: &InstanceId) {
        self.health.remove(gone);
        self.drained.remove(gone);
    }

    /// Whether the proxy is known to let the instance finish: a word about an earlier drain,
    /// between which and now it served again, does not count.
    fn drains(&self, id: &InstanceId) -> bool {
        let Some((generation, route)) = &self.sent else { return false };
        let mut targets = route.targets.iter();
        self.applied >= *generation && targets.any(|t| t.instance == *id && t.role == Role::Drain)
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }
}

impl World {
    fn say(&mut self, generation: u64, route: Option<AppRoute>, is_whole: bool) {
        let late = if self.faults { 2_000 } else { 5 };
        let delay = self.rng.delay(3, late);
        let now = self.now;
        let Some(controller) = self.controller.as_mut() else { return };
        let at = (now + delay).max(controller.link.spoke_at);
        controller.link.spoke_at = at;
        let connection = controller.link.connection;
        let table = Table { generation, read_at: self.checks.read_at, route };
        self.at(at, Event::ToProxy { connection, table, is_whole });
    }

    pub(super) fn dial(&mut self) {
        let Some(controller) = self.controller.as_mut() else { return };
        let epoch = controller.epoch;
        if controller.link.connection != 0 {
            return;
        }
        if !self.proxy.up {
            return self.after(100, Event::Controller(epoch, Input::Dial));
        }
        self.connections += 1;
        controller.link.dialed = self.connections;
        self.proxy_greets(self.connections);
    }

    pub(super) fn hung_up(&mut self, connection: u64) {
        let Some(controller) = self.controller.as_mut() else { return };
        let link = &mut controller.link;
        if connection != link.dialed && connection != link.connection {
            return;
        }
        let (generation, applied, durable) = (link.generation, link.applied, link.durable);
        *link = Link { generation, applied, durable, ..Link::default() };
        let epoch = controller.epoch;
        self.log(|| "controller: the proxy is away".to_owned());
        self.after(100, Event::Controller(epoch, Input::Dial));
        self.wake();
    }

    pub(super) fn link_hears(&mut self, connection: u64, document: FromProxy) {
        let Some(controller) = self.controller.as_mut() else { return };
        let (epoch, link) = (controller.epoch, &mut controller.link);
        if connection != link.connection && connection != link.dialed {
            return;
        }
        match document {
            FromProxy::Hello { generation, serving, .. } => {
                let generation = link.generation.max(generation);
                let serving = serving.into_iter();
                let health = serving.map(|(id, at)| (id, (at, Verdict::Healthy))).collect();
                *link =
                    Link { connection, dialed: connection, generation, health, ..Link::default() };
                let delay = self.rng.delay(50, 2_000);
                self.after(delay, Event::Controller(epoch, Input::OthersPlanned(connection)));
                self.log(|| "controller: the proxy is there".to_owned());
                self.wake();
            }
            FromProxy::Applied { generation } => {
                link.applied = link.applied.max(generation);
                self.wake();
            }
            FromProxy::Durable { generation } => {
                link.durable = link.durable.max(generation);
                self.wake();
                self.wake_starts();
            }
            FromProxy::Refused { current, .. } => {
                link.generation = link.generation.max(current);
                self.hung_up(connection);
            }
            FromProxy::Health { instance, started, verdict } => {
                link.health.insert(instance, (started, verdict));
                self.wake();
            }
            FromProxy::Drained { instance } => {
                if link.drains(&instance) || self.sabotage == Some(Sabotage::StaleDrained) {
                    link.drained.insert(instance);
                }
                self.wake();
            }
            FromProxy::Status(_) | FromProxy::Requests { .. } | FromProxy::Metrics { .. } => {}
            FromProxy::Estate(_)
            | FromProxy::Leaving
            | FromProxy::Stays { .. }
            | FromProxy::Challenged { .. } => {}
        }
    }

    pub(super) fn others_planned(&mut self, connection: u64) {
        let Some(controller) = self.controller.as_mut() else { return };
        if controller.link.connection == connection {
            controller.link.others_planned = true;
            if self.send_table_if_whole() {
                self.wake();
            }
        }
    }

    fn send_table_if_whole(&mut self) -> bool {
        let Some(controller) = self.controller.as_mut() else { return false };
        let expected = controller.driver.is_some();
        let link = &mut controller.link;
        let whole = link.others_planned && (!expected || link.planned.is_some());
        if link.connection == 0 || link.table_sent || !whole {
            return false;
        }
        let generation = link.next_generation();
        let route = link.planned.take();
        link.sent = route.clone().map(|route| (generation, route));
        link.table_sent = true;
        self.log(|| format!("controller: sends the table {generation}: {}", shown(route.as_ref())));
        self.say(generation, route, true);
        true
    }

    /// Tells the proxy the app's route, if it is news.
    pub(super) fn publish(&mut self, route: &AppRoute) -> bool {
        let Some(controller) = self.controller.as_mut() else { return false };
        let link = &mut controller.link;
        if link.connection == 0 {
            return false;
        }
        if !link.table_sent {
            link.planned = Some(route.clone());
            return self.send_table_if_whole();
        }
        if link.sent.as_ref().is_some_and(|(_, sent)| sent == route) {
            return false;
        }
        let generation = link.next_generation();
        link.sent = Some((generation, route.clone()));
        if self.sabotage != Some(Sabotage::StaleDrained) {
            let drains = |id: &InstanceId| {
                route.targets.iter().any(|t| t.instance == *id && t.role == Role::Drain)
            };
            link.drained.retain(drains);
        }
        self.log(|| format!("controller: sends {generation}: {}", shown(Some(route))));
        self.say(generation, Some(route.clone()), false);
        true
    }

    /// The app is gone for good.
    pub(super) fn forget_route(&mut self) {
        let Some(controller) = self.controller.as_mut() else { return };
        let link = &mut controller.link;
        link.planned = None;
        if link.table_sent && link.sent.take().is_some() {
            let generation = link.next_generation();
            self.say(generation, None, false);
        }
        self.send_table_if_whole();
    }
}
