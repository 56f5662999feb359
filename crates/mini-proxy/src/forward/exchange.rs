//! One request at one upstream: both directions at once, each a buffer at a time.
//!
//! What an answer's head says is decided as soon as it came, also if the request is still on its
//! way. Of each direction there is at most one buffer of bytes: a side that does not read holds the
//! other one back.

mod download;
mod fail;
mod out;
mod upload;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod whole;

use std::borrow::Cow;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mini_core::route::Host;

use super::job::{Job, Upgrade};
use crate::h1::{Body, Response, room};
use crate::shared::Shared;
use crate::sock::{Buf, Sock};
use crate::worker::{LARGE, SMALL, Slot, Worker};
use download::{Download, Framing};
pub(crate) use fail::Fail;
use out::Out;
use upload::Upload;

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
