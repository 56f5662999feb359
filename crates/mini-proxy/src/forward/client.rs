//! One client's connection: its socket as hyper sees it, and what its requests share.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::clock;
use crate::framing::{Refusal, Scanner};
use crate::headers::Arrival;
use crate::shared::{Counted, Shared, lock};

/// After an answer that came before the end of its request, the client is read on for this
/// long, so that a reset does not overtake the answer (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);

/// What the socket, the requests and the watchdog of one connection share.
pub(crate) struct Client {
    pub(crate) arrival: Arrival,
    /// When a byte last passed, in [`clock::ms`].
    last_io: AtomicU64,
    /// While an answer's body flows: how long nothing may pass, in milliseconds. Else 0.
    idle_limit: AtomicU64,
    requests: AtomicU64,
    in_request: AtomicBool,
    /// Raw bytes of another protocol pass.
    raw: AtomicBool,
    scanner: Mutex<Scanner>,
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, port: u16) -> Self {
        Self {
            arrival: Arrival::new(peer, port),
            last_io: AtomicU64::new(clock::ms()),
            idle_limit: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_request: AtomicBool::new(false),
            raw: AtomicBool::new(false),
            scanner: Mutex::default(),
        }
    }

    /// Counts a request in; answers why it may not be believed, if so.
    pub(crate) fn begin(self: &Arc<Self>, shared: &Arc<Shared>) -> (RequestGuard, Option<Refusal>) {
        let number = self.requests.fetch_add(1, SeqCst) + 1;
        self.in_request.store(true, SeqCst);
        let refused = lock(&self.scanner).refused().filter(|(from, _)| number >= *from);
        shared.counters.requests.fetch_add(1, SeqCst);
        let guard = RequestGuard {
            client: Arc::clone(self),
            shared: Arc::clone(shared),
            _counted: Counted::new(shared, |c| &c.in_flight),
        };
        (guard, refused.map(|(_, why)| why))
    }

    /// The answer's body begins to flow; it may stand still for `limit`.
    pub(crate) fn flows(&self, limit: Duration) {
        self.touch();
        self.idle_limit.store(clock::millis(limit), SeqCst);
    }

    pub(crate) fn switch_to_raw(&self) {
        self.raw.store(true, SeqCst);
    }

    /// Whether a flowing body has stood still for too long.
    pub(crate) fn stalled(&self) -> bool {
        let limit = self.idle_limit.load(SeqCst);
        limit > 0 && self.quiet_ms() > limit
    }

    /// Whether it is between two requests.
    pub(crate) fn idle(&self) -> bool {
        !self.in_request.load(SeqCst) && !lock(&self.scanner).mid_message()
    }

    /// Milliseconds since a byte last passed.
    pub(crate) fn quiet_ms(&self) -> u64 {
        clock::ms().saturating_sub(self.last_io.load(SeqCst))
    }

    fn touch(&self) {
        self.last_io.store(clock::ms(), SeqCst);
    }
}

/// One request, from its head to the last byte of its answer.
pub(crate) struct RequestGuard {
    pub(crate) client: Arc<Client>,
    shared: Arc<Shared>,
    _counted: Counted,
}

impl RequestGuard {
    /// Counts it as cut.
    pub(crate) fn was_cut(&self) {
        self.shared.counters.cut.fetch_add(1, SeqCst);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.client.idle_limit.store(0, SeqCst);
        self.client.touch();
        self.client.in_request.store(false, SeqCst);
    }
}

/// The socket: follows the framing, notes activity, lingers at the end.
pub(crate) struct ClientIo {
    stream: TcpStream,
    client: Arc<Client>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl ClientIo {
    pub(crate) fn new(stream: TcpStream, client: Arc<Client>) -> Self {
        Self { stream, client, linger: None }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        self.client.touch();
        if !self.client.raw.load(SeqCst) {
            lock(&self.client.scanner).push(new);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.client.touch();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.client.touch();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.client.raw.load(SeqCst) || !lock(&this.client.scanner).mid_message() {
                return Poll::Ready(Ok(()));
            }
        }
        let end = Instant::now() + LINGER;
        let linger = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        let mut bytes = [0; 8192];
        while linger.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut bytes);
            if ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf)).is_err()
                || buf.filled().is_empty()
            {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
