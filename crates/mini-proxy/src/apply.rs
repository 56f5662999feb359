//! Changing the live table.
//!
//! The order matters: what rises to Serve rises before the new table is seen, what falls falls
//! after it, so that there is no instant at which a request finds nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use mini_core::name::AppName;
use mini_core::route::{AppRoute, Role};

use crate::probe;
use crate::shared::{Shared, lock};
use crate::snapshot::Image;
use crate::table::{App, Lasting, Table, TargetState};

/// A change of the table.
pub(crate) enum Change {
    Table(Vec<AppRoute>),
    App(AppRoute),
    Forget(AppName),
}

/// The change came too late: the table has this generation already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stale {
    pub(crate) current: u64,
}

/// Applies a change by the controller, and asks for it to be saved.
///
/// `applied` is called when requests are routed by it and before anything that follows from it.
pub(crate) fn change(
    shared: &Arc<Shared>,
    generation: u64,
    change: Change,
    applied: impl FnOnce(),
) -> Result<(), Stale> {
    let _one_at_a_time = lock(&shared.writer);
    let old = shared.table.load_full();
    if generation <= old.generation {
        return Err(Stale { current: old.generation });
    }
    let mut step = Step { shared, old: &old, proven: true, changed: Vec::new() };
    let apps = match change {
        Change::Table(routes) => {
            routes.into_iter().map(|r| (r.app.clone(), step.renew(r))).collect()
        }
        Change::App(route) => {
            let mut apps = old.apps.clone();
            apps.insert(route.app.clone(), step.renew(route));
            apps
        }
        Change::Forget(app) => {
            let mut apps = old.apps.clone();
            apps.remove(&app);
            apps
        }
    };
    step.swap(generation, apps, applied);
    shared.to_save.send_replace(());
    Ok(())
}

/// Fills the empty table from a snapshot. Targets from before a reboot have to prove themselves.
pub(crate) fn restore(shared: &Arc<Shared>, image: Image) {
    let _one_at_a_time = lock(&shared.writer);
    let old = shared.table.load_full();
    let proven = image.boot_id == shared.boot_id;
    let mut step = Step { shared, old: &old, proven, changed: Vec::new() };
    let apps = image.apps.into_iter().map(|r| (r.app.clone(), step.renew(r))).collect();
    step.swap(image.generation, apps, || {});
    shared.durable.store(image.generation, SeqCst);
}

struct Step<'a> {
    shared: &'a Arc<Shared>,
    old: &'a Table,
    proven: bool,
    /// The apps whose entry is not what it was.
    changed: Vec<Arc<App>>,
}

impl Step<'_> {
    /// The app's new entry, in which every target that stays is the same one.
    fn renew(&mut self, route: AppRoute) -> Arc<App> {
        let old = self.old.apps.get(&route.app);
        let mut targets = Vec::with_capacity(route.targets.len());
        for spec in &route.targets {
            let kept = old.and_then(|o| o.targets.iter().find(|t| t.is(spec)));
            let target = match kept {
                Some(target) => Arc::clone(target),
                None => Arc::new(TargetState::new(route.app.clone(), spec.clone(), self.proven)),
            };
            if self.proven {
                target.proven.store(true, SeqCst);
            }
            if spec.role == Role::Serve {
                target.set_role(Role::Serve);
                target.endpoint.open();
            }
            targets.push(target);
        }
        let lasting = old.map_or_else(|| Arc::new(Lasting::new()), |o| Arc::clone(&o.lasting));
        let app = Arc::new(App::new(route, targets, lasting, &self.shared.domains));
        self.changed.push(Arc::clone(&app));
        app
    }

    fn swap(self, generation: u64, apps: BTreeMap<AppName, Arc<App>>, applied: impl FnOnce()) {
        let Self { shared, old, changed, .. } = self;
        let new = Arc::new(Table::new(generation, apps));
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
                        if target.idle() {
                            shared.tell_drained(target);
                        }
                    }
                }
            }
            app.lasting.bump();
        }
        for (name, app) in &old.apps {
            let now = new.apps.get(name);
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
            if target.idle() {
                shared.tell_drained(target);
            }
        } else if let Some(verdict) = &lock(&target.health).verdict {
            shared.tell_health(target, verdict);
        }
    }
}
