//! Bodies on their way: streamed, counted, never kept.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::clock;
use crate::forward::client::RequestGuard;
use crate::table::InFlight;
use crate::upstream::{Conn, Endpoint};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How far a request's body has come.
pub(crate) struct Progress {
    /// When a piece of it last passed, in [`clock::ms`].
    last: AtomicU64,
    done: AtomicBool,
    /// Told when it is complete.
    pub(crate) finished: Notify,
}

impl Progress {
    fn new() -> Self {
        let last = AtomicU64::new(clock::ms());
        Self { last, done: AtomicBool::new(false), finished: Notify::new() }
    }

    /// When the last piece passed, and whether it was the end.
    pub(crate) fn get(&self) -> (u64, bool) {
        let done = self.done.load(SeqCst);
        (self.last.load(SeqCst), done)
    }

    fn step(&self) {
        self.last.store(clock::ms(), SeqCst);
    }

    fn finish(&self) {
        self.step();
        self.done.store(true, SeqCst);
        self.finished.notify_one();
    }
}

/// The body of a request on its way to the upstream.
pub(crate) struct ReqBody {
    inner: Option<Incoming>,
    pub(crate) progress: Arc<Progress>,
    /// With `Expect: 100-continue`: nothing is asked of the client before the upstream wants it.
    gate: Option<Gate>,
    /// The target's count, which an upload holds up even after an early answer.
    pub(crate) counted: Option<Arc<InFlight>>,
}

/// Holds a body back until someone decides.
#[derive(Clone, Default)]
pub(crate) struct Decision {
    made: CancellationToken,
    unwanted: Arc<AtomicBool>,
}

struct Gate {
    decision: Decision,
    made: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Decision {
    /// The upstream wants the body, or says nothing for so long that waiting makes no sense.
    pub(crate) fn send(&self) {
        self.made.cancel();
    }

    /// The answer came without the body being asked for.
    pub(crate) fn forget(&self) {
        if !self.made.is_cancelled() {
            self.unwanted.store(true, SeqCst);
            self.made.cancel();
        }
    }
}

impl ReqBody {
    pub(crate) fn new(inner: Incoming, wait_for: Option<&Decision>) -> Self {
        let progress = Arc::new(Progress::new());
        if inner.is_end_stream() {
            progress.finish();
        }
        let gate = wait_for.map(|decision| Gate {
            decision: decision.clone(),
            made: Box::pin(decision.made.clone().cancelled_owned()),
        });
        Self { inner: Some(inner), progress, gate, counted: None }
    }

    /// No body: what a repeated request has.
    pub(crate) fn none() -> Self {
        let progress = Arc::new(Progress::new());
        progress.finish();
        Self { inner: None, progress, gate: None, counted: None }
    }
}

impl Body for ReqBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        if let Some(gate) = &mut this.gate {
            ready!(gate.made.as_mut().poll(cx));
            if gate.decision.unwanted.load(SeqCst) {
                // Letting go of it ends the client's connection after the answer; an error here
                // would break the answer.
                this.inner = None;
                return Poll::Pending;
            }
            this.gate = None;
        }
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        match &frame {
            None => this.progress.finish(),
            Some(Ok(_)) if inner.is_end_stream() => this.progress.finish(),
            Some(_) => this.progress.step(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The body of an answer on its way to the client.
pub(crate) struct OutBody {
    kind: Kind,
    /// Ends the request's part in the books when the body is dropped.
    request: Option<RequestGuard>,
}

enum Kind {
    Full(Full<Bytes>),
    Stream(Box<Streamed>),
}

/// An answer that comes from an upstream.
pub(crate) struct Streamed {
    inner: Incoming,
    endpoint: Endpoint,
    /// Goes back to the pool at the end of the body; dropped before, it closes.
    conn: Option<Conn>,
    counted: Option<Arc<InFlight>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the instance is gone")]
struct Cut;

impl OutBody {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self { kind: Kind::Full(Full::new(bytes)), request: None }
    }

    pub(crate) fn stream(
        inner: Incoming,
        endpoint: Endpoint,
        conn: Conn,
        counted: Option<Arc<InFlight>>,
    ) -> Self {
        let cut = Box::pin(endpoint.cut.clone().cancelled_owned());
        let mut body = Streamed { inner, endpoint, conn: Some(conn), counted, cut };
        if body.inner.is_end_stream() {
            body.finish();
        }
        Self { kind: Kind::Stream(Box::new(body)), request: None }
    }

    pub(crate) fn attach(&mut self, request: RequestGuard) {
        self.request = Some(request);
    }
}

impl Streamed {
    fn finish(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.endpoint.give_back(conn);
        }
        self.counted = None;
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match &mut this.kind {
            Kind::Full(full) => {
                let frame = ready!(Pin::new(full).poll_frame(cx));
                Poll::Ready(frame.map(|f| f.map_err(|never: Infallible| match never {})))
            }
            Kind::Stream(body) => {
                if body.conn.is_some() && body.cut.as_mut().poll(cx).is_ready() {
                    body.conn = None;
                    body.counted = None;
                    if let Some(request) = &this.request {
                        request.was_cut();
                    }
                    return Poll::Ready(Some(Err(Box::new(Cut))));
                }
                let frame = ready!(Pin::new(&mut body.inner).poll_frame(cx));
                match &frame {
                    None => body.finish(),
                    Some(Ok(_)) if body.inner.is_end_stream() => body.finish(),
                    Some(_) => {}
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(full) => full.is_end_stream(),
            Kind::Stream(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(full) => full.size_hint(),
            Kind::Stream(body) => body.inner.size_hint(),
        }
    }
}
