//! What all tasks of one proxy share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use mini_core::control::{FromProxy, ProxyStatus, Verdict};
use mini_core::name::HostName;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::probe;
use crate::table::{Table, TargetState};
use crate::upstream::{Endpoint, Upstream};
use crate::{ProxyConfig, Timeouts};

pub(crate) struct Shared {
    pub(crate) domains: Vec<HostName>,
    pub(crate) hold: std::time::Duration,
    pub(crate) timeouts: Timeouts,
    pub(crate) version: String,
    pub(crate) boot_id: String,
    pub(crate) table: ArcSwap<Table>,
    /// Held while a change is applied: changes come one after another.
    pub(crate) writer: Mutex<()>,
    pub(crate) door: Endpoint,
    pub(crate) counters: Counters,
    /// Told when the table is newer than the snapshot on disk.
    pub(crate) to_save: watch::Sender<()>,
    pub(crate) durable: AtomicU64,
    link: Mutex<Option<Arc<Link>>>,
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

/// The connected controller.
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
    pub(crate) fn new(config: &ProxyConfig) -> Self {
        Self {
            domains: config.domains.clone(),
            hold: config.hold,
            timeouts: config.timeouts.clone(),
            version: config.version.clone(),
            boot_id: config.boot_id.clone(),
            table: ArcSwap::default(),
            writer: Mutex::new(()),
            door: Endpoint::new(Upstream::Unix(config.api_socket.clone())),
            counters: Counters::default(),
            to_save: watch::Sender::new(()),
            durable: AtomicU64::new(0),
            link: Mutex::new(None),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Makes `link` the controller's connection; the one before it is closed.
    pub(crate) fn connect(&self, link: Arc<Link>) {
        let old = lock(&self.link).replace(link);
        if let Some(old) = old {
            old.closed.cancel();
        }
    }

    pub(crate) fn disconnect(&self, link: &Arc<Link>) {
        let mut current = lock(&self.link);
        if current.as_ref().is_some_and(|l| Arc::ptr_eq(l, link)) {
            *current = None;
        }
    }

    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone()
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

    pub(crate) fn tell_drained(&self, target: &TargetState) {
        if let Some(link) = self.ready_link() {
            link.send(FromProxy::Drained { instance: target.spec.instance.clone() });
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
