//! What all tasks of one proxy share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use mini_core::control::{FromProxy, ProxyStatus, ToProxy, Verdict};
use mini_core::id::InstanceId;
use mini_core::name::HostName;
use mini_core::route::Role;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::{Clients, Limits};
use crate::overheard::Overheard;
use crate::probe;
use crate::seen::Seen;
use crate::snapshot::Unsaved;
use crate::succession::Predecessor;
use crate::table::{Table, TargetState};
use crate::tls::Tls;
use crate::upstream::{Endpoint, MAX_WORKERS, Upstream};
use crate::{ProxyConfig, Timeouts};

/// How long a process that has just started waits for the controller's word before it says that it
/// knows nobody: what its snapshot lacks may have come in the moment before the one before it died.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) struct Shared {
    pub(crate) domains: Vec<HostName>,
    pub(crate) hold: std::time::Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) clients: Clients,
    pub(crate) limits: Arc<Limits>,
    pub(crate) overheard: Overheard,
    /// Threads that requests run on.
    pub(crate) workers: usize,
    pub(crate) version: String,
    pub(crate) boot_id: String,
    pub(crate) tls: Arc<Tls>,
    /// The port that redirects to https lead to; `None`: there is none.
    pub(crate) https_port: Option<u16>,
    pub(crate) table: ArcSwap<Table>,
    /// Held while a change is applied: changes come one after another.
    pub(crate) writer: Mutex<()>,
    pub(crate) door: Endpoint,
    pub(crate) counters: Counters,
    pub(crate) seen: Seen,
    /// What the snapshot on disk lacks.
    pub(crate) unsaved: Unsaved,
    pub(crate) durable: AtomicU64,
    /// Held while the snapshot is written.
    pub(crate) saving: tokio::sync::Mutex<()>,
    peers: Mutex<Peers>,
    /// A successor has the place of this process.
    pub(crate) left: CancellationToken,
    /// Cancelled when connections may be accepted.
    pub(crate) open: CancellationToken,
    /// The controller has said, since this process started, what there is.
    pub(crate) settled: CancellationToken,
    born: Instant,
    /// No more connections are accepted; answers end theirs.
    pub(crate) draining: CancellationToken,
    /// The drain time is over.
    pub(crate) cut: CancellationToken,
    /// Client connections and upgraded ones.
    pub(crate) tasks: TaskTracker,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) cut: AtomicU64,
}

/// Those that this process talks to.
#[derive(Default)]
struct Peers {
    link: Option<Arc<Link>>,
    place: Place,
    predecessor: Option<Predecessor>,
}

/// Whose the clients are.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Ours,
    /// Ours, and no change is taken: a successor gets ready.
    Frozen,
    Left,
}

/// The connected controller, or the successor that speaks in its place.
pub(crate) struct Link {
    pub(crate) events: mpsc::Sender<FromProxy>,
    /// It sent its table, and so knows the targets that events speak of.
    pub(crate) ready: AtomicBool,
    pub(crate) closed: CancellationToken,
}

impl Link {
    pub(crate) fn send(&self, event: FromProxy) {
        if self.events.try_send(event).is_err() && !self.closed.is_cancelled() {
            tracing::warn!("the controller does not read its events: its connection is closed");
            self.closed.cancel();
        }
    }
}

impl Shared {
    pub(crate) fn new(config: &ProxyConfig, tls: Tls) -> Self {
        let https_port = config.https_listeners.first().and_then(|l| l.local_addr().ok());
        Self {
            tls: Arc::new(tls),
            https_port: https_port.map(|address| address.port()),
            domains: config.domains.clone(),
            hold: config.hold,
            timeouts: config.timeouts.clone(),
            clients: config.clients.clone(),
            limits: Limits::new(&config.clients),
            overheard: Overheard::default(),
            workers: std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
            version: config.version.clone(),
            boot_id: config.boot_id.clone(),
            table: ArcSwap::default(),
            writer: Mutex::new(()),
            door: Endpoint::new(Upstream::Unix(config.api_sockets.clone())),
            counters: Counters::default(),
            seen: Seen::new(),
            unsaved: Unsaved::new(),
            durable: AtomicU64::new(0),
            saving: tokio::sync::Mutex::new(()),
            peers: Mutex::default(),
            left: CancellationToken::new(),
            settled: CancellationToken::new(),
            born: Instant::now(),
            open: CancellationToken::new(),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Waits until the controller has said what there is; false at once if it has, or if this process
    /// is not new any more.
    pub(crate) async fn settle(&self) -> bool {
        let left = SETTLE.saturating_sub(self.born.elapsed());
        if left.is_zero() || self.settled.is_cancelled() {
            return false;
        }
        // What it says in the end, it says or not.
        let _ = tokio::time::timeout(left, self.settled.cancelled()).await;
        true
    }

    /// Makes `link` the controller's connection; the one before it is closed. False if this is
    /// no time for a controller, since a successor takes over.
    pub(crate) fn connect(&self, link: Arc<Link>) -> bool {
        let mut peers = lock(&self.peers);
        if peers.place != Place::Ours {
            return false;
        }
        if let Some(old) = peers.link.replace(link) {
            old.closed.cancel();
        }
        true
    }

    pub(crate) fn is_current(&self, link: &Arc<Link>) -> bool {
        lock(&self.peers).link.as_ref().is_some_and(|l| Arc::ptr_eq(l, link))
    }

    /// Lets the controller go, and takes no change from here on. False if that is so already.
    pub(crate) fn freeze(&self) -> bool {
        let _no_change_is_under_way = lock(&self.writer);
        let mut peers = lock(&self.peers);
        if peers.place != Place::Ours {
            return false;
        }
        peers.place = Place::Frozen;
        if let Some(old) = peers.link.take() {
            old.closed.cancel();
        }
        true
    }

    pub(crate) fn thaw(&self) {
        lock(&self.peers).place = Place::Ours;
    }

    /// From here on `successor` says what changes, and the clients are its.
    pub(crate) fn give_place_to(&self, successor: &Arc<Link>) {
        let mut peers = lock(&self.peers);
        peers.place = Place::Left;
        peers.link = Some(Arc::clone(successor));
        self.left.cancel();
    }

    /// From here on nothing counts as drained, or as durable, before that process said so too.
    pub(crate) fn comes_after(&self, predecessor: Predecessor) {
        lock(&self.peers).predecessor = Some(predecessor);
    }

    pub(crate) fn has_predecessor(&self) -> bool {
        lock(&self.peers).predecessor.is_some()
    }

    /// Passes a change on to the process before this one, if that still has requests.
    pub(crate) fn tell_predecessor(&self, change: ToProxy) {
        if let Some(predecessor) = &lock(&self.peers).predecessor {
            predecessor.tell(change);
        }
    }

    pub(crate) fn predecessor_applied(&self, generation: u64) {
        if let Some(predecessor) = &mut lock(&self.peers).predecessor {
            predecessor.applied(generation);
        }
        self.tell_durable();
    }

    pub(crate) fn predecessor_drained(&self, instance: InstanceId) {
        if let Some(predecessor) = &mut lock(&self.peers).predecessor {
            predecessor.drained(instance.clone());
        }
        let table = self.table.load();
        let mut targets = table.apps.values().flat_map(|app| &app.targets);
        if let Some(target) = targets.find(|target| target.spec.instance == instance) {
            self.tell_drained(target);
        }
    }

    pub(crate) fn predecessor_gone(&self) {
        lock(&self.peers).predecessor = None;
        self.tell_durable();
        for target in self.table.load().apps.values().flat_map(|app| &app.targets) {
            self.tell_drained(target);
        }
    }

    /// Whether `link` was the controller's connection, which it no longer is.
    pub(crate) fn disconnect(&self, link: &Arc<Link>) -> bool {
        let mut peers = lock(&self.peers);
        let was = peers.link.as_ref().is_some_and(|l| Arc::ptr_eq(l, link));
        if was {
            peers.link = None;
        }
        was
    }

    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.peers).link.clone()
    }

    /// Ends what still runs beside the connections.
    pub(crate) fn end(&self) {
        if let Some(link) = self.link() {
            link.closed.cancel();
        }
        for target in self.table.load().apps.values().flat_map(|a| &a.targets) {
            probe::stop(target);
        }
    }

    fn ready_link(&self) -> Option<Arc<Link>> {
        self.link().filter(|l| l.ready.load(SeqCst))
    }

    /// Tells a verdict; called with the target's health locked, so that verdicts keep their order.
    pub(crate) fn tell_health(&self, target: &TargetState, verdict: &Verdict) {
        if let Some(link) = self.ready_link() {
            link.send(FromProxy::Health {
                instance: target.spec.instance.clone(),
                started: target.spec.started,
                verdict: verdict.clone(),
            });
        }
    }

    /// Tells that a target is drained, if it is: here, and in the process before this one.
    pub(crate) fn tell_drained(&self, target: &TargetState) {
        if !target.has_role(Role::Drain) || !target.idle() {
            return;
        }
        let before =
            |peers: &Peers| peers.predecessor.as_ref().is_none_or(|p| p.has_drained(target));
        if !before(&lock(&self.peers)) {
            return;
        }
        if let Some(link) = self.ready_link() {
            link.send(FromProxy::Drained { instance: target.spec.instance.clone() });
        }
    }

    /// Tells how new a table is on disk, as far as nobody routes by an older one.
    pub(crate) fn tell_durable(&self) {
        let peers = lock(&self.peers);
        let oldest = peers.predecessor.as_ref().map_or(u64::MAX, Predecessor::routes_by);
        let generation = self.durable.load(SeqCst).min(oldest);
        if let Some(link) = &peers.link {
            link.send(FromProxy::Durable { generation });
        }
    }

    pub(crate) fn status(&self) -> ProxyStatus {
        let table = self.table.load();
        ProxyStatus {
            version: self.version.clone(),
            pid: std::process::id(),
            generation: table.generation,
            durable: self.durable.load(SeqCst),
            apps: table.apps.len() as u64,
            requests: self.counters.requests.load(SeqCst),
            in_flight: self.counters.in_flight.load(SeqCst),
            connections: self.counters.connections.load(SeqCst),
            cut: self.counters.cut.load(SeqCst),
            refused: self.limits.refused(),
        }
    }
}

/// Locks, also after a panic elsewhere: what is behind these locks is valid at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Adds one to a counter for as long as it lives.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    which: fn(&Counters) -> &AtomicU64,
}

impl Counted {
    pub(crate) fn new(shared: &Arc<Shared>, which: fn(&Counters) -> &AtomicU64) -> Self {
        which(&shared.counters).fetch_add(1, SeqCst);
        Self { shared: Arc::clone(shared), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.shared.counters).fetch_sub(1, SeqCst);
    }
}
