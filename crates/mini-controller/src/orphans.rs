//! What nobody needs any more: instances and networks of apps that the store does not know, old
//! images and old sources. Only what carries this server's id is ever touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mini_core::fault;
use mini_core::name::AppName;
use mini_core::ports::RuntimeErrorKind;

use crate::clock;
use crate::core::Core;
use crate::store;

/// The images of this many of an app's last releases are kept (CONTRACTS, "Releases").
const KEPT_RELEASES: u32 = 10;
/// The events (build output, mostly) of this many of an app's last deployments are kept.
const KEPT_EVENTS: u32 = 50;
/// How long the collector waits for what is still in use.
const AGAIN: Duration = Duration::from_secs(10);
/// Sources sent this recently may be about to be deployed.
const FRESH_SOURCE_MS: u64 = 3_600_000;

/// Removes instances and networks whose app does not exist.
pub(crate) async fn clear(core: &Arc<Core>, apps_seen: &[AppName]) {
    let Ok(known) = core.store.read(store::all_apps).await else { return };
    let known: BTreeSet<AppName> = known.into_iter().map(|a| a.name).collect();
    for app in apps_seen.iter().filter(|app| !known.contains(app)) {
        for instance in core.world.of_app(app).unwrap_or_default() {
            tracing::warn!(%app, instance = %instance.id, "removing an instance of no known app");
            match core.runtime.remove(instance.id.clone()).await {
                Ok(()) => core.world.removed(&instance.id),
                Err(error) => tracing::warn!(instance = %instance.id, %error, "it stays for now"),
            }
        }
    }
    let Ok(networks) = core.runtime.networks().await else { return };
    // An app may have been made since the first look.
    let Ok(still) = core.store.read(store::all_apps).await else { return };
    for app in networks {
        let gone = !known.contains(&app) && !still.iter().any(|a| a.name == app);
        if gone && let Err(error) = core.runtime.remove_network(app.clone()).await {
            tracing::warn!(%app, %error, "the network of no known app stays for now");
        }
    }
}

/// Collects images and sources soon, beside whatever goes on.
pub(crate) fn collect_later(core: &Arc<Core>) {
    let core = core.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        while collect(&core).await == Left::InUse {
            tokio::time::sleep(AGAIN).await;
        }
    });
}

#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    /// A volume that is to go, and that an instance on its way out still has.
    InUse,
}

async fn collect(core: &Core) -> Left {
    fault::point("collect.begun");
    let pruned = core.store.write_from_reserve(|tx| store::prune_events(tx, KEPT_EVENTS)).await;
    if let Err(error) = pruned {
        tracing::warn!(%error, "old deployments' events stay");
    }
    collect_images(core).await;
    collect_sources(core).await;
    collect_volumes(core).await
}

async fn collect_images(core: &Core) {
    let Ok(images) = core.runtime.images().await else { return };
    // The store is read after the engine: an image that was built meanwhile is in neither.
    let Ok(unfinished) = core.store.read(store::unfinished_deployments).await else { return };
    let Ok(used) = core.store.read(|c| store::images_in_use(c, KEPT_RELEASES)).await else {
        return;
    };
    if unfinished.is_empty() {
        for image in images.into_iter().filter(|image| !used.contains(image)) {
            match core.runtime.remove_image(image.clone()).await {
                Err(error) if error.kind != RuntimeErrorKind::Conflict => {
                    tracing::warn!(%image, %error, "an old image stays");
                }
                // In use by an instance on its way out: next time.
                Err(_) => {}
                Ok(()) => fault::point("collect.image"),
            }
        }
    }
}

async fn collect_volumes(core: &Core) -> Left {
    let mut left = Left::Nothing;
    for engine_name in core.store.read(store::doomed_volumes).await.unwrap_or_default() {
        match core.runtime.remove_volume(engine_name.clone()).await {
            Ok(()) => {
                let gone = engine_name.clone();
                fault::point("collect.volume");
                // A row without a volume is only asked for again.
                let _ = core.store.write(move |tx| store::forget_volume(tx, &gone)).await;
            }
            // An instance on its way out still has it: next time.
            Err(error) if error.kind == RuntimeErrorKind::Conflict => left = Left::InUse,
            Err(error) => tracing::warn!(%engine_name, %error, "a volume stays for now"),
        }
    }
    left
}

async fn collect_sources(core: &Core) {
    let before = mini_core::time::Millis(clock::now().0.saturating_sub(FRESH_SOURCE_MS));
    let unused = core.store.read(move |c| store::unused_sources(c, KEPT_RELEASES, before)).await;
    for digest in unused.unwrap_or_default() {
        if core.sources.remove(&digest).is_ok() {
            let gone = digest.clone();
            // A row without a file is only asked for again.
            let _ = core.store.write_from_reserve(move |tx| store::delete_source(tx, &gone)).await;
        }
    }
}
