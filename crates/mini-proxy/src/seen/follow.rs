//! What others ask of what was seen, each over a connection of its own to `control.sock`, so that it
//! never stands in the way of routes: the requests' lines, and the counters.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt as _;
use mini_core::control::{AppTraffic, FromProxy, ToProxy};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

use super::backlog::Batch;
use crate::shared::Shared;
use crate::succession::Lines;

/// How long the other side may take to read a batch, and to keep it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends the lines of requests, batch by batch; the next one once the last is kept. Lines that are
/// not kept when the connection ends wait for the next connection.
pub(crate) async fn requests(shared: &Shared, mut lines: Lines, mut writer: OwnedWriteHalf) {
    let seen = &shared.seen;
    seen.followers.fetch_add(1, Relaxed);
    tracing::debug!("the requests' lines are followed");
    loop {
        let batch = tokio::select! {
            batch = seen.backlog.next() => batch,
            // Nothing is to be said before a batch came.
            _ = lines.next() => break,
        };
        seen.set_clock();
        let handed_over =
            tokio::time::timeout(PATIENCE, hand_over(&batch, &mut lines, &mut writer));
        if handed_over.await.unwrap_or(false) {
            seen.backlog.kept();
        } else {
            seen.backlog.put_back(batch);
            break;
        }
    }
    seen.followers.fetch_sub(1, Relaxed);
    tracing::debug!("the requests' lines are followed no longer");
}

/// Whether the batch was sent and is kept.
async fn hand_over(batch: &Batch, lines: &mut Lines, writer: &mut OwnedWriteHalf) -> bool {
    let lost = batch.lost.iter().map(|(app, n)| (app.clone(), *n)).collect();
    let head = FromProxy::Requests { bytes: batch.bytes() as u64, lost };
    let Ok(mut head) = serde_json::to_vec(&head) else { return false };
    head.push(b'\n');
    let send = async {
        writer.write_all(&head).await?;
        for chunk in &batch.chunks {
            writer.write_all(chunk).await?;
        }
        writer.flush().await
    };
    if send.await.is_err() {
        return false;
    }
    let Some(Ok(line)) = lines.next().await else { return false };
    matches!(serde_json::from_str(&line), Ok(ToProxy::Kept))
}

/// Sends all counters, once for each time they are asked for.
pub(crate) async fn metrics(shared: &Arc<Shared>, mut lines: Lines, mut writer: OwnedWriteHalf) {
    loop {
        let of = Arc::clone(shared);
        // With thousands of apps this takes milliseconds, which requests must not wait for.
        let document = tokio::task::spawn_blocking(move || {
            let apps = traffic(&of);
            let document = FromProxy::Metrics { pid: std::process::id(), apps };
            serde_json::to_vec(&document)
        });
        let Ok(Ok(mut document)) = document.await else { return };
        document.push(b'\n');
        match tokio::time::timeout(PATIENCE, writer.write_all(&document)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
        match lines.next().await {
            Some(Ok(line)) if matches!(serde_json::from_str(&line), Ok(ToProxy::Metrics)) => {}
            _ => return,
        }
    }
}

/// What was seen of every app that had requests.
fn traffic(shared: &Shared) -> Vec<AppTraffic> {
    let table = shared.table.load_full();
    let apps = table.apps.values().map(|app| AppTraffic {
        app: app.route.app.clone(),
        held: app.lasting.seen.held(),
        waiting: app.lasting.waiting.load(Relaxed) as u64,
        releases: app.lasting.seen.traffic(),
    });
    apps.filter(|app| !app.releases.is_empty()).collect()
}
