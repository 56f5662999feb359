//! Connections to one upstream: connecting, and the pool of idle ones.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::forward::body::ReqBody;
use crate::shared::lock;

/// An idle connection is not used for a request that may not be repeated after this time, and
/// for none after twice of it: CONTRACTS, "Routing" (Node closes at 5 s).
pub(crate) const IDLE_UNREPEATABLE: Duration = Duration::from_secs(2);
pub(crate) const IDLE_ANY: Duration = Duration::from_secs(4);
const MAX_IDLE: usize = 256;

pub(crate) enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
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
    /// `None` once it takes no more.
    idle: Mutex<Option<Vec<Idle>>>,
}

struct Idle {
    conn: Conn,
    since: Instant,
}

/// A connection. Dropping it closes it, whatever it is doing.
pub(crate) struct Conn {
    pub(crate) sender: SendRequest<ReqBody>,
    /// Bytes received so far.
    heard: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Conn {
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(SeqCst)
    }
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
        let inner = Inner { upstream, idle: Mutex::new(Some(Vec::new())) };
        Self { inner: Arc::new(inner), cut: CancellationToken::new() }
    }

    /// The connection that was used last, if it has been idle for less than `max_idle`.
    pub(crate) fn take(&self, max_idle: Duration) -> Option<Conn> {
        let mut guard = lock(&self.inner.idle);
        let idle = guard.as_mut()?;
        while let Some(Idle { conn, since }) = idle.pop() {
            if since.elapsed() >= max_idle {
                // The others are older still. They may serve a request that can be repeated.
                idle.push(Idle { conn, since });
                return None;
            }
            if conn.sender.is_ready() {
                return Some(conn);
            }
        }
        None
    }

    /// Takes a connection back once it is done with its message.
    pub(crate) fn give_back(&self, mut conn: Conn) {
        if conn.sender.is_ready() {
            self.put(conn);
        } else if !conn.sender.is_closed() {
            // The answer is complete, the request may not be: give it a moment.
            let this = self.clone();
            tokio::spawn(async move {
                let ready = tokio::time::timeout(Duration::from_secs(30), conn.sender.ready());
                tokio::select! {
                    done = ready => if matches!(done, Ok(Ok(()))) { this.put(conn) },
                    () = this.cut.cancelled() => {}
                }
            });
        }
    }

    fn put(&self, conn: Conn) {
        if let Some(idle) = lock(&self.inner.idle).as_mut()
            && idle.len() < MAX_IDLE
        {
            idle.push(Idle { conn, since: Instant::now() });
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self) {
        if let Some(idle) = lock(&self.inner.idle).as_mut() {
            idle.retain(|i| i.since.elapsed() < IDLE_ANY && !i.conn.sender.is_closed());
        }
    }

    /// Closes the idle connections, and keeps none from now on.
    pub(crate) fn close(&self) {
        *lock(&self.inner.idle) = None;
    }

    /// Keeps idle connections again.
    pub(crate) fn open(&self) {
        lock(&self.inner.idle).get_or_insert_default();
    }

    pub(crate) async fn connect(&self, timeout: Duration) -> Result<Conn, NoConnection> {
        let connected = tokio::time::timeout(timeout, async {
            match &self.inner.upstream {
                Upstream::Tcp(addr) => {
                    let stream = TcpStream::connect(addr).await?;
                    stream.set_nodelay(true)?;
                    handshake(stream).await
                }
                Upstream::Unix(path) => handshake(UnixStream::connect(path).await?).await,
            }
        });
        match connected.await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(e)) if e.kind() == io::ErrorKind::TimedOut => Err(NoConnection::Timeout),
            Ok(Err(e)) => Err(NoConnection::Refused(e)),
            Err(_) => Err(NoConnection::Timeout),
        }
    }
}

async fn handshake<S>(stream: S) -> io::Result<Conn>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = Arc::new(AtomicU64::new(0));
    let io = TokioIo::new(Counting { stream, heard: Arc::clone(&heard) });
    let (sender, connection) =
        http1::Builder::new().max_headers(256).handshake(io).await.map_err(io::Error::other)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    });
    Ok(Conn { sender, heard, _task: AbortOnDropHandle::new(task) })
}

/// Counts what is read, to know a connection that closed before a byte of the answer.
struct Counting<S> {
    stream: S,
    heard: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.heard.fetch_add((buf.filled().len() - before) as u64, SeqCst);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
