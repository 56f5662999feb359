//! After a restore: images that the engine does not have are made again, from the source that was
//! kept or by pulling.

use std::sync::Arc;
use std::time::Duration;

use mini_core::cause::Cause;
use mini_core::ports::Progress;

use super::RESTORED;
use crate::core::Core;
use crate::deployer;
use crate::store::{self, Needed, StoreError};

/// The pauses between two rounds.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Makes what is missing, until nothing is; at once where the folder was not restored. Drivers
/// run meanwhile and try in vain; the app of an image that is there is woken.
pub(crate) async fn rebuild_missing(core: Arc<Core>) {
    let mut pause = SHORTEST;
    loop {
        match round(&core).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "what a restore left to do could not be read"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Whether nothing is missing any more.
async fn round(core: &Arc<Core>) -> Result<bool, StoreError> {
    if core.store.read(|c| store::meta(c, RESTORED)).await?.is_none() {
        return Ok(true);
    }
    let mut whole = true;
    for needed in core.store.read(store::needed_releases).await? {
        let old = needed.release.spec.image.clone();
        match core.runtime.image(old.clone()).await {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the engine does not say which images it has");
                return Ok(false);
            }
        }
        // Another release of the app that shares it may have been seen to by now.
        whole = false;
        match make(core, &needed).await {
            Ok(new) => {
                let app_id = needed.app_id;
                core.store.write(move |tx| store::replace_image(tx, app_id, &old, &new)).await?;
                let text = format!("The image of v{} was made again", needed.release.number);
                core.logs.say(&needed.app, "deploy", text);
                core.drivers.wake(&needed.app);
            }
            Err(cause) => {
                let (app, why) = (&needed.app, &cause.message);
                tracing::error!(%app, %why, "after the restore its image could not be made again");
                let text = format!(
                    "The image of v{} could not be made again: {why}",
                    needed.release.number
                );
                core.logs.say(app, "deploy", text);
            }
        }
    }
    if whole {
        core.store.write(|tx| store::forget_meta(tx, RESTORED)).await?;
        tracing::info!("every image is there: the restore is complete");
    }
    Ok(whole)
}

/// The id of the new image.
async fn make(core: &Arc<Core>, needed: &Needed) -> Result<String, Cause> {
    let Needed { app, release, .. } = needed;
    let mut progress = match (&release.source, &release.image_name) {
        (Some(source), _) if core.sources.has(source) => {
            core.logs.say(
                app,
                "deploy",
                format!("Building v{} again after a restore", release.number),
            );
            let id = needed.app_id;
            let row = core.store.read(move |c| store::app_by_id(c, id)).await;
            let row = row.map_err(|error| Cause::new("internal", error.to_string()))?;
            let row = row.ok_or_else(|| Cause::new("internal", "the app is gone"))?;
            deployer::build_again(core, &row, &release.deployment, source).await?
        }
        (_, Some(name)) => {
            core.logs.say(app, "deploy", format!("Pulling {name} again after a restore"));
            core.runtime.pull(name.clone())
        }
        _ => return Err(Cause::new("source_lost", "its source is not kept any more")),
    };
    let ended = tokio::time::timeout(core.config.build_timeout, async {
        while let Some(item) = futures_util::StreamExt::next(&mut progress).await {
            match item {
                Ok(Progress::Line(line)) => core.logs.say(app, "build", line),
                Ok(Progress::Bytes { .. }) => {}
                Ok(Progress::Image(id)) => return Ok(id),
                Err(error) => return Err(Cause::new("build_failed", error.message)),
            }
        }
        Err(Cause::new("engine_unavailable", "the engine broke off without a result"))
    });
    ended
        .await
        .unwrap_or_else(|_| Err(Cause::new("build_timeout", "it took longer than builds may")))
}
