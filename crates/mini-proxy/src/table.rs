//! The live route table: what a request reads, without a lock.
//!
//! The table is one atomic pointer. A change makes a new table in which every entry but the
//! changed app's is the same `Arc`, and in which a target that stays is the same
//! [`TargetState`], so its connections and its count of requests live on.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use mini_core::control::Verdict;
use mini_core::id::InstanceId;
use mini_core::name::{AppName, HostName};
use mini_core::route::{AppRoute, Role, Target, WebState, hosts_of};
use mini_core::time::Millis;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::clock;
use crate::error_page::Code;
use crate::shared::Shared;
use crate::upstream::{Endpoint, Upstream};

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    pub(crate) apps: BTreeMap<AppName, Arc<App>>,
    hosts: HashMap<Arc<str>, Arc<App>>,
}

/// One app in one version of the table.
pub(crate) struct App {
    pub(crate) route: AppRoute,
    pub(crate) targets: Vec<Arc<TargetState>>,
    /// Those of `targets` whose role is Serve.
    serve: Vec<Arc<TargetState>>,
    hosts: Vec<Arc<str>>,
    pub(crate) lasting: Arc<Lasting>,
}

/// What an app keeps over versions of the table.
pub(crate) struct Lasting {
    /// Bumped when a held request should look again.
    changed: watch::Sender<()>,
    /// Requests held now.
    pub(crate) waiting: AtomicUsize,
    turn: AtomicUsize,
}

impl Lasting {
    pub(crate) fn new() -> Self {
        Self {
            changed: watch::Sender::new(()),
            waiting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Wakes the held requests.
    pub(crate) fn bump(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Table {
    pub(crate) fn new(generation: u64, apps: BTreeMap<AppName, Arc<App>>) -> Self {
        let mut hosts: HashMap<Arc<str>, Arc<App>> = HashMap::with_capacity(apps.len() * 2);
        for app in apps.values() {
            for host in &app.hosts {
                // The first app keeps a name that two claim: the controller does not let that be.
                hosts.entry(Arc::clone(host)).or_insert_with(|| Arc::clone(app));
            }
        }
        Self { generation, apps, hosts }
    }

    /// The targets that requests are sent to.
    pub(crate) fn serving(&self) -> Vec<(InstanceId, Millis)> {
        let serve = self.apps.values().flat_map(|a| &a.serve);
        let proven = serve.filter(|t| t.proven.load(SeqCst));
        proven.map(|t| (t.spec.instance.clone(), t.spec.started)).collect()
    }

    pub(crate) fn find(&self, host: &str) -> Option<&Arc<App>> {
        self.hosts.get(host)
    }
}

/// What a request may do now.
pub(crate) enum Choice {
    Go(InFlight),
    /// Wait for the app's entry or a target's health to change.
    Hold,
    No(Code),
}

impl App {
    pub(crate) fn new(
        route: AppRoute,
        targets: Vec<Arc<TargetState>>,
        lasting: Arc<Lasting>,
        domains: &[HostName],
    ) -> Self {
        let serves = |(spec, _): &(&Target, &Arc<TargetState>)| spec.role == Role::Serve;
        let pairs = route.targets.iter().zip(&targets);
        let serve = pairs.filter(serves).map(|(_, t)| Arc::clone(t)).collect();
        let hosts = hosts_of(&route, domains).into_iter().map(Arc::from).collect();
        Self { route, targets, serve, hosts, lasting }
    }

    /// Chooses the serving target with the least requests in flight; equal ones take turns.
    ///
    /// `not` is one that was just found dead; it is taken only if it is the last one. Those
    /// that refused a connection within the last second are passed over in the same way.
    pub(crate) fn choose(&self, shared: &Arc<Shared>, not: Option<&TargetState>) -> Choice {
        if self.serve.is_empty() {
            return match self.route.web {
                // Serving without a target is a gap between two states: waiting drops nothing.
                WebState::Booting | WebState::Serving => Choice::Hold,
                WebState::Crashed => Choice::No(Code::H10),
                WebState::Stopped => Choice::No(Code::H14),
                WebState::NothingDeployed => Choice::No(Code::H81),
            };
        }
        let now = clock::ms();
        let turn = self.lasting.turn.fetch_add(1, SeqCst) % self.serve.len();
        let in_turn = self.serve[turn..].iter().chain(&self.serve[..turn]);
        let best = in_turn.filter(|t| t.proven.load(SeqCst)).min_by_key(|t| {
            let dead = not.is_some_and(|n| std::ptr::eq(n, Arc::as_ptr(t)));
            let shunned = t.shunned_until.load(SeqCst) > now;
            (dead, shunned, t.in_flight.load(SeqCst))
        });
        // A target that stopped serving since this table was read: look at the new one.
        best.and_then(|t| TargetState::begin(t, shared)).map_or(Choice::Hold, Choice::Go)
    }
}

/// The identity of a target: one start of one instance at one address.
pub(crate) struct TargetState {
    pub(crate) app: AppName,
    pub(crate) spec: Target,
    role: AtomicU8,
    /// False for a target of a snapshot from before a reboot, until its probe passes or the
    /// controller names it.
    pub(crate) proven: AtomicBool,
    in_flight: AtomicUsize,
    shunned_until: AtomicU64,
    pub(crate) endpoint: Endpoint,
    pub(crate) health: Mutex<Health>,
}

/// A target's probe and what it found.
#[derive(Default)]
pub(crate) struct Health {
    pub(crate) verdict: Option<Verdict>,
    pub(crate) path: Option<String>,
    pub(crate) probe: Option<AbortOnDropHandle<()>>,
}

const GONE: u8 = 3;

fn code(role: Role) -> u8 {
    match role {
        Role::Probe => 0,
        Role::Serve => 1,
        Role::Drain => 2,
    }
}

impl TargetState {
    pub(crate) fn new(app: AppName, spec: Target, proven: bool) -> Self {
        let endpoint = Endpoint::new(Upstream::Tcp(spec.addr));
        Self {
            role: AtomicU8::new(code(spec.role)),
            proven: AtomicBool::new(proven),
            in_flight: AtomicUsize::new(0),
            shunned_until: AtomicU64::new(0),
            endpoint,
            health: Mutex::default(),
            app,
            spec,
        }
    }

    pub(crate) fn is(&self, spec: &Target) -> bool {
        let mine = (&self.spec.instance, self.spec.started, self.spec.addr);
        mine == (&spec.instance, spec.started, spec.addr)
    }

    pub(crate) fn set_role(&self, role: Role) {
        self.role.store(code(role), SeqCst);
    }

    pub(crate) fn has_role(&self, role: Role) -> bool {
        self.role.load(SeqCst) == code(role)
    }

    /// Closes what it has: it left the table.
    pub(crate) fn gone(&self) {
        self.role.store(GONE, SeqCst);
        self.endpoint.close();
        self.endpoint.cut.cancel();
    }

    /// Lets other targets go first for a second.
    pub(crate) fn shun(&self) {
        self.shunned_until.store(clock::ms() + 1000, SeqCst);
    }

    pub(crate) fn idle(&self) -> bool {
        self.in_flight.load(SeqCst) == 0
    }

    /// Counts a request in, unless the target stopped serving.
    ///
    /// Count first, then look: whoever sets the role to Drain stores first and then looks at the
    /// count, so that one of the two sees the other, and no request goes to a target that was
    /// already reported as drained.
    fn begin(this: &Arc<Self>, shared: &Arc<Shared>) -> Option<InFlight> {
        this.in_flight.fetch_add(1, SeqCst);
        let guard = InFlight { target: Arc::clone(this), shared: Arc::clone(shared) };
        this.has_role(Role::Serve).then_some(guard)
    }
}

/// One request at one target, counted until this is dropped.
pub(crate) struct InFlight {
    pub(crate) target: Arc<TargetState>,
    shared: Arc<Shared>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.target.in_flight.fetch_sub(1, SeqCst) == 1 && self.target.has_role(Role::Drain) {
            self.shared.tell_drained(&self.target);
        }
    }
}

#[cfg(test)]
mod tests;
