//! One stream at one upstream that speaks HTTP/1.1: both directions at once.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

use super::BrokenOff;
use crate::forward::exchange::{Deadlines, Fail};
use crate::forward::job::Job;
use crate::h1::{self, Body, Finder, Known, known, room};
use crate::sock::{Buf, Sock};
use crate::table::InFlight;
use crate::upstream::Endpoint;
use crate::worker::{LARGE, Slot, SlotGuard, Verdict, Worker};

/// The request on its way: from frames to bytes.
struct Upload {
    /// `None` once it was taken back.
    incoming: Option<Incoming>,
    /// What is to be written: what stands before the data (the head, or a chunk's size), the data,
    /// and what stands after it.
    before: Vec<u8>,
    data: Bytes,
    after: &'static [u8],
    chunked: bool,
    /// What is being written ends the body.
    ending: bool,
    finished: bool,
    /// The upstream takes no more; it may still answer.
    given_up: bool,
    limit: Option<u64>,
    bytes: u64,
}

impl Upload {
    fn is_over(&self) -> bool {
        self.finished || self.given_up
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sock: &mut Sock,
        said: &mut u64,
    ) -> Poll<Result<(), Fail>> {
        while !self.is_over() {
            match ready!(self.poll_write(cx, sock, said)) {
                Ok(()) => {}
                // Perhaps it has answered already: the answer says how it ends.
                Err(_) => self.given_up = true,
            }
            if self.ending {
                self.finished = true;
            }
            if self.is_over() {
                break;
            }
            let Some(incoming) = &mut self.incoming else { break };
            let frame = match ready!(Pin::new(incoming).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(Err(Fail::ClientGone)),
                None => {
                    self.end(None);
                    continue;
                }
            };
            match frame.into_data() {
                Ok(data) => self.data(data)?,
                Err(frame) => self.end(frame.trailers_ref()),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        sock: &mut Sock,
        said: &mut u64,
    ) -> Poll<io::Result<()>> {
        loop {
            let pieces =
                [IoSlice::new(&self.before), IoSlice::new(&self.data), IoSlice::new(self.after)];
            if pieces.iter().all(|p| p.is_empty()) {
                return Poll::Ready(Ok(()));
            }
            let mut n = ready!(sock.poll_write(cx, &pieces))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *said += n as u64;
            let first = n.min(self.before.len());
            self.before.drain(..first);
            n -= first;
            let second = n.min(self.data.len());
            self.data.advance(second);
            self.after = &self.after[n - second..];
        }
    }

    fn data(&mut self, data: Bytes) -> Result<(), Fail> {
        self.bytes += data.len() as u64;
        if self.limit.is_some_and(|limit| self.bytes > limit) {
            return Err(Fail::TooLarge);
        }
        if self.chunked && !data.is_empty() {
            let _ = write!(self.before, "{:x}\r\n", data.len());
            self.after = b"\r\n";
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.ending = true;
        if !self.chunked {
            return;
        }
        self.before.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            if known(name.as_str()) == Known::Other {
                self.before.extend_from_slice(name.as_str().as_bytes());
                self.before.extend_from_slice(b": ");
                self.before.extend_from_slice(value.as_bytes());
                self.before.extend_from_slice(b"\r\n");
            }
        }
        self.before.extend_from_slice(b"\r\n");
    }
}

/// A stream and the connection that serves it.
pub(super) struct Relay {
    worker: Rc<Worker>,
    slot: Rc<Slot>,
    guard: Option<SlotGuard>,
    sock: Sock,
    buf: Buf,
    upload: Upload,
    finder: Finder,
    /// `None` until the answer's head came.
    body: Option<Body>,
    keep_upstream: bool,
    deadlines: Deadlines,
    said: u64,
    heard: u64,
    endpoint: Option<Endpoint>,
    flight: Option<InFlight>,
    ended: bool,
}

impl Relay {
    /// A stream that is ready to be sent over `sock`.
    pub(super) fn new(
        worker: &Rc<Worker>,
        slot: &SlotGuard,
        job: &Job,
        incoming: Incoming,
        sock: Sock,
        deadlines: Deadlines,
    ) -> Self {
        let upload = Upload {
            incoming: Some(incoming),
            before: job.head.clone(),
            data: Bytes::new(),
            after: b"",
            chunked: matches!(job.body, Body::Chunked(_)),
            ending: matches!(job.body, Body::None),
            finished: false,
            given_up: false,
            limit: job.body_limit,
            bytes: 0,
        };
        Self {
            worker: Rc::clone(worker),
            slot: slot.handle(),
            guard: None,
            sock,
            buf: Buf::default(),
            upload,
            finder: Finder::default(),
            body: None,
            keep_upstream: false,
            deadlines,
            said: 0,
            heard: 0,
            endpoint: None,
            flight: None,
            ended: false,
        }
    }

    /// Sends on, until the answer's head is there.
    pub(super) async fn head(&mut self, job: &Job) -> Result<Response<()>, Fail> {
        let slot = Rc::clone(&self.slot);
        self.set_deadline();
        let ended = slot.wait(|cx| self.watched(cx, |this, cx| this.poll_head(cx, job))).await;
        match ended {
            Ok(head) => head,
            Err(Verdict::Late) if self.upload.is_over() => Err(Fail::FirstByteLate),
            Err(Verdict::Late) => Err(Fail::Idle),
            Err(_) => Err(Fail::Cut),
        }
    }

    /// The request's body, to be sent again.
    pub(super) fn take_body(&mut self) -> Option<Incoming> {
        self.upload.incoming.take()
    }

    /// Keeps what lasts as long as the answer.
    pub(super) fn keep(&mut self, guard: SlotGuard, endpoint: Endpoint, flight: Option<InFlight>) {
        (self.guard, self.endpoint, self.flight) = (Some(guard), Some(endpoint), flight);
        if self.body.as_ref().is_some_and(Body::is_done) {
            self.finish();
        }
    }

    /// Bytes of the request's body so far.
    pub(super) fn bytes_in(&self) -> u64 {
        self.upload.bytes
    }

    pub(super) fn is_done(&self) -> bool {
        self.ended
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let slot = Rc::clone(&self.slot);
        let polled = slot.poll(cx, |cx| self.watched(cx, Self::poll_body));
        Poll::Ready(match ready!(polled) {
            Ok(Ok(Some(frame))) => Some(Ok(frame)),
            Ok(Ok(None)) => None,
            failed => {
                if let (Err(Verdict::Cut), Some(flight)) = (&failed, &self.flight) {
                    flight.was_cut();
                }
                self.ended = true;
                self.sock = Sock::Closed;
                self.flight = None;
                Some(Err(BrokenOff))
            }
        })
    }

    /// Polls, and moves the deadline if something moved.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let before = (self.said, self.heard);
        let polled = poll(self, cx);
        if (self.said, self.heard) != before {
            self.set_deadline();
        }
        polled
    }

    fn set_deadline(&self) {
        let waits = self.upload.is_over() && self.heard == 0;
        self.slot.within(if waits { self.deadlines.first_byte } else { self.deadlines.idle });
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fail> {
        match self.upload.poll(cx, &mut self.sock, &mut self.said) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, job: &Job) -> Poll<Result<Response<()>, Fail>> {
        self.poll_upload(cx)?;
        loop {
            if !self.buf.is_empty() {
                match self.finder.response(self.buf.bytes()) {
                    Ok(Some(len)) => {
                        if let Some(response) = self.read(len, job)? {
                            return Poll::Ready(Ok(response));
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(Fail::Bad)),
                }
            }
            match ready!(self.buf.poll_fill(cx, &mut self.sock, &self.worker, LARGE)) {
                Ok(n) if n > 0 => self.heard += n as u64,
                _ if self.heard == 0 => {
                    return Poll::Ready(Err(Fail::Closed { unsent: self.said == 0 }));
                }
                _ => return Poll::Ready(Err(Fail::Broken)),
            }
        }
    }

    /// Takes the head that the bytes begin with; an interim one is dropped, since hyper has no way
    /// for it.
    fn read(&mut self, len: usize, job: &Job) -> Result<Option<Response<()>>, Fail> {
        let mut space = room();
        let bytes = &self.buf.bytes()[..len];
        let head = h1::Response::read(bytes, job.about.is_head, &mut space);
        let head = head.map_err(|_| Fail::Bad)?;
        let response = match head.status {
            101 => return Err(Fail::Bad),
            100..=199 => None,
            status => Some((response(status, &head)?, head.keep_alive, head.body)),
        };
        self.buf.consume(len, &self.worker);
        Ok(response.map(|(response, keep_upstream, body)| {
            self.keep_upstream = keep_upstream;
            self.body = Some(body);
            response
        }))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Fail>> {
        self.poll_upload(cx)?;
        let Some(body) = &mut self.body else { return Poll::Ready(Err(Fail::Broken)) };
        loop {
            if body.is_done() {
                let trailers = trailers(body.trailers());
                self.finish();
                return Poll::Ready(Ok(trailers.map(Frame::trailers)));
            }
            if self.buf.is_empty() {
                match ready!(self.buf.poll_fill(cx, &mut self.sock, &self.worker, LARGE)) {
                    Ok(n) if n > 0 => self.heard += n as u64,
                    Ok(_) if matches!(body, Body::UntilClose) => {
                        *body = Body::None;
                        continue;
                    }
                    _ => return Poll::Ready(Err(Fail::Broken)),
                }
            }
            let step = body.take(self.buf.bytes_mut()).map_err(|_| Fail::Broken)?;
            let data = &self.buf.bytes()[step.start..step.start + step.len];
            let data = Bytes::copy_from_slice(data);
            self.buf.consume(step.used, &self.worker);
            if !data.is_empty() {
                // The end is told with the last of the data.
                if body.is_done() && body.trailers().is_empty() {
                    self.finish();
                }
                return Poll::Ready(Ok(Some(Frame::data(data))));
            }
        }
    }

    /// The answer is complete.
    fn finish(&mut self) {
        self.ended = true;
        let sock = std::mem::replace(&mut self.sock, Sock::Closed);
        let again = self.keep_upstream && self.upload.finished && self.buf.is_empty();
        if let Some(endpoint) = self.endpoint.as_ref().filter(|_| again) {
            endpoint.put(self.worker.id, sock);
        }
        self.buf.release(&self.worker);
        self.flight = None;
        self.slot.cut_by(None);
        self.slot.without_limit();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.buf.release(&self.worker);
    }
}

fn response(status: u16, head: &h1::Response<'_, '_>) -> Result<Response<()>, Fail> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Fail::Bad)?;
    let headers = response.headers_mut();
    for field in head.fields.iter().filter(|f| head.passes(f.name)) {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Fail::Bad)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Fail::Bad)?;
        headers.append(name, value);
    }
    if let Some(length) = head.length.filter(|_| status != 204) {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    headers.append(http::header::VIA, HeaderValue::from_static("1.1 mini"));
    Ok(response)
}

/// Trailer fields as they stand in a chunked body.
fn trailers(section: &[u8]) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for line in section.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}
