//! One request at one upstream: both directions at once, each a buffer at a time.
//!
//! What an answer's head says is decided as soon as it came, also if the request is still on its
//! way. Of each direction there is at most one buffer of bytes: a side that does not read holds the
//! other one back.

use std::borrow::Cow;
use std::io::{self, IoSlice, Write as _};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mini_core::route::Host;

use super::job::{Job, Upgrade};
use crate::error_page::Code;
use crate::h1::{Body, Finder, Refusal, Response, Step, room};
use crate::shared::Shared;
use crate::sock::{Buf, Sock};
use crate::table::InFlight;
use crate::worker::{LARGE, SMALL, Slot, Worker};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod whole;

/// A client that waits for 100 (Continue) does not wait for ever for an upstream that does not
/// know it (RFC 9110 section 10.1.1).
const WAIT_FOR_CONTINUE: Duration = Duration::from_secs(1);
/// A request that has taken so long may be one whose client has left.
const LOOK_AT_CLIENT: Duration = Duration::from_millis(100);
/// Interim answers that are passed on for one request.
const MAX_INTERIM: u32 = 32;

/// The deadlines of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) connect: Duration,
    /// From the last byte of the request passed on to the first of the answer.
    pub(crate) first_byte: Duration,
    /// From byte to byte while a body flows.
    pub(crate) idle: Duration,
    /// For what a client still gets that has ended its direction, and may have left altogether.
    pub(crate) half_closed: Duration,
    /// From byte to byte once it has switched protocols.
    pub(crate) upgraded_idle: Duration,
}

impl Deadlines {
    pub(crate) fn of(shared: &Shared, job: &Job) -> Self {
        let own = job.about.app.as_ref().map(|app| app.rules.deadlines(&shared.timeouts));
        let timeouts = own.as_ref().unwrap_or(&shared.timeouts);
        let door = matches!(job.host, Host::Door);
        Self {
            connect: timeouts.connect,
            first_byte: if door { timeouts.upgraded_idle } else { timeouts.first_byte },
            idle: if door { timeouts.upgraded_idle } else { timeouts.body_idle },
            half_closed: timeouts.half_closed,
            upgraded_idle: timeouts.upgraded_idle,
        }
    }
}

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    Refused,
    ConnectTimeout,
    /// Closed before a byte of the answer; whether all of the request is still there.
    Closed {
        unsent: bool,
    },
    /// Closed within the answer.
    Broken,
    /// The answer is not HTTP.
    Bad,
    FirstByteLate,
    Idle,
    /// The instance left the table.
    Cut,
    /// The client's own body broke off, or the client is gone.
    ClientGone,
    /// The client's own body is malformed.
    ClientBad(Refusal),
    /// The request's body is larger than the app takes.
    TooLarge,
}

impl Fail {
    pub(crate) fn code(self) -> Code {
        match self {
            Fail::Refused => Code::H21,
            Fail::ConnectTimeout => Code::H19,
            Fail::Closed { .. } | Fail::Broken | Fail::Cut => Code::H13,
            Fail::Bad => Code::H17,
            Fail::FirstByteLate => Code::H12,
            Fail::Idle => Code::H15,
            Fail::ClientGone => Code::H26("its body broke off"),
            Fail::ClientBad(refusal) => refusal.into(),
            Fail::TooLarge => Code::BodyTooLarge,
        }
    }

    /// What the client is told, by whom it asked: what ails the door is the controller's being away.
    pub(crate) fn code_for(self, host: &Host) -> Code {
        match (self, host) {
            (Fail::FirstByteLate | Fail::Idle | Fail::ClientBad(_) | Fail::TooLarge, _)
            | (_, Host::Name(_)) => self.code(),
            (_, Host::Door) => Code::ControllerUnavailable,
        }
    }

    /// Whether another try may do better: nothing was sent, or the request may be repeated.
    pub(crate) fn may_repeat(self, repeatable: bool) -> bool {
        match self {
            Fail::Refused | Fail::Closed { unsent: true } => true,
            Fail::Closed { unsent: false } => repeatable,
            _ => false,
        }
    }

    /// Notes what it says about the instance.
    pub(crate) fn note(self, flight: &InFlight) {
        let (app, process) = (&flight.target.app, &flight.target.spec.process);
        tracing::debug!(fail = ?self, %app, process, "a try failed");
        match self {
            Fail::Refused => flight.target.shun(),
            Fail::Cut => flight.was_cut(),
            _ => {}
        }
    }
}

/// How an exchange ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer is complete. Whether each connection can be used again.
    Done { client: bool, upstream: bool },
    /// A 101 was passed on: raw bytes from here on.
    Switched,
}

/// What both directions have done so far.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// The status that the client was sent, if a final answer has begun.
    pub(crate) status: Option<u16>,
    /// Bytes of bodies.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// How long the connection to the upstream took, if it is a new one.
    pub(crate) connect: Duration,
    /// Bytes that the upstream has sent, to know one that closed before the first.
    heard: u64,
    /// Bytes that the upstream was sent.
    said: u64,
    /// Bytes that the client was sent.
    told: u64,
}

/// The two connections.
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a mut Sock,
    pub(crate) from_client: &'a mut Buf,
    pub(crate) upstream: &'a mut Sock,
    pub(crate) from_upstream: &'a mut Buf,
}

/// What is to be written next: head, the size line of a chunk, data out of a buffer, an end.
#[derive(Default)]
struct Out {
    prefix: Vec<u8>,
    /// Where in the buffer the data lies.
    data: (usize, usize),
    suffix: Cow<'static, [u8]>,
    /// What of the buffer is done with when all is written.
    used: usize,
    /// Bytes of head, prefix, data and suffix that are written.
    at: usize,
    pending: bool,
}

impl Out {
    /// Writes on. `moved` counts the bytes.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sock: &mut Sock,
        head: &[u8],
        buf: &Buf,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        let (start, len) = self.data;
        loop {
            let data = if len > 0 { &buf.bytes()[start..start + len] } else { &[] };
            let mut pieces = [IoSlice::new(&[]); 4];
            let (mut count, mut skip) = (0, self.at);
            for piece in [head, &self.prefix, data, &self.suffix] {
                if skip >= piece.len() {
                    skip -= piece.len();
                } else {
                    pieces[count] = IoSlice::new(&piece[skip..]);
                    (count, skip) = (count + 1, 0);
                }
            }
            if count == 0 {
                ready!(sock.poll_flush(cx))?;
                return Poll::Ready(Ok(()));
            }
            match ready!(sock.poll_write(cx, &pieces[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    self.at += n;
                    *moved += n as u64;
                }
            }
        }
    }

    /// Makes what `bytes` has of a body ready to be written.
    fn take(&mut self, body: &mut Body, bytes: &mut [u8], chunked: bool) -> Result<Step, Refusal> {
        let step = body.take(bytes)?;
        let end = if chunked && body.is_done() { last_chunk(body) } else { Cow::default() };
        self.set(chunked, (step.start, step.len), step.used, end);
        Ok(step)
    }

    /// Data as one chunk, or as it is; `end` is what follows.
    fn set(&mut self, chunked: bool, data: (usize, usize), used: usize, end: Cow<'static, [u8]>) {
        self.prefix.clear();
        self.suffix = end;
        if chunked && data.1 > 0 {
            let _ = write!(self.prefix, "{:x}\r\n", data.1);
            let mut suffix = b"\r\n".to_vec();
            if self.suffix.is_empty() {
                self.suffix = Cow::Borrowed(b"\r\n");
            } else {
                suffix.extend_from_slice(&self.suffix);
                self.suffix = Cow::Owned(suffix);
            }
        }
        (self.data, self.used, self.at, self.pending) = (data, used, 0, true);
    }
}

/// The end of a chunked body.
fn last_chunk(body: &Body) -> Cow<'static, [u8]> {
    if body.trailers().is_empty() {
        return Cow::Borrowed(b"0\r\n\r\n");
    }
    Cow::Owned([b"0\r\n", body.trailers(), b"\r\n"].concat())
}

/// The request on its way.
struct Upload<'a> {
    head: &'a [u8],
    body: &'a mut Body,
    out: Out,
    chunked: bool,
    limit: Option<u64>,
    /// The client waits for 100 (Continue): nothing is asked of it yet.
    gate: bool,
    finished: bool,
    /// The upstream takes no more; it may still answer.
    given_up: bool,
}

impl Upload<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        ends: &mut Ends<'_>,
        tally: &mut Tally,
        worker: &Worker,
    ) -> Poll<Result<(), Fail>> {
        loop {
            if self.out.pending {
                let written = ready!(self.out.poll(
                    cx,
                    ends.upstream,
                    self.head,
                    ends.from_client,
                    &mut tally.said
                ));
                if written.is_err() {
                    // Perhaps it has answered already: the answer says how it ends.
                    self.given_up = true;
                    return Poll::Ready(Ok(()));
                }
                self.head = &[];
                tally.bytes_in += self.out.data.1 as u64;
                ends.from_client.consume(self.out.used, worker);
                self.out.pending = false;
            }
            if self.body.is_done() {
                self.finished = true;
                return Poll::Ready(Ok(()));
            }
            if self.gate {
                return Poll::Pending;
            }
            if ends.from_client.is_empty() {
                let from = &mut *ends.from_client;
                match ready!(from.poll_fill(cx, ends.client, worker, LARGE)) {
                    Ok(n) if n > 0 => {}
                    _ => return Poll::Ready(Err(Fail::ClientGone)),
                }
            }
            self.take(ends.from_client, tally)?;
        }
    }

    /// Makes what came of the body ready to be written.
    fn take(&mut self, from: &mut Buf, tally: &Tally) -> Result<(), Fail> {
        let step = self.out.take(self.body, from.bytes_mut(), self.chunked);
        let step = step.map_err(Fail::ClientBad)?;
        let sum = tally.bytes_in + step.len as u64;
        if self.limit.is_some_and(|limit| sum > limit) {
            return Err(Fail::TooLarge);
        }
        Ok(())
    }
}

/// How the client learns where the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    AsItIs,
    Chunked,
    Close,
}

/// The answer on its way.
struct Download {
    finder: Finder,
    head: Vec<u8>,
    out: Out,
    /// `None` until the final head came.
    body: Option<Body>,
    framing: Framing,
    interim: u32,
    keep_upstream: bool,
    keep_client: bool,
    switched: bool,
}

impl Download {
    fn new() -> Self {
        Self {
            finder: Finder::default(),
            head: Vec::new(),
            out: Out::default(),
            body: None,
            framing: Framing::AsItIs,
            interim: 0,
            keep_upstream: false,
            keep_client: false,
            switched: false,
        }
    }

    /// Adds an interim answer to what the client is sent next.
    fn interim(&mut self, head: &[u8]) {
        self.head.extend_from_slice(head);
        if !self.out.pending {
            self.out.set(false, (0, 0), 0, Cow::default());
        }
    }

    /// The same for one of the upstream.
    fn pass_on(&mut self, response: &Response<'_, '_>) {
        let mut head = Vec::new();
        write_start(&mut head, response);
        write_fields(&mut head, response);
        head.extend_from_slice(b"\r\n");
        self.interim(&head);
    }

    /// The head of a 101.
    fn switch(&mut self, response: &Response<'_, '_>) {
        let head = &mut self.head;
        write_start(head, response);
        write_fields(head, response);
        head.extend_from_slice(b"Connection: upgrade\r\n");
        if let Some(protocol) = response.upgrade {
            head.extend_from_slice(b"Upgrade: ");
            head.extend_from_slice(protocol);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Via: 1.1 mini\r\n\r\n");
        self.switched = true;
    }

    /// The head of the final answer.
    fn last(&mut self, response: Response<'_, '_>, job: &Asked<'_>, may_keep: bool) {
        let about = job.about;
        self.framing = match &response.body {
            Body::Chunked(_) | Body::UntilClose if about.http_10 => Framing::Close,
            Body::Chunked(_) | Body::UntilClose => Framing::Chunked,
            Body::Length(_) | Body::None => Framing::AsItIs,
        };
        self.keep_client = about.keep_alive && may_keep && self.framing != Framing::Close;
        self.keep_upstream = response.keep_alive;
        let head = &mut self.head;
        write_start(head, &response);
        write_fields(head, &response);
        match self.framing {
            Framing::AsItIs => {
                if let Some(length) = response.length.filter(|_| response.status != 204) {
                    let _ = write!(head, "Content-Length: {length}\r\n");
                }
            }
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if !self.keep_client {
            head.extend_from_slice(b"Connection: close\r\n");
        } else if about.http_10 {
            head.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        head.extend_from_slice(job.extra.as_bytes());
        head.extend_from_slice(b"Via: 1.1 mini\r\n\r\n");
        self.body = Some(response.body);
    }
}

pub(crate) struct Exchange<'a> {
    ends: Ends<'a>,
    worker: &'a Worker,
    slot: &'a Slot,
    job: Asked<'a>,
    upload: Upload<'a>,
    download: Download,
    tally: &'a mut Tally,
    deadlines: Deadlines,
    /// It takes so long that the client is looked at.
    looks: bool,
    /// The client has ended its direction.
    half_closed: bool,
}

/// What the answer's treatment needs of the request.
struct Asked<'a> {
    about: &'a super::job::About,
    upgrade: Option<Upgrade>,
    /// What is added to the answer's head.
    extra: &'a str,
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        worker: &'a Worker,
        slot: &'a Slot,
        job: &'a mut Job,
        ends: Ends<'a>,
        tally: &'a mut Tally,
        deadlines: Deadlines,
    ) -> Self {
        let bytes_there = !ends.from_client.is_empty();
        let upload = Upload {
            head: &job.head,
            chunked: matches!(job.body, Body::Chunked(_)),
            limit: job.body_limit,
            // One that has begun to send does not wait.
            gate: job.expects_continue && !bytes_there,
            body: &mut job.body,
            out: Out { pending: true, ..Out::default() },
            finished: false,
            given_up: false,
        };
        let download = Download::new();
        let job = Asked { about: &job.about, upgrade: job.upgrade, extra: &job.answer_fields };
        Self {
            ends,
            worker,
            slot,
            job,
            upload,
            download,
            tally,
            deadlines,
            looks: false,
            half_closed: false,
        }
    }

    /// Sees it to its end.
    pub(crate) async fn run(mut self) -> Result<End, Fail> {
        // What is there of a body goes with the head. One in chunks is moved together when it is
        // taken, and could not be sent again over another connection.
        let length = match self.upload.body {
            Body::Length(n) if !self.upload.gate && !self.ends.from_client.is_empty() => Some(*n),
            _ => None,
        };
        if length.is_some() {
            self.upload.take(self.ends.from_client, self.tally)?;
        }
        self.slot.nudge_after(if self.upload.gate { WAIT_FOR_CONTINUE } else { LOOK_AT_CLIENT });
        self.set_deadline();
        let slot = self.slot;
        let ended = slot.wait(|cx| self.poll(cx)).await;
        slot.no_nudge();
        match ended {
            Ok(Err(Fail::Closed { unsent: true })) => {
                if let Some(n) = length {
                    *self.upload.body = Body::Length(n);
                }
                Err(Fail::Closed { unsent: true })
            }
            Ok(ended) => ended,
            Err(crate::worker::Verdict::Late) => Err(self.late()),
            Err(_) => Err(Fail::Cut),
        }
    }

    fn late(&self) -> Fail {
        if self.half_closed {
            Fail::ClientGone
        } else if self.tally.status.is_some() || !self.upload_is_over() {
            Fail::Idle
        } else {
            Fail::FirstByteLate
        }
    }

    fn upload_is_over(&self) -> bool {
        self.upload.finished || self.upload.given_up
    }

    fn set_deadline(&self) {
        let waits = self.upload_is_over() && self.tally.heard == 0;
        let limit = if waits { self.deadlines.first_byte } else { self.deadlines.idle };
        let limit = if self.half_closed { limit.min(self.deadlines.half_closed) } else { limit };
        self.slot.within(limit);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Fail>> {
        let before = self.moved();
        let polled = self.poll_both(cx);
        if polled.is_pending() && self.moved() != before {
            self.set_deadline();
        }
        polled
    }

    fn moved(&self) -> (u64, u64, u64, bool) {
        (self.tally.said, self.tally.heard, self.tally.told, self.half_closed)
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Fail>> {
        if self.slot.is_nudged() {
            self.slot.no_nudge();
            if self.upload.gate {
                // On the upstream's behalf.
                self.open_gate();
                self.download.interim(b"HTTP/1.1 100 Continue\r\n\r\n");
            } else {
                self.looks = true;
            }
        }
        let mut gated = true;
        let done = loop {
            if !self.upload_is_over() {
                let uploaded = self.upload.poll(cx, &mut self.ends, self.tally, self.worker);
                if let Poll::Ready(Err(fail)) = uploaded {
                    return Poll::Ready(Err(fail));
                }
            }
            gated &= self.upload.gate;
            match self.poll_download(cx) {
                Poll::Ready(done) => break done,
                // The upstream has just said that it wants the body.
                Poll::Pending if gated && !self.upload.gate => gated = false,
                Poll::Pending => return self.look_at_client(cx),
            }
        };
        Poll::Ready(done.map(|()| {
            if self.download.switched {
                return End::Switched;
            }
            let whole = self.upload.finished;
            End::Done {
                client: self.download.keep_client && whole && !self.half_closed,
                upstream: self.download.keep_upstream
                    && whole
                    && self.ends.from_upstream.is_empty(),
            }
        }))
    }

    /// Whether the client has left: not asked at once, since it costs a little and most answers
    /// come sooner.
    fn look_at_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, Fail>> {
        let look = self.looks && self.upload_is_over() && !self.half_closed;
        if !look || !self.ends.from_client.is_empty() {
            return Poll::Pending;
        }
        let from = &mut *self.ends.from_client;
        match from.poll_fill(cx, self.ends.client, self.worker, SMALL) {
            Poll::Ready(Ok(0)) => {
                self.half_closed = true;
                Poll::Pending
            }
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => Poll::Ready(Err(Fail::ClientGone)),
        }
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fail>> {
        loop {
            if self.download.out.pending {
                let out = &mut self.download.out;
                let (client, from) = (&mut *self.ends.client, &*self.ends.from_upstream);
                let told = &mut self.tally.told;
                if ready!(out.poll(cx, client, &self.download.head, from, told)).is_err() {
                    return Poll::Ready(Err(Fail::ClientGone));
                }
                self.tally.bytes_out += out.data.1 as u64;
                self.download.head.clear();
                self.ends.from_upstream.consume(out.used, self.worker);
                out.pending = false;
                if self.download.switched {
                    return Poll::Ready(Ok(()));
                }
            }
            match &self.download.body {
                None => ready!(self.poll_head(cx))?,
                Some(body) if body.is_done() => return Poll::Ready(Ok(())),
                Some(_) => ready!(self.poll_body(cx))?,
            }
        }
    }

    /// Reads on to the end of a head, and makes it ready.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fail>> {
        loop {
            if !self.ends.from_upstream.is_empty() {
                let bytes = self.ends.from_upstream.bytes();
                match self.download.finder.response(bytes) {
                    Ok(Some(len)) => return Poll::Ready(self.head(len)),
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(Fail::Bad)),
                }
            }
            let from = &mut *self.ends.from_upstream;
            match ready!(from.poll_fill(cx, self.ends.upstream, self.worker, LARGE)) {
                Ok(n) if n > 0 => self.tally.heard += n as u64,
                _ if self.tally.heard == 0 => {
                    let unsent = self.tally.said == 0;
                    return Poll::Ready(Err(Fail::Closed { unsent }));
                }
                _ => return Poll::Ready(Err(Fail::Broken)),
            }
        }
    }

    /// Takes the head that the upstream's bytes begin with.
    fn head(&mut self, len: usize) -> Result<(), Fail> {
        let mut space = room();
        let bytes = &self.ends.from_upstream.bytes()[..len];
        let response =
            Response::read(bytes, self.job.about.is_head, &mut space).map_err(|_| Fail::Bad)?;
        let status = response.status;
        match status {
            // Only what was asked for, and only when the request is complete.
            101 if self.job.upgrade.is_some() && self.upload.finished => {
                self.download.switch(&response);
            }
            101 => return Err(Fail::Bad),
            100..=199 => {
                self.download.interim += 1;
                if self.download.interim > MAX_INTERIM {
                    return Err(Fail::Bad);
                }
                // It was the client that asked for a 100, or it gets none.
                if !self.job.about.http_10 && (status != 100 || self.upload.gate) {
                    self.download.pass_on(&response);
                }
            }
            _ => {
                // A body that was never asked for may come, or not: nothing can follow it.
                self.upload.given_up |= std::mem::take(&mut self.upload.gate);
                let may_keep = !self.upload.given_up && !self.worker.shared.draining.is_cancelled();
                self.download.last(response, &self.job, may_keep);
            }
        }
        self.ends.from_upstream.consume(len, self.worker);
        match status {
            100 if self.upload.gate => self.open_gate(),
            101 => {
                self.tally.status = Some(status);
                self.download.out.set(false, (0, 0), 0, Cow::default());
            }
            200.. => {
                self.tally.status = Some(status);
                self.take()?;
            }
            _ => {}
        }
        Ok(())
    }

    fn open_gate(&mut self) {
        self.upload.gate = false;
        self.slot.nudge_after(LOOK_AT_CLIENT);
    }

    /// Makes what came of the answer's body ready to be written, after its head.
    fn take(&mut self) -> Result<(), Fail> {
        let Some(body) = &mut self.download.body else { return Ok(()) };
        let chunked = self.download.framing == Framing::Chunked;
        let bytes = self.ends.from_upstream.bytes_mut();
        self.download.out.take(body, bytes, chunked).map_err(|_| Fail::Broken)?;
        Ok(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fail>> {
        let from = &mut *self.ends.from_upstream;
        let filled = ready!(from.poll_fill(cx, self.ends.upstream, self.worker, LARGE));
        match (filled, &self.download.body) {
            (Ok(n), _) if n > 0 => {
                self.tally.heard += n as u64;
                Poll::Ready(self.take())
            }
            (Ok(_), Some(Body::UntilClose)) => {
                let chunked = self.download.framing == Framing::Chunked;
                let end = if chunked { Cow::Borrowed(&b"0\r\n\r\n"[..]) } else { Cow::default() };
                self.download.out.set(false, (0, 0), 0, end);
                self.download.body = Some(Body::None);
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err(Fail::Broken)),
        }
    }
}

fn write_start(head: &mut Vec<u8>, response: &Response<'_, '_>) {
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", response.status, response.reason);
}

fn write_fields(head: &mut Vec<u8>, response: &Response<'_, '_>) {
    for field in response.fields {
        if response.passes(field.name) {
            head.extend_from_slice(field.name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(field.value);
            head.extend_from_slice(b"\r\n");
        }
    }
}
