//! The live route table: what a request reads, without a lock.
//!
//! The table is one atomic pointer. A change makes a new table that shares all but the changed
//! app's entry with the old one ([`Shards`]), and in which a target that stays is the same
//! [`TargetState`], so its connections and its count of requests live on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use mini_core::control::Verdict;
use mini_core::id::InstanceId;
use mini_core::name::{AppName, HostName, wildcard_key};
use mini_core::route::{AppRoute, Role, Target, WebState, hosts_of};
use mini_core::time::Millis;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::admit::CompiledRules;
use crate::clock;
use crate::error_page::Code;
use crate::seen::{AppSeen, Series};
use crate::shards::Shards;
use crate::shared::Shared;
use crate::upstream::{Endpoint, Upstream};

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    pub(crate) apps: Shards<AppName, Arc<App>>,
    hosts: Shards<Arc<str>, Arc<App>>,
}

/// One app in one version of the table.
pub(crate) struct App {
    pub(crate) route: AppRoute,
    pub(crate) targets: Vec<Arc<TargetState>>,
    /// Those of `targets` whose role is Serve.
    serve: Vec<Arc<TargetState>>,
    hosts: Vec<Arc<str>>,
    pub(crate) rules: Arc<CompiledRules>,
    pub(crate) lasting: Arc<Lasting>,
}

/// What an app keeps over versions of the table.
pub(crate) struct Lasting {
    /// Bumped when a held request should look again.
    changed: watch::Sender<()>,
    /// Requests held now.
    pub(crate) waiting: AtomicUsize,
    turn: AtomicUsize,
    pub(crate) seen: Arc<AppSeen>,
}

impl Lasting {
    pub(crate) fn new(app: &AppName) -> Self {
        Self {
            changed: watch::Sender::new(()),
            waiting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            seen: Arc::new(AppSeen::new(app.clone())),
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
    pub(crate) fn new(generation: u64, apps: impl IntoIterator<Item = Arc<App>>) -> Self {
        let mut table = Self { generation, ..Self::default() };
        for app in apps {
            table.claim(&app);
            table.apps.insert(app.route.app.clone(), app);
        }
        table
    }

    /// The same table with another entry for one app.
    pub(crate) fn with(&self, generation: u64, app: Arc<App>) -> Self {
        let mut table = Self { generation, apps: self.apps.clone(), hosts: self.hosts.clone() };
        let before = table.apps.insert(app.route.app.clone(), Arc::clone(&app));
        table.claim(&app);
        if let Some(before) = before {
            let left = before.hosts.iter().filter(|host| !app.hosts.contains(host));
            table.give_up(&before, left.cloned().collect());
        }
        table
    }

    /// The same table without an app.
    pub(crate) fn without(&self, generation: u64, name: &AppName) -> Self {
        let mut table = Self { generation, apps: self.apps.clone(), hosts: self.hosts.clone() };
        if let Some(before) = table.apps.remove(name) {
            let left = before.hosts.iter().cloned().collect();
            table.give_up(&before, left);
        }
        table
    }

    /// Of two apps that claim a name the one whose own name is first has it: the controller does
    /// not let that be.
    fn claim(&mut self, app: &Arc<App>) {
        for host in &app.hosts {
            let holder = self.hosts.get(host).map(|holder| &holder.route.app);
            if holder.is_none_or(|holder| *holder >= app.route.app) {
                self.hosts.insert(Arc::clone(host), Arc::clone(app));
            }
        }
    }

    /// Takes names from an app; another that claims one of them has it from now on.
    fn give_up(&mut self, app: &App, mut left: HashSet<Arc<str>>) {
        left.retain(|host| self.hosts.get(host).is_some_and(|h| h.route.app == app.route.app));
        if left.is_empty() {
            return;
        }
        for host in &left {
            self.hosts.remove(host);
        }
        let heirs = self.apps.values().filter(|a| a.hosts.iter().any(|host| left.contains(host)));
        for heir in heirs.cloned().collect::<Vec<_>>() {
            self.claim(&heir);
        }
    }

    /// The targets that requests are sent to.
    pub(crate) fn serving(&self) -> Vec<(InstanceId, Millis)> {
        let serve = self.apps.values().flat_map(|a| &a.serve);
        let proven = serve.filter(|t| t.proven.load(SeqCst));
        proven.map(|t| (t.spec.instance.clone(), t.spec.started)).collect()
    }

    /// The app that a host leads to: the one that has the name itself, else the one that has the
    /// wildcard that it is of. Two lookups at most, in a table of any size.
    pub(crate) fn find(&self, host: &str) -> Option<&Arc<App>> {
        if host.starts_with('.') {
            // A wildcard's key is no name.
            return None;
        }
        let by_wildcard = || self.hosts.get(wildcard_key(host)?);
        self.hosts.get(host).or_else(by_wildcard)
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
        (lasting, rules): (Arc<Lasting>, Arc<CompiledRules>),
        domains: &[HostName],
    ) -> Self {
        let serves = |(spec, _): &(&Target, &Arc<TargetState>)| spec.role == Role::Serve;
        let pairs = route.targets.iter().zip(&targets);
        let serve = pairs.filter(serves).map(|(_, t)| Arc::clone(t)).collect();
        let hosts = hosts_of(&route, domains).into_iter().map(Arc::from).collect();
        Self { route, targets, serve, hosts, rules, lasting }
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
        // Whatever one app's instances do, requests of the others find room. Not exact to the last
        // one, as threads count beside each other.
        let in_flight: usize = self.targets.iter().map(|t| t.in_flight.load(SeqCst)).sum();
        if in_flight >= shared.clients.max_of_app {
            return Choice::No(Code::H22);
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
    /// The generation that made its role Drain.
    pub(crate) drains_since: AtomicU64,
    /// False for a target of a snapshot from before a reboot, until its probe passes or the
    /// controller names it.
    pub(crate) proven: AtomicBool,
    in_flight: AtomicUsize,
    shunned_until: AtomicU64,
    pub(crate) endpoint: Endpoint,
    pub(crate) health: Mutex<Health>,
    /// What is seen of the app, and of the release.
    pub(crate) seen: Arc<AppSeen>,
    pub(crate) series: Arc<Series>,
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
    pub(crate) fn new(lasting: &Lasting, spec: Target, proven: bool) -> Self {
        let seen = Arc::clone(&lasting.seen);
        let endpoint = Endpoint::new(Upstream::Tcp(spec.addr));
        Self {
            role: AtomicU8::new(code(spec.role)),
            drains_since: AtomicU64::new(0),
            proven: AtomicBool::new(proven),
            in_flight: AtomicUsize::new(0),
            shunned_until: AtomicU64::new(0),
            endpoint,
            health: Mutex::default(),
            app: seen.app.clone(),
            series: seen.release(spec.release),
            seen,
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

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
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

impl InFlight {
    /// Counts and tells that it did not end before its target left the table.
    pub(crate) fn was_cut(&self) {
        self.shared.counters.cut.fetch_add(1, SeqCst);
        let (app, process) = (&self.target.app, &self.target.spec.process);
        tracing::info!(%app, process, "a request outlasted the drain time of its instance: cut");
    }
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
