//! Accepting clients, and seeing their connections to the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::forward::client::{Client, ClientIo};
use crate::forward::handle;
use crate::shared::{Counted, Shared};

/// From the accept, or the end of an answer, to the end of the next request's head.
const HEAD: Duration = Duration::from_secs(30);
/// How often a connection is looked at whether its body stands still, at most.
const LOOK: Duration = Duration::from_secs(5);
/// While draining: how long a connection must have been quiet to be closed as idle.
const QUIET: Duration = Duration::from_millis(500);
const LOOK_DRAINING: Duration = Duration::from_millis(50);
/// Heads up to here are read whole, so that the client is told in words what is too large.
const READ_BUFFER: usize = 160 << 10;
const READ_FIELDS: usize = 200;

/// Accepts until the proxy drains; then takes what the kernel has accepted already.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let port = listener.local_addr().map_or(0, |a| a.port());
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.draining.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => spawn(&shared, stream, peer, port),
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: those in use end some time.
                if warned.is_none_or(|w| w.elapsed() > Duration::from_secs(10)) {
                    tracing::error!(%error, port, "connections cannot be accepted; trying again");
                    warned = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // A connection in the queue would be reset by closing the listener.
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        spawn(&shared, stream, peer, port);
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn spawn(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let _ = stream.set_nodelay(true);
    let client = Arc::new(Client::new(peer, port));
    let counted = Counted::new(shared, |c| &c.connections);
    let shared = Arc::clone(shared);
    shared.clone().tasks.spawn(async move {
        connection(shared, stream, client).await;
        drop(counted);
    });
}

/// Serves one connection; it ends by itself, stalls, or is cut at the end of the drain time.
async fn connection(shared: Arc<Shared>, stream: TcpStream, client: Arc<Client>) {
    let io = TokioIo::new(ClientIo::new(stream, Arc::clone(&client)));
    let service = service_fn(|request| {
        let response = handle(Arc::clone(&shared), Arc::clone(&client), request);
        // Boxed: a connection that is idle should not hold the room of a request.
        let response = Box::pin(response);
        async move { Ok::<_, std::convert::Infallible>(response.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(READ_FIELDS)
        .max_buf_size(READ_BUFFER)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut draining = false;
    let every = LOOK.min(shared.timeouts.body_idle / 4);
    let mut look = Instant::now() + every;
    loop {
        tokio::select! {
            // First the connection: a request that has arrived is seen before it counts as idle.
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, client.address = %client.arrival.client, "a client's connection broke");
                }
                return;
            }
            () = shared.cut.cancelled() => return,
            () = shared.draining.cancelled(), if !draining => {
                draining = true;
                look = Instant::now();
            }
            () = sleep_until(look) => {
                if client.stalled() {
                    tracing::info!(error = "H15", client.address = %client.arrival.client, "a body stood still for too long: cut");
                    shared.counters.cut.fetch_add(1, SeqCst);
                    return;
                }
                let quiet = client.quiet_ms() >= clock::millis(QUIET);
                if draining && quiet && client.idle() {
                    connection.as_mut().graceful_shutdown();
                }
                look = Instant::now() + if draining { LOOK_DRAINING } else { every };
            }
        }
    }
}
