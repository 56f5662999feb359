//! Accepting connections, and stopping without cutting an answer short.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::respond;
use crate::site::Site;

/// How long answers in flight may go on after the order to stop. The platform kills 30 s after
/// SIGTERM; ending a little before that keeps the exit code 0.
const GRACE: Duration = Duration::from_secs(25);
/// How long a client may take to send a request's head, and a kept connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How serving ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every answer was sent in full.
    Drained,
    /// The grace was over first.
    CutShort,
}

/// Serves `site` on `listener` until `stop` completes, then lets answers in flight finish.
pub(crate) async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    stop: impl Future<Output = ()>,
) -> Ended {
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Small answers must not wait for an acknowledgement; failing to ask is harmless.
        let _ = stream.set_nodelay(true);
        let site = Arc::clone(&site);
        let service = service_fn(move |request| {
            let site = Arc::clone(&site);
            async move { Ok::<_, Infallible>(respond::answer(site, &request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        // An error here is the client's: it went away or spoke nonsense.
        tokio::spawn(async move { drop(connection.await) });
    }
    drop(listener);
    match tokio::time::timeout(GRACE, graceful.shutdown()).await {
        Ok(()) => Ended::Drained,
        Err(_) => Ended::CutShort,
    }
}
