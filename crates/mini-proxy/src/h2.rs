//! HTTP/2 from clients (RFC 9113), by hyper; towards the apps it is HTTP/1.1, as for everybody.
//!
//! A stream becomes the same [`Job`] as a request over HTTP/1.1, so that what passes and what does
//! not is decided in one place; `h2/relay.rs` has the two directions. Apps that speak HTTP/2
//! themselves (`h2c`, gRPC) are reached in `h2/h2c.rs`.
//!
//! What one connection may cost is bounded: streams, their windows, header lists; streams that are
//! reset as fast as they are opened, and endless CONTINUATION frames, end it (hyper and h2 count
//! them).

mod h2c;
mod relay;

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mini_core::route::Host;

use crate::error_page::{Code, Reply};
use crate::forward::exchange::{Deadlines, Fail};
use crate::forward::job::{About, Arrival, Job, Own};
use crate::forward::record::Record;
use crate::forward::{InRequest, connect, hold};
use crate::h1::{self, Body};
use crate::table::TargetState;
use crate::worker::{SlotGuard, Verdict, Worker};
pub(crate) use h2c::Pool;
use relay::Relay;

/// The first bytes of a client that speaks HTTP/2 without asking (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one connection.
const STREAMS: u32 = 128;
/// What a client may send of a body before the app has taken it: of a stream, of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What is kept of an answer for a client that does not read.
const SEND_BUFFER: usize = 128 << 10;
/// To the first request; and between two.
const FIRST: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// A connection with requests on it whose client does not answer a PING in time is dead.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);

/// Runs hyper's tasks on the thread of the connection.
#[derive(Clone, Copy)]
pub(crate) struct OnThisThread;

impl<F> hyper::rt::Executor<F> for OnThisThread
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Serves one connection to its end. `io` has the client's preface still to be read.
pub(crate) async fn serve<S>(worker: Rc<Worker>, slot: SlotGuard, io: S, arrival: Arrival)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    let slot = Rc::new(slot);
    let open = Rc::new(Cell::new(0_u32));
    slot.set_idle(true);
    slot.within(FIRST);
    let service = service_fn(|request| {
        let place = Place::take(&open, &slot);
        let stream = stream(Rc::clone(&worker), arrival, request, place);
        async move { Ok::<_, Infallible>(Box::pin(stream).await) }
    });
    let connection = http2::Builder::new(OnThisThread)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(h1::MAX_HEAD as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let mut draining = std::pin::pin!(worker.shared.draining.cancelled());
    let mut leaving = false;
    loop {
        let ended = slot.wait(|cx| {
            if !leaving && draining.as_mut().poll(cx).is_ready() {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        });
        match ended.await {
            Ok(result) => {
                if let Err(error) = result {
                    tracing::debug!(%error, client.address = %arrival.client, "an HTTP/2 connection broke");
                }
                return;
            }
            Err(Verdict::Cut) => return,
            // Idle for too long: it is told so, and gets a moment to read it.
            Err(Verdict::Late | Verdict::Leave) if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
                slot.within(Duration::from_secs(2));
            }
            Err(_) => return,
        }
    }
}

/// A stream, counted until its answer has ended.
struct Place {
    open: Rc<Cell<u32>>,
    slot: Rc<SlotGuard>,
}

impl Place {
    fn take(open: &Rc<Cell<u32>>, slot: &Rc<SlotGuard>) -> Self {
        open.set(open.get() + 1);
        slot.set_idle(false);
        slot.without_limit();
        Self { open: Rc::clone(open), slot: Rc::clone(slot) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.slot.set_idle(true);
            self.slot.within(KEEP_ALIVE);
        }
    }
}

/// An answer's body.
pub(crate) struct OutBody {
    kind: Kind,
    told: Told,
    _place: Place,
    _counted: InRequest,
}

enum Kind {
    Full(Option<Bytes>),
    Relay(Box<Relay>),
    H2c(h2c::Passing),
}

#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(crate) struct BrokenOff;

impl http_body::Body for OutBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match &mut self.kind {
            Kind::Full(bytes) => {
                let bytes = bytes.take().filter(|b| !b.is_empty());
                bytes.map(|b| Ok(Frame::data(b)))
            }
            Kind::Relay(relay) => ready!(relay.poll_frame(cx)),
            Kind::H2c(passing) => ready!(passing.poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.told.record.bytes_out += length as u64;
            }
            Some(Err(BrokenOff)) => self.told.record.broke(Fail::Broken),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Relay(relay) => relay.is_done(),
            Kind::H2c(passing) => passing.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            _ => SizeHint::default(),
        }
    }
}

impl Drop for OutBody {
    fn drop(&mut self) {
        let whole = self.is_end_stream();
        let record = &mut self.told.record;
        if let Kind::Relay(relay) = &self.kind {
            record.bytes_in = relay.bytes_in();
        }
        if !whole && record.error.is_none() {
            record.broke(Fail::ClientGone);
        }
    }
}

/// What becomes of a stream, told when it is over, however that comes about.
struct Told {
    worker: Rc<Worker>,
    arrival: Arrival,
    record: Record,
    subject: Result<Job, About>,
}

impl Drop for Told {
    fn drop(&mut self) {
        let (shared, arrival) = (&self.worker.shared, self.arrival);
        match &self.subject {
            Ok(job) => self.record.of(shared, job),
            Err(about) => self.record.of_refused(shared, arrival, about),
        }
    }
}

/// Answers one request.
async fn stream(
    worker: Rc<Worker>,
    arrival: Arrival,
    request: Request<Incoming>,
    place: Place,
) -> Response<OutBody> {
    let counted = InRequest::new(&worker);
    let mut record = Record::begin();
    record.version = Version::HTTP_2;
    // What it is until there is an answer.
    record.broke(Fail::ClientGone);
    let mut made = job(&worker, arrival, &request);
    let unknown = matches!(&made, Err(r) if matches!(r.0, Own::Error(Code::UnknownHost)));
    if unknown && worker.shared.settle().await {
        made = job(&worker, arrival, &request);
    }
    let (subject, refused) = match made {
        Ok(job) => (Ok(job), Own::Error(Code::H13)),
        Err(refused) => {
            let (answer, about) = *refused;
            (Err(about), answer)
        }
    };
    let mut told = Told { worker: Rc::clone(&worker), arrival, record, subject };
    let Told { record, subject, .. } = &mut told;
    let sent = match subject {
        Ok(job) => send(&worker, job, request.into_body(), record).await.map_err(Own::Error),
        Err(_) => Err(refused),
    };
    let (response, kind) = match (sent, &*subject) {
        (Ok((mut response, kind)), subject) => {
            record.answered(response.status());
            let fields = subject.as_ref().map_or("", |job| job.answer_fields.as_str());
            for line in fields.lines() {
                let Some((name, value)) = line.split_once(": ") else { continue };
                let (name, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
                if let (Ok(name), Ok(value)) = (name, value) {
                    response.headers_mut().append(name, value);
                }
            }
            (response, kind)
        }
        (Err(answer), subject) => {
            match &answer {
                Own::Error(code) => record.refused(*code),
                Own::Reply(reply) => record.answered(reply.status),
            }
            let about = match subject {
                Ok(job) => &job.about,
                Err(about) => about,
            };
            let (response, text) = own(answer, about);
            (response, Kind::Full(Some(text)))
        }
    };
    response.map(|()| OutBody { kind, told, _place: place, _counted: counted })
}

/// Reads a stream's head as if it had come over HTTP/1.1.
fn job(
    worker: &Worker,
    arrival: Arrival,
    request: &Request<Incoming>,
) -> Result<Job, Box<(Own, About)>> {
    let refuse = |code: Code| Box::new((Own::Error(code), About::nothing(worker.new_id())));
    let headers = request.headers();
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let field = match headers.get(header::HOST).map(HeaderValue::to_str) {
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return Err(refuse(h1::Refusal::NoHost.into())),
        None => None,
    };
    let host = match (authority, field) {
        (Some(a), Some(h)) if !a.eq_ignore_ascii_case(h) => {
            return Err(refuse(h1::Refusal::HostDiffers.into()));
        }
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(refuse(h1::Refusal::NoHost.into())),
    };
    // One field over HTTP/1.1 (section 8.2.3).
    let cookies: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let cookies = cookies.join(&b"; "[..]);
    let mut fields = vec![httparse::Header { name: "host", value: host.as_bytes() }];
    for (name, value) in headers {
        if !matches!(*name, header::HOST | header::COOKIE | header::EXPECT) {
            fields.push(httparse::Header { name: name.as_str(), value: value.as_bytes() });
        }
    }
    if !cookies.is_empty() {
        fields.push(httparse::Header { name: "cookie", value: &cookies });
    }
    let body = match request.body() {
        body if body.is_end_stream() => Body::None,
        body => body.size_hint().exact().map_or_else(Body::chunked, Body::Length),
    };
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    h1::Request::from_http2(request.method().as_str(), target, &fields, body)
        .map_err(|refusal| refuse(refusal.into()))
        .and_then(|request| {
            Job::new(&worker.shared, arrival, request, || worker.new_id())
                .map_err(|refused| Box::new((refused.answer, refused.about)))
        })
}

/// Sends the request to whom its host names; a connection that is dead is replaced once.
async fn send(
    worker: &Rc<Worker>,
    job: &Job,
    incoming: Incoming,
    record: &mut Record,
) -> Result<(Response<()>, Kind), Code> {
    let shared = &worker.shared;
    let deadlines = Deadlines::of(shared, job);
    let mut dead: Option<Arc<TargetState>> = None;
    let mut first = true;
    let mut body = Some(incoming);
    while let Some(incoming) = body.take() {
        let slot = worker.slot();
        let flight = match &job.host {
            Host::Door => None,
            Host::Name(name) => {
                let picked = hold::pick(shared, name, job.about.app.as_ref(), dead.as_deref());
                Some(slot.wait_for(picked).await.unwrap_or(Err(Code::H13))?)
            }
        };
        let endpoint = flight.as_ref().map_or(&shared.door, |f| &f.target.endpoint).clone();
        slot.cut_by(Some(endpoint.cut.clone()));
        let target = flight.as_ref().map(|f| Arc::clone(&f.target));
        record.target.clone_from(&target);
        record.retried = !first;
        if job.h2c
            && let Some(flight) = flight
        {
            let sent = h2c::send(worker, slot, job, incoming, flight, deadlines).await;
            return sent
                .map(|(response, passing)| (response, Kind::H2c(passing)))
                .map_err(Fail::code);
        }
        let idle = first.then(|| endpoint.take_for(worker.id, job.repeatable)).flatten();
        let connected = match idle {
            Some(sock) => Ok(sock),
            None => {
                let asked = Instant::now();
                let made = connect(&slot, &endpoint, deadlines.connect).await;
                record.connect += asked.elapsed();
                made
            }
        };
        let fail = match connected {
            Err(fail) => {
                body = Some(incoming);
                fail
            }
            Ok(sock) => {
                let mut relay = Relay::new(worker, &slot, job, incoming, sock, deadlines);
                match relay.head(job).await {
                    Ok(response) => {
                        relay.keep(slot, endpoint, flight);
                        return Ok((response, Kind::Relay(Box::new(relay))));
                    }
                    Err(fail) => {
                        body = relay.take_body();
                        fail
                    }
                }
            }
        };
        if let Some(flight) = &flight {
            fail.note(flight);
        }
        if !(first && fail.may_repeat(job.repeatable)) {
            return Err(job.code_for(fail));
        }
        first = false;
        dead = target;
    }
    Err(Code::H13)
}

/// An answer of the router's own.
fn own(answer: Own, about: &About) -> (Response<()>, Bytes) {
    let reply = match answer {
        Own::Error(code) => Reply::of(code, about),
        Own::Reply(reply) => reply,
    };
    let mut response = Response::new(());
    *response.status_mut() = reply.status;
    for (name, value) in &reply.fields {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            response.headers_mut().append(name, value);
        }
    }
    response.headers_mut().insert(header::CONTENT_LENGTH, reply.body.len().into());
    let text = if about.is_head { Bytes::new() } else { reply.body };
    (response, text)
}
