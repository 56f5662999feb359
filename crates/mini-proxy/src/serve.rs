//! Accepting clients.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::forward::{Arrival, Client};
use crate::limits::Place;
use crate::proxy_protocol;
use crate::shared::Counted;
use crate::sock::Sock;
use crate::worker::Worker;

/// Connections taken at once before those that are there get their turn.
const BATCH: usize = 32;
/// How long the kernel keeps a connection on which nothing has come before it is accepted.
const DEFER_S: libc::c_int = 10;

/// A listening socket, and whether TLS comes in there.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) https: bool,
}

impl Listener {
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, https: self.https })
    }
}

/// Prepares a listener: what its connections inherit is set once and not for each of them.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    rustix::net::sockopt::set_tcp_nodelay(listener, true)?;
    // A client speaks first, with TLS too: it is accepted with its first bytes, which saves a
    // wakeup. Kept where it is not possible.
    let _ = defer_accept(listener);
    Ok(())
}

/// TCP_DEFER_ACCEPT (tcp(7)), for which there is no safe call yet.
#[allow(unsafe_code, reason = "one call with a number")]
fn defer_accept(listener: &TcpListener) -> io::Result<()> {
    let size = size_of_val(&DEFER_S) as libc::socklen_t;
    // SAFETY: the handle is open, and the value is as large as is said.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            std::ptr::from_ref(&DEFER_S).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A listener that can be waited for. The runtime's own would register each connection with the
/// kernel before it has been looked at once ([`Sock::Fresh`]).
#[allow(unsafe_code, reason = "the runtime asks for a promise that its types cannot check")]
fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: a `TcpListener` owns its handle, which is the same and open until it is dropped.
    let watched = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Accepts until the proxy drains; then takes what the kernel has accepted already.
pub(crate) async fn accept(worker: Rc<Worker>, listener: Listener) {
    let Listener { socket: listener, https } = listener;
    let port = listener.local_addr().map_or(0, |a| a.port());
    let listener = match watch(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, port, "a listener cannot be watched"),
    };
    let warned = Cell::new(None::<Instant>);
    let mut taken = 0;
    loop {
        let mut ready = tokio::select! {
            biased;
            () = worker.shared.draining.cancelled() => break,
            ready = listener.readable() => match ready {
                Ok(ready) => ready,
                Err(error) => return tracing::error!(%error, port, "a listener is broken"),
            },
        };
        match next(listener.get_ref()) {
            Ok((stream, peer)) => spawn(&worker, stream, arrival(peer, port, https)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                continue;
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: those in use end some time.
                if warned.get().is_none_or(|w| w.elapsed() > Duration::from_secs(10)) {
                    tracing::error!(%error, port, "connections cannot be accepted; trying again");
                    warned.set(Some(Instant::now()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        taken += 1;
        if taken % BATCH == 0 {
            tokio::task::yield_now().await;
        }
    }
    // A connection in the queue would be reset by closing the listener.
    while let Some(Ok(_)) = listener.readable().now_or_never() {
        match next(listener.get_ref()) {
            Ok((stream, peer)) => spawn(&worker, stream, arrival(peer, port, https)),
            Err(error) if is_the_clients(&error) => {}
            Err(_) => break,
        }
    }
}

fn next(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (handle, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|p| SocketAddr::try_from(p).ok());
    Ok((TcpStream::from(handle), peer.ok_or(io::ErrorKind::ConnectionAborted)?))
}

fn is_the_clients(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn arrival(peer: SocketAddr, port: u16, https: bool) -> Arrival {
    // An IPv4 client of a `[::]` listener is an IPv4 client.
    Arrival { client: peer.ip().to_canonical(), port, https }
}

fn spawn(worker: &Rc<Worker>, stream: TcpStream, arrival: Arrival) {
    let shared = &worker.shared;
    // Closed at once: an answer would cost more than there is.
    let Some(place) = shared.limits.admit() else { return };
    let counted = Counted::new(shared, |c| &c.connections);
    let tasks = shared.tasks.clone();
    let worker = Rc::clone(worker);
    if shared.clients.proxy_protocol || arrival.https {
        // Boxed: a connection that is there should not hold the room of how it began.
        let begun = Box::pin(begin(Rc::clone(&worker), place, stream, arrival));
        tokio::task::spawn_local(tasks.track_future(async move {
            if let Some((place, sock, arrival)) = begun.await {
                Client::new(worker, sock, arrival).serve().await;
                drop(place);
            }
            drop(counted);
        }));
        return;
    }
    let exempt = shared.clients.trusts(arrival.client);
    let Some(place) = place.of(arrival.client, exempt) else { return };
    let client = Client::new(worker, Sock::Fresh(stream), arrival);
    tokio::task::spawn_local(tasks.track_future(async move {
        client.serve().await;
        drop((place, counted));
    }));
}

/// Takes off a connection what stands before its first request: the PROXY header, the handshake of
/// TLS. `None` closes it.
async fn begin(
    worker: Rc<Worker>,
    place: Place,
    stream: TcpStream,
    arrival: Arrival,
) -> Option<(Place, Sock, Arrival)> {
    let stream = tokio::net::TcpStream::from_std(stream).ok()?;
    let (place, stream, arrival) = if worker.shared.clients.proxy_protocol {
        announced(&worker, place, stream, arrival).await?
    } else {
        let exempt = worker.shared.clients.trusts(arrival.client);
        (place.of(arrival.client, exempt)?, stream, arrival)
    };
    if !arrival.https {
        return Some((place, Sock::Tcp(stream), arrival));
    }
    Some((place, secured(&worker, stream, arrival).await?, arrival))
}

/// Takes the PROXY header off a connection.
async fn announced(
    worker: &Worker,
    place: Place,
    mut stream: tokio::net::TcpStream,
    mut arrival: Arrival,
) -> Option<(Place, tokio::net::TcpStream, Arrival)> {
    let shared = &worker.shared;
    let sender = arrival.client;
    let taken = tokio::select! {
        taken = proxy_protocol::take(&mut stream) => taken,
        () = shared.cut.cancelled() => return None,
    };
    let header = match taken {
        Ok(header) => header,
        Err(error) => {
            tracing::debug!(%error, client.address = %sender, "a connection without a PROXY header");
            return None;
        }
    };
    // Where proxies are named, the word of others counts for nothing.
    let believed = shared.clients.trusted.is_empty() || shared.clients.trusts(sender);
    if let Some(source) = header.source.filter(|_| believed) {
        arrival.client = source.ip().to_canonical();
    }
    // A proxy that speaks for itself looks whether we are well.
    let exempt = shared.clients.trusts(arrival.client) || (believed && header.source.is_none());
    Some((place.of(arrival.client, exempt)?, stream, arrival))
}

/// What is inside of TLS, if the handshake comes to a good end.
async fn secured(worker: &Worker, stream: tokio::net::TcpStream, arrival: Arrival) -> Option<Sock> {
    let shared = &worker.shared;
    tokio::select! {
        stream = shared.tls.accept(stream, arrival.client) => Some(Sock::Other(Box::new(stream?))),
        () = shared.cut.cancelled() => None,
    }
}
