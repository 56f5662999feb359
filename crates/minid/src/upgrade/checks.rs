//! Whether a release does what the one before it did.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::trial;
use crate::commands::status;
use crate::commands::status::processes::listener;
use crate::health;
use crate::settings::Settings;

const LOOK: Duration = Duration::from_millis(200);
/// How long a new controller must have stood: one that falls over at its first work is caught.
const STANDS: Duration = Duration::from_secs(2);

/// What was wrong before, and cannot be blamed on a new release.
#[derive(Debug)]
pub(super) struct Before {
    down: BTreeSet<String>,
    door: bool,
}

/// How things are before anything is changed.
pub(super) async fn before(settings: &Settings) -> Before {
    let down = status::apps_down(settings).await.unwrap_or_default();
    let down = down.into_iter().map(|(app, _)| app).collect();
    Before { down, door: door(settings).await }
}

/// Waits until the door answers and every app that served does; the controller, of the release in
/// `folder`, is the same process all along.
pub(super) async fn well(
    settings: &Settings,
    folder: &Path,
    before: &Before,
    until: Instant,
) -> Result<(), String> {
    let begun = Instant::now();
    let pid = controller(settings).await;
    loop {
        let now = controller(settings).await;
        if now.is_none() || now != pid {
            return Err("the controller ended again".to_owned());
        }
        let wrong = if before.door && !door(settings).await {
            Some("the front door does not answer".to_owned())
        } else {
            newly_down(settings, folder, before).await
        };
        match wrong {
            None if begun.elapsed() >= STANDS => return Ok(()),
            Some(wrong) if Instant::now() >= until => return Err(wrong),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// What of the apps is worse than before. A schema that is too new for this program is read by the release
/// that brought it.
async fn newly_down(settings: &Settings, folder: &Path, before: &Before) -> Option<String> {
    let down = match status::apps_down(settings).await {
        None => trial::apps_down(folder, settings).await,
        down => down,
    };
    let Some(down) = down else { return Some("nobody can tell whether the apps serve".to_owned()) };
    let newly = down.into_iter().find(|(app, _)| !before.down.contains(app));
    newly.map(|(app, why)| format!("{app} is down: {why}"))
}

/// Whether the controller answers through the proxy.
async fn door(settings: &Settings) -> bool {
    let Some(listener) = settings.http_listen.first() else { return false };
    let answer = health::over_tcp(*listener, settings.proxy_protocol()).await;
    answer.is_some()
}

async fn controller(settings: &Settings) -> Option<u32> {
    listener(&settings.sockets.live("admin.sock")).await.flatten()
}
