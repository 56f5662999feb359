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
use mini_core::control::{Certificate, Challenge, FromProxy, MAX_LINE, ToProxy, Verdict};
use mini_core::fault;
use mini_core::id::{InstanceId, ServerId};
use mini_core::name::AppName;
use mini_core::plan::ProxyView;
use mini_core::route::{AppRoute, Role};
use mini_core::time::Millis;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio_util::codec::{Framed, LinesCodec};

use crate::core::Core;
use crate::router_lines;

const RETRY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    connected: bool,
    /// The proxy's process id.
    pid: Option<u32>,
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
    /// What the proxy should serve with. Nothing before the store was looked into: the proxy then
    /// goes on with those that it has.
    certificates: Option<Vec<Certificate>>,
    /// What it should answer to a certificate authority, and which of these documents that is.
    challenges: (u64, Vec<Challenge>),
    /// The last of them that it took, on this connection.
    challenged: u64,
    out: Option<mpsc::UnboundedSender<ToProxy>>,
}

pub(crate) struct Link {
    /// Where the proxy listens: the first of these that answers.
    paths: Vec<PathBuf>,
    server: ServerId,
    version: String,
    state: Mutex<State>,
    /// Counts up whenever the proxy wrote a snapshot.
    durable: watch::Sender<u64>,
    /// Counts up whenever the proxy routes by what it was told.
    applied: watch::Sender<u64>,
    /// Counts up whenever it took challenges.
    challenged: watch::Sender<u64>,
}

impl Link {
    pub(crate) fn new(paths: Vec<PathBuf>, server: ServerId, version: String) -> Self {
        let (durable, applied) = (watch::Sender::new(0), watch::Sender::new(0));
        let (challenged, state) = (watch::Sender::new(0), Mutex::default());
        Self { paths, server, version, state, durable, applied, challenged }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connected(&self) -> bool {
        self.state().connected
    }

    /// The process id of the proxy that is connected.
    pub(crate) fn proxy(&self) -> Option<u32> {
        self.state().pid
    }

    /// Whether the app is there.
    pub(crate) fn knows(&self, app: &AppName) -> bool {
        self.state().expected.contains(app)
    }

    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
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

    /// Waits until requests are routed by an entry of the app that is as wanted. False when that
    /// took too long, such as while the proxy is away.
    pub(crate) async fn applied(
        &self,
        app: &AppName,
        wait: Duration,
        wanted: impl Fn(&AppRoute) -> bool,
    ) -> bool {
        let mut applied = self.applied.subscribe();
        let is_applied = |_: &u64| {
            let state = self.state();
            let sent = state.sent.get(app);
            sent.is_some_and(|(generation, r)| state.applied >= *generation && wanted(r))
        };
        tokio::time::timeout(wait, applied.wait_for(is_applied)).await.is_ok_and(|r| r.is_ok())
    }

    /// Which certificates the proxy should have, now and after each connecting. Returns whether that
    /// was news.
    pub(crate) fn certify(&self, certificates: Vec<Certificate>) -> bool {
        let mut state = self.state();
        if state.certificates.as_ref() == Some(&certificates) {
            return false;
        }
        state.send(ToProxy::Certificates { certificates: certificates.clone() });
        state.certificates = Some(certificates);
        true
    }

    /// What the proxy should answer to the certificate authority. Returns what
    /// [`Link::challenged`] waits for.
    pub(crate) fn challenge(&self, challenges: Vec<Challenge>) -> u64 {
        let mut state = self.state();
        let sequence = state.challenges.0 + 1;
        state.send(ToProxy::Challenges { sequence, challenges: challenges.clone() });
        state.challenges = (sequence, challenges);
        sequence
    }

    /// Waits until the proxy answers as the challenges of that sequence, or later ones, say. False
    /// when that took too long.
    pub(crate) async fn challenged(&self, sequence: u64, wait: Duration) -> bool {
        let mut challenged = self.challenged.subscribe();
        let taken = |_: &u64| self.state().challenged >= sequence;
        tokio::time::timeout(wait, challenged.wait_for(taken)).await.is_ok_and(|r| r.is_ok())
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
        state.pid = Some(hello.pid);
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
        state.challenged = 0;
        if let Some(certificates) = state.certificates.clone() {
            state.send(ToProxy::Certificates { certificates });
        }
        let (sequence, challenges) = state.challenges.clone();
        state.send(ToProxy::Challenges { sequence, challenges });
        state.send_table_if_whole();
    }

    fn disconnected(&self) {
        let mut state = self.state();
        state.connected = false;
        state.pid = None;
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
                drop(state);
                self.applied.send_modify(|n| *n += 1);
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
            FromProxy::Challenged { sequence } => {
                state.challenged = state.challenged.max(sequence);
                drop(state);
                self.challenged.send_modify(|n| *n += 1);
                Wake::Nobody
            }
            // Nobody asks here; `minid status` does, and ourselves, on connections for that alone.
            FromProxy::Status(_) | FromProxy::Requests { .. } | FromProxy::Metrics { .. } => {
                Wake::Nobody
            }
            // Between two proxies.
            FromProxy::Estate(_) | FromProxy::Leaving | FromProxy::Stays { .. } => Wake::Nobody,
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
        fault::point("run.table");
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
    pid: u32,
    generation: u64,
    serving: Vec<(InstanceId, Millis)>,
}

/// Keeps the connection. Ends with the process.
pub(crate) async fn keep(core: Arc<Core>) {
    let link = &core.link;
    let mut told = false;
    loop {
        match connect(&link.paths).await {
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

pub(crate) async fn connect(paths: &[PathBuf]) -> std::io::Result<UnixStream> {
    let mut refusal = None;
    for path in paths {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| std::io::ErrorKind::NotFound.into()))
}

/// One connection, to its end.
async fn converse(core: &Arc<Core>, stream: UnixStream) -> String {
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
                        link.connected_with(Hello { pid, generation, serving }, out);
                        router_lines::follow(core, pid);
                        core.certs.wake();
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

    #[tokio::test]
    async fn a_proxy_that_comes_back_is_told_again_what_to_answer() {
        let link = Link::new(Vec::new(), "s1".parse().unwrap(), "0".into());
        let connect = || {
            let (out, told) = mpsc::unbounded_channel();
            link.connected_with(Hello { generation: 0, serving: Vec::new(), pid: 1 }, out);
            told
        };
        let mut told = connect();
        let nothing = ToProxy::Challenges { sequence: 0, challenges: Vec::new() };
        assert_eq!(told.try_recv(), Ok(nothing), "and no certificates: it goes on with its own");
        let challenge = Challenge::Http {
            name: "a.example.com".into(),
            token: "t".into(),
            answer: "t.k".into(),
        };
        let sequence = link.challenge(vec![challenge.clone()]);
        assert!(link.certify(Vec::new()) && !link.certify(Vec::new()));
        link.heard(FromProxy::Challenged { sequence });
        assert!(link.challenged(sequence, Duration::ZERO).await);
        link.disconnected();
        let mut told = connect();
        assert_eq!(told.try_recv(), Ok(ToProxy::Certificates { certificates: Vec::new() }));
        let again = ToProxy::Challenges { sequence, challenges: vec![challenge] };
        assert_eq!(told.try_recv(), Ok(again));
        assert!(!link.challenged(sequence, Duration::ZERO).await, "this proxy has not said so yet");
    }

    #[test]
    fn one_that_serves_again_is_not_taken_for_drained() {
        let link = Link::new(Vec::new(), "s1".parse().unwrap(), "0".into());
        let (out, _kept) = mpsc::unbounded_channel();
        link.connected_with(Hello { pid: 1, generation: 0, serving: Vec::new() }, out);
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
                rules: Box::default(),
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
