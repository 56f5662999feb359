//! A fake proxy: it speaks `mini_core::control` on a socket, finds every target healthy and idle
//! unless told otherwise, and remembers what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use mini_core::control::{AppTraffic, Certificate, Challenge, FromProxy, ToProxy, Verdict};
use mini_core::id::InstanceId;
use mini_core::name::AppName;
use mini_core::route::{AppRoute, Role};
use mini_core::time::Millis;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::codec::{Framed, LinesCodec};

#[derive(Default)]
struct State {
    generation: u64,
    routes: BTreeMap<AppName, AppRoute>,
    proven: BTreeSet<(InstanceId, Millis)>,
    /// Targets are not healthy.
    sick: bool,
    /// Targets that drain never become idle.
    busy: bool,
    /// Nothing is written down.
    forgetful: bool,
    certificates: Vec<Certificate>,
    challenges: Vec<Challenge>,
    /// How often a controller has said hello: the last one is listened to.
    hellos: u64,
    /// What was seen of requests, and the lines that nobody has fetched yet.
    traffic: Vec<AppTraffic>,
    router_lines: Vec<String>,
}

/// Handles on the same fake.
#[derive(Clone)]
pub(super) struct FakeProxy {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    serving: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl FakeProxy {
    pub(super) fn new(path: &Path) -> Self {
        let fake = Self { path: path.to_owned(), state: Arc::default(), serving: Arc::default() };
        fake.come();
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Listens, with the table that it had.
    pub(super) fn come(&self) {
        let _ = std::fs::remove_file(&self.path);
        let listener = UnixListener::bind(&self.path).unwrap();
        let state = self.state.clone();
        let task = tokio::spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                all.spawn(converse(state.clone(), stream));
            }
        });
        *self.serving.lock().unwrap() = Some(task);
    }

    /// Whether targets that are probed from now on are healthy.
    pub(super) fn set_sick(&self, sick: bool) {
        self.state().sick = sick;
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.state().busy = busy;
    }

    pub(super) fn set_forgetful(&self, forgetful: bool) {
        self.state().forgetful = forgetful;
    }

    /// What the name, as it stands on a certificate, is served with.
    pub(super) fn certificate(&self, name: &str) -> Option<Certificate> {
        let is_for = |c: &&Certificate| c.names.iter().any(|n| n == name);
        self.state().certificates.iter().find(is_for).cloned()
    }

    pub(super) fn forget_certificates(&self) {
        self.state().certificates.clear();
    }

    pub(super) fn challenges(&self) -> Vec<Challenge> {
        self.state().challenges.clone()
    }

    pub(super) fn route(&self, app: &AppName) -> Option<AppRoute> {
        self.state().routes.get(app).cloned()
    }

    /// Tells of requests: counters, and lines as the router writes them.
    pub(super) fn saw(&self, traffic: Vec<AppTraffic>, lines: &[&str]) {
        let mut state = self.state();
        state.traffic = traffic;
        state.router_lines.extend(lines.iter().map(|line| (*line).to_owned()));
    }

    pub(super) fn lines_left(&self) -> usize {
        self.state().router_lines.len()
    }

    /// The instances that requests are sent to.
    pub(super) fn serving(&self, app: &AppName) -> Vec<InstanceId> {
        let targets = self.route(app).into_iter().flat_map(|r| r.targets);
        targets.filter(|t| t.role == Role::Serve).map(|t| t.instance).collect()
    }
}

async fn converse(state: Arc<Mutex<State>>, stream: UnixStream) {
    let mut lines = Framed::new(stream, LinesCodec::new());
    let hello = {
        let state = state.lock().unwrap();
        let targets = state.routes.values().flat_map(|r| &r.targets);
        let serving = targets
            .filter(|t| t.role == Role::Serve)
            .map(|t| (t.instance.clone(), t.started))
            .filter(|target| state.proven.contains(target));
        FromProxy::Hello {
            version: "fake".into(),
            generation: state.generation,
            durable: state.generation,
            boot_id: "boot".into(),
            pid: 1,
            serving: serving.collect(),
        }
    };
    if lines.send(serde_json::to_string(&hello).unwrap()).await.is_err() {
        return;
    }
    let mut mine = None;
    while let Some(Ok(line)) = lines.next().await {
        let document: ToProxy = serde_json::from_str(&line).unwrap();
        match document {
            ToProxy::FollowRequests => return tell_requests(&state, lines).await,
            ToProxy::Hello { .. } => {
                let mut state = state.lock().unwrap();
                state.hellos += 1;
                mine = Some(state.hellos);
            }
            _ => {}
        }
        if mine.is_some_and(|mine| mine != state.lock().unwrap().hellos) {
            return;
        }
        let answers = state.lock().unwrap().take(document);
        for answer in answers {
            if lines.send(serde_json::to_string(&answer).unwrap()).await.is_err() {
                return;
            }
        }
    }
}

async fn tell_requests(state: &Mutex<State>, mut lines: Framed<UnixStream, LinesCodec>) {
    loop {
        let batch = state.lock().unwrap().router_lines.clone();
        if batch.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        }
        let bytes = batch.iter().map(|line| line.len() as u64 + 1).sum();
        let lost = vec![("blue".parse().unwrap(), 3)];
        let head = serde_json::to_string(&FromProxy::Requests { bytes, lost }).unwrap();
        for line in std::iter::once(&head).chain(&batch) {
            if lines.send(line).await.is_err() {
                return;
            }
        }
        let Some(Ok(answer)) = lines.next().await else { return };
        assert!(matches!(serde_json::from_str(&answer), Ok(ToProxy::Kept)), "{answer}");
        state.lock().unwrap().router_lines.drain(..batch.len());
    }
}

impl State {
    fn take(&mut self, document: ToProxy) -> Vec<FromProxy> {
        let (generation, concerned): (u64, Vec<AppName>) = match document {
            ToProxy::Hello { .. }
            | ToProxy::Status
            | ToProxy::Succeed { .. }
            | ToProxy::Ready
            | ToProxy::FollowRequests
            | ToProxy::Kept => return Vec::new(),
            ToProxy::Metrics => {
                return vec![FromProxy::Metrics { pid: 1, apps: self.traffic.clone() }];
            }
            ToProxy::Certificates { certificates } => {
                self.certificates = certificates;
                return Vec::new();
            }
            ToProxy::Challenges { sequence, challenges } => {
                self.challenges = challenges;
                return vec![FromProxy::Challenged { sequence }];
            }
            ToProxy::Table { generation, apps } => {
                self.routes = apps.into_iter().map(|r| (r.app.clone(), r)).collect();
                (generation, self.routes.keys().cloned().collect())
            }
            ToProxy::App { generation, route } => {
                let app = route.app.clone();
                self.routes.insert(app.clone(), route);
                (generation, vec![app])
            }
            ToProxy::Forget { generation, app } => {
                self.routes.remove(&app);
                (generation, Vec::new())
            }
        };
        if generation <= self.generation {
            return vec![FromProxy::Refused { generation, current: self.generation }];
        }
        self.generation = generation;
        let mut answers = vec![FromProxy::Applied { generation }];
        if !self.forgetful {
            answers.push(FromProxy::Durable { generation });
        }
        for target in
            concerned.iter().filter_map(|app| self.routes.get(app)).flat_map(|r| &r.targets)
        {
            let (instance, started) = (target.instance.clone(), target.started);
            if target.role != Role::Drain {
                let verdict = if self.sick {
                    Verdict::Unhealthy { why: "GET /up answered 500".into() }
                } else {
                    self.proven.insert((instance.clone(), started));
                    Verdict::Healthy
                };
                answers.push(FromProxy::Health { instance, started, verdict });
            } else if !self.busy {
                answers.push(FromProxy::Drained { instance });
            }
        }
        answers
    }
}
