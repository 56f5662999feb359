//! Changing the live table.
//!
//! The order matters: what rises to Serve rises before the new table is seen, what falls falls
//! after it, so that there is no instant at which a request finds nobody.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use mini_core::control::Estate;
use mini_core::name::AppName;
use mini_core::route::{AppRoute, Role};

use crate::admit::CompiledRules;
use crate::probe;
use crate::shared::{Link, Shared, lock};
use crate::snapshot::{Changed, Image};
use crate::table::{App, Lasting, Table, TargetState};

/// A change of the table.
pub(crate) enum Change {
    Table(Vec<AppRoute>),
    App(AppRoute),
    Forget(AppName),
}

/// Why a change is not made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It came too late: the table has this generation already.
    Stale { current: u64 },
    /// The connection that it came from is nobody's any more.
    Replaced,
}

/// Applies a change that came over `link`, and asks for it to be saved.
///
/// `applied` is called when requests are routed by it and before anything that follows from it.
pub(crate) fn change(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    generation: u64,
    change: Change,
    applied: impl FnOnce(),
) -> Result<(), Refused> {
    let _one_at_a_time = lock(&shared.writer);
    // With the lock held, since a table that was handed over must not change.
    if !shared.is_current(link) {
        return Err(Refused::Replaced);
    }
    let old = shared.table.load_full();
    if generation <= old.generation {
        return Err(Refused::Stale { current: old.generation });
    }
    let mut step = Step { shared, old: &old, generation, proven: true, changed: Vec::new() };
    // What an entry of the old table was; all of it is looked at only if all of it may go.
    let (new, left, changed): (_, Vec<_>, _) = match change {
        Change::Table(routes) => {
            let apps: Vec<_> = routes.into_iter().map(|r| step.renew(r)).collect();
            (Table::new(generation, apps), old.apps.values().cloned().collect(), None)
        }
        Change::App(route) => {
            let before = old.apps.get(&route.app).cloned();
            let app = step.renew(route);
            let new = old.with(generation, Arc::clone(&app));
            (new, before.into_iter().collect(), Some(Changed::App(app)))
        }
        Change::Forget(app) => {
            let before = old.apps.get(&app).cloned();
            let new = old.without(generation, &app);
            (new, before.into_iter().collect(), Some(Changed::Forget(app)))
        }
    };
    step.swap(new, &left, applied);
    shared.unsaved.add(generation, changed);
    Ok(())
}

/// Fills the empty table from a snapshot. Targets from before a reboot have to prove themselves.
pub(crate) fn restore(shared: &Arc<Shared>, image: Image) {
    let _one_at_a_time = lock(&shared.writer);
    let old = shared.table.load_full();
    let proven = image.boot_id == shared.boot_id;
    let generation = image.generation;
    let mut step = Step { shared, old: &old, generation, proven, changed: Vec::new() };
    let apps: Vec<_> = image.apps.into_iter().map(|r| step.renew(r)).collect();
    step.swap(Table::new(generation, apps), &[], || {});
    shared.durable.store(generation, SeqCst);
}

/// Fills the empty table with what the process before this one hands over.
pub(crate) fn inherit(shared: &Arc<Shared>, estate: &Estate) {
    let _one_at_a_time = lock(&shared.writer);
    let old = shared.table.load_full();
    let generation = estate.generation;
    let mut step = Step { shared, old: &old, generation, proven: false, changed: Vec::new() };
    let apps: Vec<_> = estate.apps.iter().map(|r| step.renew(r.clone())).collect();
    // What had to prove itself there still has to.
    let serving: HashSet<_> = estate.serving.iter().collect();
    for target in apps.iter().flat_map(|app| &app.targets) {
        let identity = (target.spec.instance.clone(), target.spec.started);
        target.proven.store(serving.contains(&identity), SeqCst);
    }
    step.swap(Table::new(generation, apps), &[], || {});
    shared.durable.store(estate.durable, SeqCst);
    shared.unsaved.add(generation, None);
}

struct Step<'a> {
    shared: &'a Arc<Shared>,
    old: &'a Table,
    generation: u64,
    proven: bool,
    /// The apps whose entry is not what it was.
    changed: Vec<Arc<App>>,
}

impl Step<'_> {
    /// The app's new entry, in which every target that stays is the same one.
    fn renew(&mut self, route: AppRoute) -> Arc<App> {
        let old = self.old.apps.get(&route.app);
        let lasting =
            old.map_or_else(|| Arc::new(Lasting::new(&route.app)), |o| Arc::clone(&o.lasting));
        lasting.seen.set_log_query(route.rules.log_query);
        let mut targets = Vec::with_capacity(route.targets.len());
        for spec in &route.targets {
            let kept = old.and_then(|o| o.targets.iter().find(|t| t.is(spec)));
            let target = match kept {
                Some(target) => Arc::clone(target),
                None => Arc::new(TargetState::new(&lasting, spec.clone(), self.proven)),
            };
            let new = kept.is_none();
            if spec.role == Role::Drain && (new || !target.has_role(Role::Drain)) {
                target.drains_since.store(self.generation, SeqCst);
            }
            if self.proven {
                target.proven.store(true, SeqCst);
            }
            if spec.role == Role::Serve {
                target.set_role(Role::Serve);
                target.endpoint.open();
            }
            targets.push(target);
        }
        let rules = match old {
            Some(old) if old.route.rules == route.rules => Arc::clone(&old.rules),
            _ => Arc::new(CompiledRules::new(&route.rules)),
        };
        let app = Arc::new(App::new(route, targets, (lasting, rules), &self.shared.domains));
        self.changed.push(Arc::clone(&app));
        app
    }

    /// Makes `new` the table; `left` are the entries of the old one that may not be in it.
    fn swap(self, new: Table, left: &[Arc<App>], applied: impl FnOnce()) {
        let Self { shared, changed, .. } = self;
        let new = Arc::new(new);
        shared.table.store(Arc::clone(&new));
        applied();
        for app in &changed {
            for (spec, target) in app.route.targets.iter().zip(&app.targets) {
                target.set_role(spec.role);
                match spec.role {
                    Role::Probe | Role::Serve => {
                        probe::start(shared, target, &app.route, &app.lasting);
                    }
                    Role::Drain => {
                        probe::stop(target);
                        target.endpoint.close();
                        shared.tell_drained(target);
                    }
                }
            }
            app.lasting.bump();
        }
        for app in left {
            let now = new.apps.get(&app.route.app);
            if now.is_some_and(|n| Arc::ptr_eq(n, app)) {
                continue;
            }
            for target in &app.targets {
                if !now.is_some_and(|n| n.targets.iter().any(|t| Arc::ptr_eq(t, target))) {
                    probe::stop(target);
                    target.gone();
                }
            }
            if now.is_none() {
                app.lasting.bump();
            }
        }
    }
}

/// Tells a controller that just sent its table how every target is.
pub(crate) fn tell_all(shared: &Shared) {
    for target in shared.table.load().apps.values().flat_map(|a| &a.targets) {
        if target.has_role(Role::Drain) {
            shared.tell_drained(target);
        } else if let Some(verdict) = &lock(&target.health).verdict {
            shared.tell_health(target, verdict);
        }
    }
}
