//! Another protocol after a 101: raw bytes both ways.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use crate::clock;
use crate::forward::client::RequestGuard;
use crate::shared::Shared;
use crate::table::InFlight;
use crate::upstream::{Conn, Endpoint};

/// How long either side may take from the 101 to giving its connection over.
const SWITCH: Duration = Duration::from_secs(10);

/// Copies between the two until one closes, nothing passes for the idle time, or it is cut.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    client: OnUpgrade,
    upstream: OnUpgrade,
    endpoint: Endpoint,
    conn: Conn,
    request: RequestGuard,
    counted: Option<Arc<InFlight>>,
) {
    let ctx = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let both = async { tokio::try_join!(client, upstream) };
        let (client, upstream) = match tokio::time::timeout(SWITCH, both).await {
            Ok(Ok(both)) => both,
            Ok(Err(error)) => return tracing::debug!(%error, "an upgrade did not come about"),
            Err(_) => return tracing::debug!("an upgrade did not come about in time"),
        };
        drop(conn);
        let last = Arc::new(AtomicU64::new(clock::ms()));
        let mut client = Watched { inner: TokioIo::new(client), last: Arc::clone(&last) };
        let mut upstream = TokioIo::new(upstream);
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut upstream) => {}
            () = idle(&last, ctx.timeouts.upgraded_idle) => {}
            () = endpoint.cut.cancelled() => request.was_cut(),
            () = ctx.cut.cancelled() => {}
        }
        drop(counted);
    });
}

/// Ends once `last` is older than `limit`.
async fn idle(last: &AtomicU64, limit: Duration) {
    let limit = clock::millis(limit);
    loop {
        let quiet = clock::ms().saturating_sub(last.load(SeqCst));
        match limit.checked_sub(quiet) {
            Some(left) => tokio::time::sleep(Duration::from_millis(left + 1)).await,
            None => return,
        }
    }
}

/// Notes when a byte passes: all bytes of both directions are read or written here.
struct Watched<S> {
    inner: S,
    last: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.last.store(clock::ms(), SeqCst);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.last.store(clock::ms(), SeqCst);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
