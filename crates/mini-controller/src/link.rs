//! The controller's end of `control.sock`: what the proxy should route, and what it said.
//!
//! Drivers publish one app's route at a time. After (re)connecting, nothing is sent until every
//! app's driver has planned with what the proxy's hello said is serving: then the whole table goes
//! out at once, and single entries from there on. A proxy is never told of a route table that
//! lacks an app because the controller has not got to it yet.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use mini_core::control::{FromProxy, MAX_LINE, ProxyStatus, ToProxy, Verdict};
use mini_core::id::{InstanceId, ServerId};
use mini_core::name::AppName;
use mini_core::plan::ProxyView;
use mini_core::route::{AppRoute, Role};
use mini_core::time::Millis;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::codec::{Framed, LinesCodec};

use crate::core::Core;

const RETRY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    connected: bool,
    /// Whether the whole table went out on this connection.
    table_sent: bool,
    generation: u64,
    applied: u64,
    durable: u64,
    /// Every app that must have a route before the table goes out.
    expected: HashSet<AppName>,
    /// Routes planned while the table waits.
    planned: HashMap<AppName, AppRoute>,
    sent: HashMap<AppName, (u64, AppRoute)>,
    health: HashMap<InstanceId, (Millis, Verdict)>,
    drained: HashSet<InstanceId>,
    out: Option<mpsc::UnboundedSender<ToProxy>>,
    status: Option<ProxyStatus>,
}

pub(crate) struct Link {
    path: PathBuf,
    server: ServerId,
    version: String,
    state: Mutex<State>,
    /// Counts up whenever the proxy wrote a snapshot.
    durable: watch::Sender<u64>,
}

impl Link {
    pub(crate) fn new(path: PathBuf, server: ServerId, version: String) -> Self {
        Self { path, server, version, state: Mutex::default(), durable: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connected(&self) -> bool {
        self.state().connected
    }

    /// What the proxy last said of itself.
    #[expect(dead_code, reason = "for the status command of the next release")]
    pub(crate) fn status(&self) -> Option<ProxyStatus> {
        self.state().status.clone()
    }

    /// An app from now on has a driver, and the table waits for it.
    pub(crate) fn expect(&self, app: &AppName) {
        self.state().expected.insert(app.clone());
    }

    /// An app is gone for good.
    pub(crate) fn forget(&self, app: &AppName) {
        let mut state = self.state();
        state.expected.remove(app);
        state.planned.remove(app);
        if state.table_sent && state.sent.remove(app).is_some() {
            state.generation += 1;
            let generation = state.generation;
            state.send(ToProxy::Forget { generation, app: app.clone() });
        }
        state.send_table_if_whole();
    }

    /// Tells the proxy an app's route, if it is not what it was told last. Returns whether it
    /// was news.
    pub(crate) fn publish(&self, route: &AppRoute) -> bool {
        let mut state = self.state();
        if !state.connected {
            return false;
        }
        if !state.table_sent {
            state.planned.insert(route.app.clone(), route.clone());
            return state.send_table_if_whole();
        }
        if state.sent.get(&route.app).is_some_and(|(_, sent)| sent == route) {
            return false;
        }
        state.generation += 1;
        let generation = state.generation;
        let before = state.sent.insert(route.app.clone(), (generation, route.clone()));
        state.forget_leavers(before.map(|(_, before)| before), route);
        state.send(ToProxy::App { generation, route: route.clone() });
        true
    }

    /// What the proxy knows of one app.
    pub(crate) fn view(&self, app: &AppName, instances: &[InstanceId]) -> ProxyView {
        let state = self.state();
        let sent = state.sent.get(app);
        let health = instances
            .iter()
            .filter_map(|id| state.health.get(id).map(|verdict| (id.clone(), verdict.clone())));
        ProxyView {
            connected: state.connected && state.table_sent,
            health: health.collect(),
            drained: instances.iter().filter(|id| state.drained.contains(id)).cloned().collect(),
            sent: sent.map(|(_, route)| route.clone()),
            sent_is_applied: sent.is_some_and(|(generation, _)| state.applied >= *generation),
            sent_is_durable: sent.is_some_and(|(generation, _)| state.durable >= *generation),
        }
    }

    /// The last verdict on an instance.
    pub(crate) fn verdict(&self, id: &InstanceId) -> Option<Verdict> {
        self.state().health.get(id).map(|(_, verdict)| verdict.clone())
    }

    /// Whether requests are sent to the instance.
    pub(crate) fn serves(&self, id: &InstanceId, app: &AppName) -> bool {
        self.role(id, app) == Some(Role::Serve)
    }

    /// Whether the instance finishes its requests.
    pub(crate) fn drains(&self, id: &InstanceId, app: &AppName) -> bool {
        self.role(id, app) == Some(Role::Drain)
    }

    fn role(&self, id: &InstanceId, app: &AppName) -> Option<Role> {
        let state = self.state();
        let (_, route) = state.sent.get(app)?;
        route.targets.iter().find(|t| t.instance == *id).map(|t| t.role)
    }

    /// Waits until the proxy's snapshot on disk is as new as the app's route, so that no address
    /// outside that route is in it. False when that took too long.
    pub(crate) async fn durable(&self, app: &AppName, wait: Duration) -> bool {
        let mut durable = self.durable.subscribe();
        let is_durable = |_: &u64| {
            let state = self.state();
            state.sent.get(app).is_some_and(|(generation, _)| state.durable >= *generation)
        };
        tokio::time::timeout(wait, durable.wait_for(is_durable)).await.is_ok_and(|r| r.is_ok())
    }

    /// Forgets what was said about instances that are gone.
    pub(crate) fn prune(&self, gone: &InstanceId) {
        let mut state = self.state();
        state.health.remove(gone);
        state.drained.remove(gone);
    }

    fn connected_with(&self, hello: Hello, out: mpsc::UnboundedSender<ToProxy>) {
        let mut state = self.state();
        state.connected = true;
        state.table_sent = false;
        state.generation = state.generation.max(hello.generation);
        // The snapshot of an older table says nothing about routes of this connection.
        state.applied = 0;
        state.durable = 0;
        state.planned.clear();
        state.sent.clear();
        state.drained.clear();
        let serving = hello.serving.into_iter();
        state.health = serving.map(|(id, at)| (id, (at, Verdict::Healthy))).collect();
        state.out = Some(out);
        state.send_table_if_whole();
    }

    fn disconnected(&self) {
        let mut state = self.state();
        state.connected = false;
        state.table_sent = false;
        state.out = None;
        state.sent.clear();
        state.health.clear();
        state.drained.clear();
    }

    /// Takes in a document; returns the instance whose app should plan again.
    fn heard(&self, document: FromProxy) -> Wake {
        let mut state = self.state();
        match document {
            FromProxy::Hello { .. } => Wake::Nobody,
            FromProxy::Applied { generation } => {
                state.applied = state.applied.max(generation);
                Wake::Waiting
            }
            FromProxy::Durable { generation } => {
                state.durable = state.durable.max(generation);
                drop(state);
                self.durable.send_modify(|n| *n += 1);
                Wake::Waiting
            }
            FromProxy::Refused { generation, current } => {
                // Another controller spoke to this proxy: start over above its generation.
                tracing::warn!(generation, current, "the proxy refused a route");
                state.generation = state.generation.max(current);
                Wake::Reconnect
            }
            FromProxy::Health { instance, started, verdict } => {
                let news = (started, verdict);
                let old = state.health.insert(instance.clone(), news.clone());
                if old.as_ref() == Some(&news) { Wake::Nobody } else { Wake::Instance(instance) }
            }
            // Of this drain, and not of an earlier one whose word was still on its way: the proxy
            // says it again after each route that it applies.
            FromProxy::Drained { instance } if state.drains(&instance) => {
                state.drained.insert(instance.clone());
                Wake::Instance(instance)
            }
            FromProxy::Drained { .. } => Wake::Nobody,
            FromProxy::Status(status) => {
                state.status = Some(status);
                Wake::Nobody
            }
        }
    }
}

impl State {
    /// Whether the proxy has applied a route that has the instance as draining.
    fn drains(&self, id: &InstanceId) -> bool {
        self.sent.values().any(|(generation, route)| {
            self.applied >= *generation
                && route.targets.iter().any(|t| t.instance == *id && t.role == Role::Drain)
        })
    }

    /// What was said of targets that are no targets any more says nothing when they come back,
    /// nor does that one was drained when it drains again.
    fn forget_leavers(&mut self, before: Option<AppRoute>, now: &AppRoute) {
        for target in before.into_iter().flat_map(|r| r.targets) {
            let stays = now.targets.iter().find(|t| t.instance == target.instance);
            if stays.is_none() {
                self.health.remove(&target.instance);
            }
            if stays.is_some_and(|t| t.role != Role::Drain) {
                self.drained.remove(&target.instance);
            }
        }
    }

    fn send(&self, document: ToProxy) {
        if let Some(out) = &self.out {
            // A closed connection is noticed by its reader.
            let _ = out.send(document);
        }
    }

    fn send_table_if_whole(&mut self) -> bool {
        let whole = self.expected.iter().all(|app| self.planned.contains_key(app));
        if !self.connected || self.table_sent || !whole {
            return false;
        }
        self.generation += 1;
        let generation = self.generation;
        let planned = std::mem::take(&mut self.planned);
        let apps: Vec<AppRoute> = planned.values().cloned().collect();
        self.sent = planned.into_iter().map(|(app, route)| (app, (generation, route))).collect();
        self.table_sent = true;
        self.send(ToProxy::Table { generation, apps });
        true
    }
}

enum Wake {
    Nobody,
    Instance(InstanceId),
    /// Those that wait for the proxy to have taken, or written down, a route.
    Waiting,
    Reconnect,
}

struct Hello {
    generation: u64,
    serving: Vec<(InstanceId, Millis)>,
}

/// Keeps the connection. Ends with the process.
pub(crate) async fn keep(core: Arc<Core>) {
    let link = &core.link;
    let mut told = false;
    loop {
        match UnixStream::connect(&link.path).await {
            Ok(stream) => {
                told = false;
                let why = converse(&core, stream).await;
                link.disconnected();
                core.drivers.wake_all();
                tracing::warn!(%why, "the proxy is away");
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, "the proxy does not answer yet");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One connection, to its end.
async fn converse(core: &Core, stream: UnixStream) -> String {
    let (link, drivers) = (&core.link, &core.drivers);
    let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
    let (out, mut outgoing) = mpsc::unbounded_channel();
    let hello = ToProxy::Hello { server: link.server.clone(), version: link.version.clone() };
    if let Err(why) = send(&mut lines, &hello).await {
        return why;
    }
    let mut out = Some(out);
    loop {
        tokio::select! {
            line = lines.next() => {
                let line = match line {
                    Some(Ok(line)) => line,
                    Some(Err(error)) => return error.to_string(),
                    None => return "it closed the connection".into(),
                };
                let document = match serde_json::from_str(&line) {
                    Ok(document) => document,
                    Err(error) => return format!("it said what is no document: {error}"),
                };
                if let FromProxy::Hello { generation, serving, version, pid, .. } = document {
                    if let Some(out) = out.take() {
                        tracing::info!(generation, %version, pid, "the proxy is there");
                        link.connected_with(Hello { generation, serving }, out);
                        drivers.wake_all();
                    }
                    continue;
                }
                match link.heard(document) {
                    Wake::Nobody => {}
                    Wake::Instance(id) => {
                        if let Some(instance) = core.world.get(&id) {
                            drivers.wake(&instance.app);
                        }
                    }
                    Wake::Waiting => drivers.wake_waiting(),
                    Wake::Reconnect => return "its table is newer than ours".into(),
                }
            }
            Some(document) = outgoing.recv() => {
                if let Err(why) = send(&mut lines, &document).await {
                    return why;
                }
            }
        }
    }
}

async fn send(
    lines: &mut Framed<UnixStream, LinesCodec>,
    document: &ToProxy,
) -> Result<(), String> {
    let line = serde_json::to_string(document).map_err(|e| e.to_string())?;
    lines.send(line).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use mini_core::route::{Target, WebState};

    use super::*;

    #[test]
    fn one_that_serves_again_is_not_taken_for_drained() {
        let link = Link::new("x".into(), "s1".parse().unwrap(), "0".into());
        let (out, _kept) = mpsc::unbounded_channel();
        link.connected_with(Hello { generation: 0, serving: Vec::new() }, out);
        let id: InstanceId = "a".parse().unwrap();
        let publish = |role| {
            let target = Target {
                instance: id.clone(),
                started: Millis(1),
                addr: ([10, 0, 0, 2], 80).into(),
                process: "web.1".into(),
                release: 1,
                role,
            };
            assert!(link.publish(&AppRoute {
                app: "blue".parse().unwrap(),
                hosts: Vec::new(),
                web: WebState::Serving,
                targets: vec![target],
                health: mini_core::release::HealthSpec::default(),
            }));
        };
        let drained = || link.view(&"blue".parse().unwrap(), std::slice::from_ref(&id)).drained;
        let say_drained = || link.heard(FromProxy::Drained { instance: id.clone() });
        publish(Role::Drain);
        link.heard(FromProxy::Applied { generation: 2 });
        say_drained();
        assert_eq!(drained().len(), 1);
        publish(Role::Serve);
        publish(Role::Drain);
        assert!(drained().is_empty(), "it has requests again");
        // The word of the first drain, late.
        say_drained();
        assert!(drained().is_empty(), "the proxy has not taken the second drain yet");
        link.heard(FromProxy::Applied { generation: 4 });
        say_drained();
        assert_eq!(drained().len(), 1);
    }
}
