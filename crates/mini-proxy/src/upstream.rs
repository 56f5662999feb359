//! Connections to one upstream: connecting, and the pools of idle ones.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::shared::lock;
use crate::sock::Sock;

/// An idle connection is not used for a request that may not be repeated after this time, and
/// for none after twice of it: CONTRACTS, "Routing" (Node closes at 5 s).
const IDLE_UNREPEATABLE: Duration = Duration::from_secs(2);
const IDLE_ANY: Duration = Duration::from_secs(4);
/// Idle connections of one thread to one upstream.
const MAX_IDLE: usize = 256;
/// Pools of one upstream: one for each thread.
pub(crate) const MAX_WORKERS: usize = 16;

pub(crate) enum Upstream {
    Tcp(SocketAddr),
    /// The first of these that somebody listens at.
    Unix(Vec<PathBuf>),
}

/// One place to send requests to, with its idle connections. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Endpoint {
    inner: Arc<Inner>,
    /// Cancelled when what is in flight must end.
    pub(crate) cut: CancellationToken,
}

struct Inner {
    upstream: Upstream,
    /// Whether idle connections are kept.
    open: AtomicBool,
    /// By thread, so that no two ever wait for one another. Made with the first connection.
    pools: OnceLock<Box<[Mutex<Vec<Idle>>]>>,
}

struct Idle {
    sock: Sock,
    since: Instant,
}

/// Why no connection came about.
#[derive(Debug)]
pub(crate) enum NoConnection {
    Timeout,
    /// Refused, or no way there.
    Refused(io::Error),
}

impl Endpoint {
    pub(crate) fn new(upstream: Upstream) -> Self {
        let inner = Inner { upstream, open: AtomicBool::new(true), pools: OnceLock::new() };
        Self { inner: Arc::new(inner), cut: CancellationToken::new() }
    }

    /// An idle connection for a request that may be repeated, or may not.
    pub(crate) fn take_for(&self, worker: usize, repeatable: bool) -> Option<Sock> {
        let max_idle = if repeatable { IDLE_ANY } else { IDLE_UNREPEATABLE };
        self.take(worker, max_idle, !repeatable)
    }

    /// The connection of this thread that was used last, if it has been idle for less than
    /// `max_idle`. `surely`: the request could not be sent again if it turned out to be closed.
    fn take(&self, worker: usize, max_idle: Duration, surely: bool) -> Option<Sock> {
        let mut pool = lock(self.inner.pools.get()?.get(worker)?);
        while let Some(Idle { mut sock, since }) = pool.pop() {
            if since.elapsed() >= max_idle {
                // The others are older still. They may serve a request that can be repeated.
                pool.push(Idle { sock, since });
                return None;
            }
            if sock.is_usable(surely) {
                return Some(sock);
            }
        }
        None
    }

    /// Takes a connection back once it is done with its message.
    pub(crate) fn put(&self, worker: usize, sock: Sock) {
        let make = || (0..MAX_WORKERS).map(|_| Mutex::default()).collect();
        if let Some(pool) = self.inner.pools.get_or_init(make).get(worker) {
            let mut pool = lock(pool);
            if pool.len() < MAX_IDLE && self.inner.open.load(SeqCst) {
                pool.push(Idle { sock, since: Instant::now() });
            }
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        for pool in self.inner.pools.get().into_iter().flatten() {
            // The oldest is first.
            let mut pool = lock(pool);
            let fresh = pool.iter().position(|i| i.since.elapsed() < IDLE_ANY);
            let fresh = fresh.unwrap_or(pool.len());
            let old: Vec<_> = pool.drain(..fresh).collect();
            drop(pool);
            drop(old);
        }
    }

    /// Closes the idle connections, and keeps none from now on.
    pub(crate) fn close(&self) {
        self.inner.open.store(false, SeqCst);
        for pool in self.inner.pools.get().into_iter().flatten() {
            lock(pool).clear();
        }
    }

    /// Keeps idle connections again.
    pub(crate) fn open(&self) {
        self.inner.open.store(true, SeqCst);
    }

    pub(crate) async fn connect(&self) -> Result<Sock, NoConnection> {
        let connected = match &self.inner.upstream {
            Upstream::Tcp(addr) => TcpStream::connect(addr).await.and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(Sock::Tcp(stream))
            }),
            Upstream::Unix(paths) => first_of(paths).await.map(|s| Sock::Other(Box::new(s))),
        };
        connected.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => NoConnection::Timeout,
            _ => NoConnection::Refused(error),
        })
    }
}

async fn first_of(paths: &[PathBuf]) -> io::Result<UnixStream> {
    let mut refusal = None;
    for path in paths {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}
