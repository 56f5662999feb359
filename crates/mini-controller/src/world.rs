//! What is known of the engine's instances, and the task that keeps it true.
//!
//! Known, absent or unknown: while the stream of changes is broken, everything is unknown, until
//! a full look. A full look also comes by itself now and then, so that one lost event cannot
//! matter for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use mini_core::id::InstanceId;
use mini_core::name::AppName;
use mini_core::ports::{Change, Instance, InstanceState};
use tokio::sync::Notify;

use crate::core::Core;
use crate::recovery;

const FULL_LOOK_EVERY: Duration = Duration::from_secs(20);
const RETRY_LOOK_AFTER: Duration = Duration::from_secs(1);

/// The instances as last seen; `None` is unknown.
#[derive(Default)]
pub(crate) struct World {
    known: Mutex<Option<HashMap<InstanceId, Instance>>>,
    /// Why it is unknown, for people.
    trouble: Mutex<Option<String>>,
    /// What was told of single instances while a full look was under way: it is newer than what
    /// that look will say, which may have been on its way for long.
    told: Mutex<Option<HashMap<InstanceId, Option<Instance>>>>,
    look: Notify,
}

impl World {
    fn known(&self) -> MutexGuard<'_, Option<HashMap<InstanceId, Instance>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app's instances, in a fixed order; `None` is unknown.
    pub(crate) fn of_app(&self, app: &AppName) -> Option<Vec<Instance>> {
        let known = self.known();
        let mut own: Vec<Instance> =
            known.as_ref()?.values().filter(|i| i.app == *app).cloned().collect();
        own.sort_by(|a, b| (&a.process, a.ordinal, &a.id).cmp(&(&b.process, b.ordinal, &b.id)));
        Some(own)
    }

    pub(crate) fn get(&self, id: &InstanceId) -> Option<Instance> {
        self.known().as_ref()?.get(id).cloned()
    }

    /// Every app that has an instance.
    fn apps(&self) -> Vec<AppName> {
        let mut apps: Vec<AppName> =
            self.known().iter().flat_map(|k| k.values()).map(|i| i.app.clone()).collect();
        apps.sort();
        apps.dedup();
        apps
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn is_known(&self) -> bool {
        self.known().is_some()
    }

    fn set_unknown(&self, why: String) {
        *self.known() = None;
        self.set_trouble(Some(why));
    }

    /// What an action did cannot be found out: nothing is known until a full look.
    pub(crate) fn lost_sight(&self, why: String) {
        self.set_unknown(why);
        self.look_again();
    }

    /// A full look begins.
    fn begin_look(&self) {
        *self.told() = Some(HashMap::new());
    }

    fn told(&self) -> MutexGuard<'_, Option<HashMap<InstanceId, Option<Instance>>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, id: &InstanceId, seen: Option<&Instance>) {
        if let Some(told) = self.told().as_mut() {
            told.insert(id.clone(), seen.cloned());
        }
    }

    /// A full look has come back.
    fn set_all(&self, instances: Vec<Instance>) {
        let mut known = self.known();
        let mut all: HashMap<_, _> = instances.into_iter().map(|i| (i.id.clone(), i)).collect();
        for (id, seen) in self.told().take().into_iter().flatten() {
            match seen {
                Some(instance) => drop(all.insert(id, instance)),
                None => drop(all.remove(&id)),
            }
        }
        *known = Some(all);
        drop(known);
        self.set_trouble(None);
    }

    /// Takes in one look; returns the app concerned.
    pub(crate) fn set_one(&self, id: &InstanceId, seen: Option<Instance>) -> Option<AppName> {
        let mut known = self.known();
        self.tell(id, seen.as_ref());
        let known = known.as_mut()?;
        let before = match seen.clone() {
            Some(instance) => known.insert(id.clone(), instance),
            None => known.remove(id),
        };
        seen.or(before).map(|i| i.app)
    }

    /// Takes in the answer to a start. A look that an event caused meanwhile is newer, and wins.
    pub(crate) fn started(&self, before: Option<InstanceState>, instance: &Instance) {
        let mut known = self.known();
        let Some(known) = known.as_mut() else {
            return self.tell(&instance.id, Some(instance));
        };
        let now = known.get(&instance.id).map(|i| i.state);
        if now == before || instance.state.is_later_start(now) {
            known.insert(instance.id.clone(), instance.clone());
            self.tell(&instance.id, Some(instance));
        }
    }

    pub(crate) fn removed(&self, id: &InstanceId) {
        let mut known = self.known();
        self.tell(id, None);
        if let Some(known) = known.as_mut() {
            known.remove(id);
        }
    }

    /// Asks for a full look soon.
    pub(crate) fn look_again(&self) {
        self.look.notify_one();
    }
}

/// Keeps the world true. Ends with the process.
pub(crate) async fn watch(core: Arc<Core>) {
    let world = &core.world;
    let mut changes = core.runtime.changes();
    let mut connected = false;
    let mut was_lost = false;
    let mut next_look = tokio::time::Instant::now() + FULL_LOOK_EVERY;
    loop {
        tokio::select! {
            change = changes.next() => match change {
                Some(Change::Connected) => {
                    connected = true;
                    core.firewall.look_soon();
                    next_look = tokio::time::Instant::now();
                }
                Some(Change::Lost(why)) => {
                    (connected, was_lost) = (false, true);
                    if world.trouble().as_ref() != Some(&why) {
                        tracing::warn!(%why, "the engine is away");
                    }
                    world.set_unknown(why);
                    core.drivers.wake_all();
                }
                Some(Change::Instance(id)) if connected => look_at(&core, id).await,
                Some(Change::Instance(_)) => {}
                None => {
                    tracing::error!("the engine's stream of changes ended for good; trying anew");
                    tokio::time::sleep(RETRY_LOOK_AFTER).await;
                    changes = core.runtime.changes();
                }
            },
            () = tokio::time::sleep_until(next_look), if connected => {
                let was_known = world.is_known();
                let pause = look_at_all(&core).await;
                if !was_known && world.is_known() {
                    recovery::follow(&core, was_lost);
                }
                next_look = tokio::time::Instant::now() + pause;
            }
            () = world.look.notified(), if connected => next_look = tokio::time::Instant::now(),
        }
    }
}

async fn look_at(core: &Core, id: InstanceId) {
    match core.runtime.observe_one(id.clone()).await {
        Ok(seen) => {
            if let Some(instance) = &seen {
                core.pumps.ensure(instance);
            }
            if let Some(app) = core.world.set_one(&id, seen) {
                core.drivers.wake(&app);
            }
        }
        Err(error) => {
            tracing::warn!(instance = %id, %error, "an instance could not be looked at");
            core.world.look_again();
        }
    }
}

/// A full look; returns when the next one is due.
async fn look_at_all(core: &Arc<Core>) -> Duration {
    core.world.begin_look();
    match core.runtime.observe().await {
        Ok(instances) => {
            for instance in &instances {
                core.pumps.ensure(instance);
            }
            core.pumps.keep(&instances);
            core.world.set_all(instances);
            core.drivers.wake_all();
            // Beside the watch: a slow removal must hold up no event.
            let (core, apps) = (core.clone(), core.world.apps());
            tokio::spawn(async move { crate::orphans::clear(&core, &apps).await });
            FULL_LOOK_EVERY
        }
        Err(error) => {
            tracing::warn!(%error, "the engine could not be looked at");
            core.world.set_unknown(error.to_string());
            RETRY_LOOK_AFTER
        }
    }
}

#[cfg(test)]
mod tests {
    use mini_core::time::Millis;

    use super::*;

    fn instance(id: &str) -> Instance {
        Instance {
            id: id.parse().unwrap(),
            app: "blue".parse().unwrap(),
            rollout: "d1".parse().unwrap(),
            release: 1,
            process: "web".parse().unwrap(),
            ordinal: 1,
            address: None,
            port: None,
            alone: false,
            one_off: None,
            state: InstanceState::Running { since: Millis(1) },
        }
    }

    #[test]
    fn a_full_look_that_took_long_undoes_nothing_that_happened_meanwhile() {
        let world = World::default();
        world.set_all(vec![instance("old")]);
        world.begin_look();
        let looked = vec![instance("old")];
        world.started(None, &instance("new"));
        world.removed(&"old".parse().unwrap());
        world.set_all(looked);
        let ids = |world: &World| -> Vec<String> {
            let all = world.of_app(&"blue".parse().unwrap()).unwrap();
            all.iter().map(|i| i.id.to_string()).collect()
        };
        assert_eq!(ids(&world), ["new"]);
        world.set_all(vec![instance("old")]);
        assert_eq!(ids(&world), ["old"], "the next look is as good as any");
    }
}
