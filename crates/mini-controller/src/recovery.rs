//! How long it takes until everything runs again once the engine is back (or the machine, which
//! is the same with a controller that has just started).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mini_api::Recovery;
use mini_core::id::DeploymentId;
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::Desired;
use mini_core::ports::InstanceState;

use crate::clock;
use crate::core::Core;
use crate::intent;
use crate::store::{self, StoreResult};

/// How often it is looked whether all are up. What is looked at is in memory.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What is not up by then is named, and waited for no longer.
const LONGEST: Duration = Duration::from_secs(120);
/// How many of those that are not up are named.
const NAMED: usize = 5;

#[derive(Default)]
pub(crate) struct Recoveries {
    last: Mutex<Option<Recovery>>,
    /// Counts up with every return of the engine: an older one is followed no longer.
    returns: AtomicU64,
}

impl Recoveries {
    /// The last one that came to its end.
    pub(crate) fn last(&self) -> Option<Recovery> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An instance that should be up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    app: AppName,
    rollout: DeploymentId,
    process: ProcessType,
    ordinal: u32,
}

/// The engine has answered with a full look; `was_lost` if it was there before and went away.
pub(crate) fn follow(core: &Arc<Core>, was_lost: bool) {
    let (core, begun) = (core.clone(), Instant::now());
    let this = core.recoveries.returns.fetch_add(1, Ordering::SeqCst) + 1;
    tokio::spawn(async move {
        let wanted = match core.store.read(wanted).await {
            Ok(wanted) => wanted,
            Err(error) => return tracing::warn!(%error, "nobody knows what should run"),
        };
        // A controller that finds everything running as it left it has nothing to tell.
        match down(&core, &wanted, false) {
            None => return,
            Some(stopped) if stopped.is_empty() && !was_lost => return,
            Some(_) => {}
        }
        let Some(mut down) = down(&core, &wanted, true) else { return };
        while !down.is_empty() && begun.elapsed() < LONGEST {
            tokio::time::sleep(LOOK_EVERY).await;
            down = match self::down(&core, &wanted, true) {
                Some(down) if core.recoveries.returns.load(Ordering::SeqCst) == this => down,
                // It went away again.
                _ => return,
            };
        }
        let recovery = told(&wanted, &down, begun.elapsed());
        let names: Vec<String> = down.iter().take(NAMED).map(|w| w.name()).collect();
        tracing::info!(not_up = names.join(" "), "{}", recovery.text);
        *core.recoveries.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(recovery);
    });
}

impl Wanted {
    fn name(&self) -> String {
        format!("{}/{}.{}", self.app, self.process, self.ordinal)
    }
}

/// Every instance that should be up.
fn wanted(c: &rusqlite::Connection) -> StoreResult<Vec<Wanted>> {
    let mut all = Vec::new();
    for app in store::all_apps(c)? {
        let (Some(id), Some(number), Desired::Run) =
            (&app.live_deployment, app.live_release, app.desired)
        else {
            continue;
        };
        let Some(live) = intent::rollout(c, app.id, id, number)? else { continue };
        for (process, spec) in &live.spec.processes {
            all.extend((1..=spec.count).map(|ordinal| Wanted {
                app: app.name.clone(),
                rollout: id.clone(),
                process: process.clone(),
                ordinal,
            }));
        }
    }
    Ok(all)
}

/// Those that do not run, or to which no request is sent although they are to get some (`routed`);
/// `None` while the engine is away.
fn down<'a>(core: &Core, wanted: &'a [Wanted], routed: bool) -> Option<Vec<&'a Wanted>> {
    let mut down = Vec::new();
    for of_app in wanted.chunk_by(|a, b| a.app == b.app) {
        let Some(first) = of_app.first() else { continue };
        let there = core.world.of_app(&first.app)?;
        down.extend(of_app.iter().filter(|w| {
            !there.iter().any(|i| {
                (&i.rollout, &i.process, i.ordinal) == (&w.rollout, &w.process, w.ordinal)
                    && matches!(i.state, InstanceState::Running { .. })
                    && (!routed || !i.process.is_web() || core.link.serves(&i.id, &i.app))
            })
        }));
    }
    Some(down)
}

fn told(wanted: &[Wanted], down: &[&Wanted], took: Duration) -> Recovery {
    let apps: BTreeSet<&AppName> = wanted.iter().map(|w| &w.app).collect();
    let apps_down: BTreeSet<&AppName> = down.iter().map(|w| &w.app).collect();
    let (all, up) = (wanted.len() as u64, (wanted.len() - down.len()) as u64);
    let instances = if up == all { all.to_string() } else { format!("{up} of {all}") };
    Recovery {
        at: clock::timestamp(clock::now()),
        instances: all,
        instances_up: up,
        apps: apps.len() as u64,
        apps_up: (apps.len() - apps_down.len()) as u64,
        took_ms: took.as_millis() as u64,
        text: format!(
            "engine back: {instances} instances of {} apps up after {:.1} s",
            apps.len(),
            took.as_secs_f64()
        ),
    }
}
