//! One driver per app: it plans, does what the plan says, and plans again.
//!
//! A driver takes no input but the app's name. It is woken by signals (the engine, the proxy, the
//! store changed) and by the time that the plan names. Actions run beside the planning, so that a
//! stop that takes its grace holds nothing up; an action that is under way is not begun twice.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mini_core::control::Verdict;
use mini_core::id::InstanceId;
use mini_core::name::AppName;
use mini_core::plan::{Action, Desired, Intent, Notes, Observed, Plan, Subject, plan};
use mini_core::ports::{Instance, InstanceState};
use mini_core::time::Millis;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::actions::{self, Outcome};
use crate::checks::Checks;
use crate::clock;
use crate::core::Core;
use crate::intent;
use crate::store;

/// When the store cannot be read or an activation failed otherwise.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Handle {
    wake: Notify,
    /// Something waits for the proxy to have taken, or written down, a route.
    waits_for_proxy: AtomicBool,
    pub(crate) notes: Mutex<Notes>,
    pub(crate) network_ready: AtomicBool,
    /// The last trouble that the app's log knows of.
    trouble_told: Mutex<Option<String>>,
    /// What starts under way hold.
    addresses: Mutex<BTreeSet<Ipv4Addr>>,
}

impl Handle {
    pub(crate) fn addresses(&self) -> MutexGuard<'_, BTreeSet<Ipv4Addr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the app's log does not know this trouble yet; `None` is that there is none.
    pub(crate) fn is_news(&self, trouble: Option<&str>) -> bool {
        let mut told = self.trouble_told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.as_deref() != trouble;
        *told = trouble.map(str::to_owned);
        news
    }

    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(crate) struct Drivers {
    handles: Mutex<HashMap<AppName, Arc<Handle>>>,
}

impl Drivers {
    fn handles(&self) -> MutexGuard<'_, HashMap<AppName, Arc<Handle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the app's driver, unless it has one.
    pub(crate) fn start(core: &Arc<Core>, app: &AppName) {
        let handle = Arc::new(Handle::default());
        {
            let mut handles = core.drivers.handles();
            if handles.contains_key(app) {
                return;
            }
            handles.insert(app.clone(), handle.clone());
        }
        core.link.expect(app);
        tokio::spawn(drive(core.clone(), app.clone(), handle));
    }

    pub(crate) fn get(&self, app: &AppName) -> Option<Arc<Handle>> {
        self.handles().get(app).cloned()
    }

    pub(crate) fn wake(&self, app: &AppName) {
        if let Some(handle) = self.handles().get(app) {
            handle.wake.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        for handle in self.handles().values() {
            handle.wake.notify_one();
        }
    }

    /// Wakes those that wait for the proxy to have taken, or written down, a route.
    pub(crate) fn wake_waiting(&self) {
        for handle in self.handles().values() {
            if handle.waits_for_proxy.load(Ordering::Relaxed) {
                handle.wake.notify_one();
            }
        }
    }

    fn remove(&self, app: &AppName) {
        self.handles().remove(app);
    }
}

async fn drive(core: Arc<Core>, app: AppName, handle: Arc<Handle>) {
    let mut under_way: HashSet<Subject> = HashSet::new();
    // How often in a row what is about a subject failed.
    let mut failures: HashMap<Subject, u32> = HashMap::new();
    let mut tasks: JoinSet<(Subject, Outcome)> = JoinSet::new();
    let mut seen = HashMap::new();
    loop {
        let wake_at = match activate(&core, &app, &handle, &mut seen).await {
            Ok(Some(plan)) => {
                for action in plan.actions {
                    // An instance that is being made is seen as created before it is started.
                    if let Action::StartAgain(id) = &action
                        && core
                            .world
                            .get(id)
                            .is_some_and(|i| under_way.contains(&Subject::slot_of(&i)))
                    {
                        continue;
                    }
                    // One that is being made is seen nowhere yet.
                    if action == Action::Forget && !under_way.is_empty() {
                        continue;
                    }
                    let subject = action.subject();
                    if under_way.insert(subject.clone()) {
                        let failed = failures.get(&subject).copied().unwrap_or(0);
                        begin(&core, &app, &handle, action, (subject, failed), &mut tasks);
                    }
                }
                plan.wake_at.map(|at| Duration::from_millis(at.since(clock::now()) + 1))
            }
            // The app is gone.
            Ok(None) => break,
            Err(error) => {
                tracing::error!(%app, %error, "an app could not be planned");
                Some(RETRY)
            }
        };
        let timer = async {
            match wake_at {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = handle.wake.notified() => {}
            () = timer => {}
            Some(done) = tasks.join_next() => match done {
                Ok((subject, outcome)) => {
                    under_way.remove(&subject);
                    match outcome {
                        Outcome::Done => drop(failures.remove(&subject)),
                        Outcome::Failed => *failures.entry(subject).or_default() += 1,
                        Outcome::AppForgotten => break,
                    }
                }
                Err(error) => {
                    tracing::error!(%app, %error, "an action broke off");
                    under_way.clear();
                    handle.notes().nothing_under_way();
                }
            },
        }
    }
    core.link.forget(&app);
    core.checks.forget(&app);
    core.drivers.remove(&app);
    // A new app of that name found this driver in its place, and got none.
    let name = app.clone();
    if let Ok(Some(_)) = core.store.read(move |c| store::app_by_name(c, &name)).await {
        Drivers::start(&core, &app);
    }
}

fn begin(
    core: &Arc<Core>,
    app: &AppName,
    handle: &Arc<Handle>,
    action: Action,
    (subject, failed): (Subject, u32),
    tasks: &mut JoinSet<(Subject, Outcome)>,
) {
    if let Action::Stop { instance, .. } | Action::Remove(instance) = &action {
        handle.notes().stop_begun(instance);
    }
    if let Some(rollout) = action.starts(|id| core.world.get(id)) {
        handle.notes().start_begun(subject.clone(), rollout);
    }
    let (core, app, handle) = (core.clone(), app.clone(), handle.clone());
    tasks.spawn(async move {
        let outcome = actions::perform(&core, &app, &handle, &action).await;
        if let Action::Stop { instance, .. } | Action::Remove(instance) = &action {
            handle.notes().stop_ended(instance);
        }
        handle.notes().start_ended(&subject);
        if outcome == Outcome::Failed {
            // Slows the next try down; starts have a back-off of their own in the notes.
            tokio::time::sleep(pause_after(failed + 1)).await;
        }
        (subject, outcome)
    });
}

/// The pause after the `failures`th failure in a row: 0.1 s doubling to 5 s.
fn pause_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(6);
    Duration::from_millis(100 << doublings).min(Duration::from_secs(5))
}

/// Plans once, and tells the proxy; `None` when there is no such app.
async fn activate(
    core: &Arc<Core>,
    app: &AppName,
    handle: &Handle,
    seen: &mut HashMap<InstanceId, InstanceState>,
) -> Result<Option<Plan>, crate::store::StoreError> {
    let Some(intent) = intent::load(core, app).await? else { return Ok(None) };
    forget_wishes(core, &intent, core.world.of_app(app).as_deref()).await;
    let now = clock::now();
    let (instances, decided) = {
        // Before the look: a start that ends meanwhile is either noted still or seen already.
        let mut notes = handle.notes();
        let instances = core.world.of_app(app);
        let ids: Vec<InstanceId> = instances.iter().flatten().map(|i| i.id.clone()).collect();
        let mut view = core.link.view(app, &ids);
        if let Some(instances) = &instances {
            let checks = Checks::keep(core, &intent, instances);
            view = view.judged(&intent, instances, &checks);
        }
        if let Some(instances) = &instances {
            tell_changes(core, &intent, &notes, instances, seen);
            notes.saw(instances);
        }
        notes.meant(&intent, now);
        for (id, verdict) in notes.heard(&view, now) {
            tell_health(core, instances.as_deref(), &id, &verdict);
        }
        let observed = Observed { instances: instances.as_deref(), proxy: &view, notes: &notes };
        let decided = plan(&intent, observed, now);
        if let Some(route) = &decided.route {
            notes.planned(route, now);
        }
        (instances, decided)
    };
    if let Some(route) = &decided.route {
        let drains = route.targets.iter().any(|t| t.role == mini_core::route::Role::Drain);
        // One that was cut leaves once the proxy has written down that it is in no route.
        let cut = instances.iter().flatten().any(|i| {
            i.process.is_web()
                && i.state.is_running()
                && route.targets.iter().all(|t| t.instance != i.id)
        });
        let waits = drains || cut || intent.unannounced.is_some();
        handle.waits_for_proxy.store(waits, Ordering::Relaxed);
        if core.link.publish(route) {
            // What was just said may allow more.
            handle.wake.notify_one();
        }
    }
    Ok(Some(decided))
}

/// An instance that the user wanted replaced, and whose start is over, is.
async fn forget_wishes(core: &Core, intent: &Intent, instances: Option<&[Instance]>) {
    let Some(instances) = instances else { return };
    for (id, started) in &intent.replace {
        let runs =
            |i: &Instance| i.id == *id && i.state == InstanceState::Running { since: *started };
        if !instances.iter().any(runs) {
            let (id, started) = (id.clone(), *started);
            // A wish that stays is of a start that is over, and asks for nothing.
            let _ = core.store.write(move |tx| store::replaced(tx, &id, started)).await;
        }
    }
}

fn tell_health(core: &Core, instances: Option<&[Instance]>, id: &InstanceId, verdict: &Verdict) {
    let Some(instance) = instances.into_iter().flatten().find(|i| i.id == *id) else { return };
    let text = match verdict {
        Verdict::Healthy => "State changed from unhealthy to up".to_owned(),
        Verdict::Unhealthy { why } => format!("State changed from up to unhealthy: {why}"),
    };
    core.logs.say(&instance.app, &instance.label(), text);
}

/// Writes into the app's log what happened to its instances.
fn tell_changes(
    core: &Core,
    intent: &Intent,
    notes: &Notes,
    instances: &[Instance],
    seen: &mut HashMap<InstanceId, InstanceState>,
) {
    seen.retain(|id, _| instances.iter().any(|i| i.id == *id));
    for instance in instances {
        let before = seen.insert(instance.id.clone(), instance.state);
        let (app, label) = (&instance.app, instance.label());
        if instance.one_off.is_some() {
            let ended_before = matches!(before, Some(InstanceState::Exited { .. }));
            if let (InstanceState::Exited { code, oom, .. }, false) = (instance.state, ended_before)
            {
                let why = if oom && code == 137 { ", out of memory" } else { "" };
                core.logs.say(app, &label, format!("Process exited with status {code}{why}"));
            }
            continue;
        }
        match (before, instance.state) {
            (Some(InstanceState::Running { .. }), InstanceState::Exited { code, oom, .. }) => {
                let wanted = intent.live.iter().chain(&intent.candidate).any(|r| {
                    r.id == instance.rollout && instance.ordinal <= r.spec.count(&instance.process)
                });
                let ended = instance.process.is_release() || notes.was_asked_to_stop(&instance.id);
                if intent.desired != Desired::Run || !wanted || ended {
                    core.logs.say(app, &label, format!("Stopped with status {code}"));
                } else {
                    let why = if oom && code == 137 { ", out of memory" } else { "" };
                    core.logs.say(app, &label, format!("Process exited with status {code}{why}"));
                    core.logs.say(app, &label, "State changed from up to crashed");
                }
            }
            (Some(InstanceState::Exited { .. }), InstanceState::Running { .. }) => {
                core.logs.say(app, &label, "State changed from crashed to starting");
            }
            (None, InstanceState::Running { since: Millis(at) }) => {
                tracing::debug!(instance = %instance.id, since = at, "seen running");
            }
            _ => {}
        }
    }
}
