//! Streams of JSON lines, with a heartbeat when there is nothing to say.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use mini_api::{HEARTBEAT_SECONDS, NDJSON};
use serde::Serialize;
use tokio::sync::mpsc;

pub(super) const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS);

/// The reader has gone.
pub(super) struct Gone;

/// Where a stream's producer writes.
pub(super) struct Lines {
    out: mpsc::Sender<Bytes>,
    waiting: Vec<u8>,
}

impl Lines {
    /// Adds a line; it leaves with the next flush.
    pub(super) fn push<T: Serialize>(&mut self, item: &T) {
        // A wire type that cannot be written would be a fault in its definition.
        if serde_json::to_writer(&mut self.waiting, item).is_ok() {
            self.waiting.push(b'\n');
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.waiting);
        self.out.send(bytes.into()).await.map_err(|_| Gone)
    }
}

/// An answer that `produce` writes line by line; it ends when `produce` does.
pub(super) fn lines<F>(produce: impl FnOnce(Lines) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (out, receiver) = mpsc::channel(16);
    tokio::spawn(produce(Lines { out, waiting: Vec::new() }));
    let body = Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async {
        let bytes = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(bytes), receiver))
    }));
    ([(header::CONTENT_TYPE, NDJSON), (header::CACHE_CONTROL, "no-store")], body).into_response()
}
