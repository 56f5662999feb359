//! From a request to its answer, over HTTP/1.1 on both sides.
//!
//! ```text
//!  Client::serve ── a head ── job (pure) ── hold ── exchange ── answer
//!                                               └── upgrade: raw bytes
//! ```

pub(crate) mod exchange;
pub(crate) mod hold;
pub(crate) mod job;
pub(crate) mod record;
mod upgrade;

use std::io::{self, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mini_core::route::Host;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::error_page::{Code, Reply};
use crate::h1::{Body, Finder, Refusal, Request, room, skip_empty_lines};
use crate::h2;
use crate::shared::Counted;
use crate::sock::{Buf, Sock};
use crate::table::TargetState;
use crate::upstream::{Endpoint, NoConnection};
use crate::worker::{SMALL, Slot, SlotGuard, Verdict, Worker};

use exchange::{Deadlines, End, Ends, Exchange, Fail, Tally};
pub(crate) use job::Arrival;
use job::{About, Job, Own, Refused};
use record::Record;

/// From the first byte of a request's head to its end; and to the first of a connection.
const HEAD: Duration = Duration::from_secs(30);
/// Between two requests. Longer than a load balancer in front keeps its own (60 s at most of them).
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// After an answer that came before the end of its request, the client is read on for this
/// long, so that a reset does not overtake the answer (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
/// How long a client may take to read an answer of the router's own.
const OWN_ANSWER: Duration = Duration::from_secs(30);
/// A body up to this size is read to its end rather than the connection be closed.
const READ_OFF: u64 = 64 << 10;

/// One client's connection.
pub(crate) struct Client {
    worker: Rc<Worker>,
    slot: SlotGuard,
    sock: Sock,
    buf: Buf,
    arrival: Arrival,
}

/// Whether the connection goes on after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Another,
    /// Our direction is ended, and what the client still sends is read for a while.
    Linger,
    Close,
    /// Broken off: an answer that is not whole must not look whole.
    Reset,
}

impl Client {
    pub(crate) fn new(worker: Rc<Worker>, sock: Sock, arrival: Arrival) -> Self {
        let slot = worker.slot();
        Self { worker, slot, sock, buf: Buf::default(), arrival }
    }

    /// Serves it to its end.
    pub(crate) async fn serve(mut self) {
        self.slot.set_idle(true);
        self.slot.within(HEAD);
        if self.speaks_http2().await {
            let Self { worker, slot, sock, buf, arrival } = self;
            let io = Rewound { sock, buf, worker: Rc::clone(&worker) };
            // Boxed: few connections are such, and each would hold the room.
            return Box::pin(h2::serve(worker, slot, io, arrival)).await;
        }
        let next = loop {
            match self.request().await {
                Next::Another => {
                    self.slot.set_idle(true);
                    self.slot.within(KEEP_ALIVE);
                }
                end => break end,
            }
        };
        self.slot.cut_by(None);
        match next {
            Next::Linger => self.linger().await,
            Next::Reset => self.sock.reset(),
            Next::Another | Next::Close => self.say_goodbye().await,
        }
        self.buf.release(&self.worker);
    }

    /// Whether the first bytes are the preface of HTTP/2.
    async fn speaks_http2(&mut self) -> bool {
        loop {
            let there = self.buf.bytes();
            let same = there.len().min(h2::PREFACE.len());
            if there[..same] != h2::PREFACE[..same] {
                return false;
            }
            if same == h2::PREFACE.len() {
                return true;
            }
            let (buf, sock, worker) = (&mut self.buf, &mut self.sock, &self.worker);
            match self.slot.wait(|cx| buf.poll_fill(cx, sock, worker, SMALL)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return false,
            }
        }
    }

    /// Reads one request and sees it to its end.
    async fn request(&mut self) -> Next {
        let len = match self.head().await {
            Ok(Some(len)) => len,
            Ok(None) => return Next::Close,
            Err(refusal) => {
                let _counted = self.begin();
                return self.unreadable(refusal, Record::begin()).await;
            }
        };
        let _counted = self.begin();
        let mut record = Record::begin();
        let made = loop {
            let worker = &self.worker;
            let made = {
                let mut space = room();
                Request::read(&self.buf.bytes()[..len], &mut space).map(|request| {
                    Job::new(&worker.shared, self.arrival, request, || worker.new_id())
                })
            };
            let unknown = matches!(&made, Ok(Err(refused)) if refused.is_unknown_host());
            if unknown && let Ok(true) = self.slot.wait_for(worker.shared.settle()).await {
                continue;
            }
            break made;
        };
        self.buf.consume(len, &self.worker);
        match made {
            Ok(Ok(mut job)) => {
                let next = self.forward(&mut job, &mut record).await;
                if job.about.http_10 {
                    record.version = http::Version::HTTP_10;
                }
                record.of(&self.worker.shared, &job);
                next
            }
            Ok(Err(refused)) => {
                let Refused { about, answer, mut body } = *refused;
                let next = match answer {
                    Own::Error(code) => {
                        record.refused(code);
                        self.answer(code, &about, &mut body, true).await
                    }
                    Own::Reply(reply) => {
                        record.answered(reply.status);
                        self.say(&reply, &about, &mut body, true).await
                    }
                };
                record.of_refused(&self.worker.shared, self.arrival, &about);
                next
            }
            Err(refusal) => self.unreadable(refusal, record).await,
        }
    }

    /// Where the next request begins is not known.
    async fn unreadable(&mut self, refusal: Refusal, mut record: Record) -> Next {
        let (about, code) = (About::nothing(self.worker.new_id()), refusal.into());
        let next = self.answer(code, &about, &mut Body::None, false).await;
        record.refused(code);
        record.of_refused(&self.worker.shared, self.arrival, &about);
        next
    }

    fn begin(&self) -> InRequest {
        InRequest::new(&self.worker)
    }

    /// Reads to the end of a head: its length, or `None` if no request comes any more.
    async fn head(&mut self) -> Result<Option<usize>, Refusal> {
        let mut finder = Finder::default();
        let mut begun = false;
        loop {
            let skip = skip_empty_lines(self.buf.bytes());
            self.buf.consume(skip, &self.worker);
            if !self.buf.is_empty() {
                if !begun {
                    begun = true;
                    self.slot.set_idle(false);
                    self.slot.within(HEAD);
                }
                if let Some(len) = finder.request(self.buf.bytes())? {
                    return Ok(Some(len));
                }
            }
            let (buf, sock, worker) = (&mut self.buf, &mut self.sock, &self.worker);
            match self.slot.wait(|cx| buf.poll_fill(cx, sock, worker, SMALL)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return Ok(None),
            }
        }
    }

    /// Sends the request to whom its host names, and the answer back.
    async fn forward(&mut self, job: &mut Job, record: &mut Record) -> Next {
        let shared = Arc::clone(&self.worker.shared);
        let deadlines = Deadlines::of(&shared, job);
        let mut dead: Option<Arc<TargetState>> = None;
        let mut first = true;
        loop {
            let flight = match &job.host {
                Host::Door => None,
                Host::Name(name) => {
                    self.slot.without_limit();
                    let picked = hold::pick(&shared, name, job.about.app.as_ref(), dead.as_deref());
                    match self.slot.wait_for(picked).await {
                        Ok(Ok(flight)) => Some(flight),
                        Ok(Err(code)) => return self.refuse(code, job, record).await,
                        Err(_) => {
                            record.broke(Fail::Cut);
                            return Next::Close;
                        }
                    }
                }
            };
            let endpoint = flight.as_ref().map_or(&shared.door, |f| &f.target.endpoint).clone();
            self.slot.cut_by(Some(endpoint.cut.clone()));
            record.target = flight.as_ref().map(|f| Arc::clone(&f.target));
            let mut tally = Tally::default();
            let tried = self.attempt(job, &endpoint, first, deadlines, &mut tally).await;
            if !matches!(tried, Ok((End::Switched, _))) {
                self.slot.cut_by(None);
            }
            record.add(&tally);
            record.connect += tally.connect;
            let (fail, upstream) = match tried {
                Ok((End::Switched, upstream)) => {
                    let ends = upgrade::Ends {
                        websocket: job.upgrade == Some(job::Upgrade::WebSocket),
                        flight,
                        upstream,
                        endpoint,
                    };
                    let (next, sent, received) =
                        upgrade::relay(self, ends, deadlines.upgraded_idle).await;
                    record.bytes_in += sent;
                    record.bytes_out += received;
                    return next;
                }
                Ok((End::Done { client, .. }, _)) if client => return Next::Another,
                Ok((End::Done { .. }, _)) if job.body.is_done() => return Next::Close,
                Ok((End::Done { .. }, _)) => return Next::Linger,
                Err((fail, upstream)) => (fail, upstream),
            };
            drop(upstream);
            if let Some(flight) = &flight {
                fail.note(flight);
            }
            if tally.status.is_some() {
                record.broke(fail);
                if fail == Fail::Idle {
                    let client = self.arrival.client;
                    tracing::info!(error = "H15", client.address = %client, "a body stood still for too long: cut");
                    shared.counters.cut.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                return Next::Reset;
            }
            if first && fail.may_repeat(job.repeatable) {
                first = false;
                record.retried = true;
                dead = flight.map(|f| Arc::clone(&f.target));
                continue;
            }
            if fail == Fail::ClientGone {
                record.broke(fail);
                return Next::Close;
            }
            return self.refuse(job.code_for(fail), job, record).await;
        }
    }

    /// One try. Connections that are left over after a failure come back to be closed.
    ///
    /// The first try may use an idle connection, the second never does.
    async fn attempt(
        &mut self,
        job: &mut Job,
        endpoint: &Endpoint,
        first: bool,
        deadlines: Deadlines,
        tally: &mut Tally,
    ) -> Result<(End, Upstream), (Fail, Upstream)> {
        let id = self.worker.id;
        let idle = first.then(|| endpoint.take_for(id, job.repeatable)).flatten();
        let mut upstream = Upstream { sock: Sock::Closed, buf: Buf::default() };
        upstream.sock = match idle {
            Some(sock) => sock,
            None => {
                let asked = Instant::now();
                let made = connect(&self.slot, endpoint, deadlines.connect).await;
                tally.connect = asked.elapsed();
                match made {
                    Ok(sock) => sock,
                    Err(fail) => return Err((fail, upstream)),
                }
            }
        };
        let ends = Ends {
            client: &mut self.sock,
            from_client: &mut self.buf,
            upstream: &mut upstream.sock,
            from_upstream: &mut upstream.buf,
        };
        let ended =
            Exchange::new(&self.worker, &self.slot, job, ends, tally, deadlines).run().await;
        match ended {
            Ok(End::Done { client, upstream: again }) => {
                upstream.buf.release(&self.worker);
                if again {
                    endpoint.put(id, std::mem::replace(&mut upstream.sock, Sock::Closed));
                }
                Ok((End::Done { client, upstream: again }, upstream))
            }
            Ok(end) => Ok((end, upstream)),
            Err(fail) => {
                upstream.buf.release(&self.worker);
                Err((fail, upstream))
            }
        }
    }

    async fn refuse(&mut self, code: Code, job: &mut Job, record: &mut Record) -> Next {
        record.refused(code);
        let mut body = std::mem::replace(&mut job.body, Body::None);
        self.answer(code, &job.about, &mut body, true).await
    }

    /// Answers by itself. `understood`: where the next request begins is known.
    async fn answer(
        &mut self,
        code: Code,
        about: &About,
        body: &mut Body,
        understood: bool,
    ) -> Next {
        let (error, status) = (code.name(), code.status().as_u16());
        tracing::debug!(error, status, request_id = about.id, "the router answers by itself");
        let reply = Reply::of(code, about);
        self.say(&reply, about, body, understood).await
    }

    /// The same with an answer that is there.
    async fn say(
        &mut self,
        reply: &Reply,
        about: &About,
        body: &mut Body,
        understood: bool,
    ) -> Next {
        self.slot.cut_by(None);
        let read_off = match body {
            Body::None => true,
            Body::Length(n) => *n <= READ_OFF,
            _ => false,
        };
        let draining = self.worker.shared.draining.is_cancelled();
        let keep = understood && about.keep_alive && read_off && !draining;
        let bytes = own(reply, about, keep);
        self.slot.within(OWN_ANSWER);
        let sock = &mut self.sock;
        let written = self.slot.wait_for(async {
            sock.write_all(&bytes).await?;
            sock.flush().await
        });
        match written.await {
            Ok(Ok(())) if keep && self.read_off(body).await => Next::Another,
            Ok(Ok(())) if understood && body.is_done() => Next::Close,
            Ok(Ok(())) => Next::Linger,
            _ => Next::Reset,
        }
    }

    /// Reads what is left of a small body.
    async fn read_off(&mut self, body: &mut Body) -> bool {
        while !body.is_done() {
            if self.buf.is_empty() {
                let (buf, sock, worker) = (&mut self.buf, &mut self.sock, &self.worker);
                match self.slot.wait(|cx| buf.poll_fill(cx, sock, worker, SMALL)).await {
                    Ok(Ok(n)) if n > 0 => {}
                    _ => return false,
                }
            }
            match body.take(self.buf.bytes_mut()) {
                Ok(step) => self.buf.consume(step.used, &self.worker),
                Err(_) => return false,
            }
        }
        true
    }

    /// An end that is not said is, inside of TLS, one that was broken off (RFC 8446 section 6.1).
    async fn say_goodbye(&mut self) {
        if matches!(self.sock, Sock::Other(_)) {
            self.slot.within(LINGER);
            let sock = &mut self.sock;
            let _ = self.slot.wait(|cx| sock.poll_shutdown(cx)).await;
        }
    }

    /// Ends our direction and reads on for a while.
    async fn linger(&mut self) {
        self.slot.within(LINGER);
        let (buf, sock, worker) = (&mut self.buf, &mut self.sock, &self.worker);
        if !matches!(self.slot.wait(|cx| sock.poll_shutdown(cx)).await, Ok(Ok(()))) {
            return;
        }
        loop {
            buf.release(worker);
            match self.slot.wait(|cx| buf.poll_fill(cx, sock, worker, SMALL)).await {
                Ok(Ok(n)) if n > 0 => {}
                _ => return,
            }
        }
    }
}

/// A new connection, within `limit`.
pub(crate) async fn connect(
    slot: &Slot,
    endpoint: &Endpoint,
    limit: Duration,
) -> Result<Sock, Fail> {
    slot.within(limit);
    match slot.wait_for(endpoint.connect()).await {
        Ok(Ok(sock)) => Ok(sock),
        Ok(Err(NoConnection::Timeout)) | Err(Verdict::Late) => Err(Fail::ConnectTimeout),
        Ok(Err(NoConnection::Refused(error))) => {
            tracing::debug!(%error, "an upstream refused");
            Err(Fail::Refused)
        }
        // It left the table before anything was sent.
        Err(_) => Err(Fail::Refused),
    }
}

/// A socket of which something was read already.
struct Rewound {
    sock: Sock,
    buf: Buf,
    worker: Rc<Worker>,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.buf.is_empty() {
            return Pin::new(&mut this.sock).poll_read(cx, buf);
        }
        let n = this.buf.bytes().len().min(buf.remaining());
        buf.put_slice(&this.buf.bytes()[..n]);
        this.buf.consume(n, &this.worker);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.sock).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.sock).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sock).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.sock).poll_shutdown(cx)
    }
}

/// An upstream's connection, and what came over it.
struct Upstream {
    sock: Sock,
    buf: Buf,
}

/// One request, counted until this is dropped.
pub(crate) struct InRequest {
    _counted: Counted,
    worker: Rc<Worker>,
}

impl InRequest {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.busy(1);
        worker.shared.counters.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let counted = Counted::new(&worker.shared, |c| &c.in_flight);
        Self { _counted: counted, worker: Rc::clone(worker) }
    }
}

impl Drop for InRequest {
    fn drop(&mut self) {
        self.worker.busy(-1);
    }
}

/// An answer of the router's own, as bytes.
fn own(reply: &Reply, about: &About, keep: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(reply.body.len() + 512);
    let reason = reply.status.canonical_reason().unwrap_or_default();
    // Writing into memory does not fail.
    let _ = write!(out, "HTTP/1.1 {} {reason}\r\n", reply.status.as_u16());
    for (name, value) in &reply.fields {
        let _ = write!(out, "{name}: {value}\r\n");
    }
    let _ = write!(out, "Content-Length: {}\r\n", reply.body.len());
    match (keep, about.http_10) {
        (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (true, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    if !about.is_head {
        out.extend_from_slice(&reply.body);
    }
    out
}
