//! Another protocol after a 101: raw bytes both ways. A WebSocket that is cut is told so.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::{Client, Next, Upstream};
use crate::sock::{Buf, Sock};
use crate::table::InFlight;
use crate::upstream::Endpoint;
use crate::websocket::{Frames, GOING_AWAY};
use crate::worker::{SMALL, Verdict, Worker};

/// How long a WebSocket that is cut may take to its last whole frame, and then its client to close.
const GOODBYE: Duration = Duration::from_secs(1);

/// Whom the client will talk to.
pub(crate) struct Ends {
    pub(super) upstream: Upstream,
    pub(super) endpoint: Endpoint,
    pub(super) websocket: bool,
    pub(super) flight: Option<InFlight>,
}

/// Copies between the two until both have ended, nothing passes for `idle`, or it is cut. Says too how
/// many bytes passed from the client and to it.
pub(super) async fn relay(client: &mut Client, ends: Ends, idle: Duration) -> (Next, u64, u64) {
    let Ends { mut upstream, endpoint, websocket, flight } = ends;
    let worker = client.worker.clone();
    // It may stand idle for an hour: nobody gathers work for it.
    worker.busy(-1);
    let mut frames = websocket.then(Frames::default);
    let mut out = Direction::default();
    let mut back = Direction::default();
    let mut both = Both {
        client: &mut client.sock,
        from_client: &mut client.buf,
        upstream: &mut upstream.sock,
        from_upstream: &mut upstream.buf,
        frames: &mut frames,
        out: &mut out,
        back: &mut back,
    };
    client.slot.within(idle);
    let slot = &client.slot;
    // Not by the ticker: the instance is stopped in this moment, and its end must not come first.
    let cut = endpoint.cut.clone().cancelled_owned();
    let mut cut = std::pin::pin!(cut);
    let ended = slot
        .wait(|cx| {
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let before = both.moved();
            let polled = both.poll(cx, &worker);
            if polled.is_pending() && both.moved() != before {
                slot.within(idle);
            }
            polled
        })
        .await;
    let goodbye = match ended {
        Ok(Ok(())) | Err(Verdict::Late | Verdict::Leave) => false,
        Ok(Err(_)) if !endpoint.cut.is_cancelled() => false,
        Ok(Err(_)) | Err(Verdict::Cut) => {
            if let Some(flight) = &flight {
                flight.was_cut();
            }
            // From here on only the time counts.
            slot.cut_by(None);
            slot.within(GOODBYE);
            both.end_frame(slot, &worker).await
        }
    };
    worker.busy(1);
    let (sent, received) = (out.moved, back.moved);
    upstream.buf.release(&worker);
    drop(upstream);
    drop(flight);
    if goodbye {
        say_goodbye(client).await;
    }
    (Next::Close, sent, received)
}

/// Tells the client of a WebSocket that it is cut, and waits for it to close.
async fn say_goodbye(client: &mut Client) {
    client.slot.within(GOODBYE);
    let sock = &mut client.sock;
    let told = client.slot.wait_for(async {
        use tokio::io::AsyncWriteExt as _;
        sock.write_all(&GOING_AWAY).await?;
        sock.flush().await
    });
    if matches!(told.await, Ok(Ok(()))) {
        // What it sent meanwhile is read, or a reset would overtake our frame.
        client.linger().await;
    }
}

/// One direction.
#[derive(Default)]
struct Direction {
    moved: u64,
    /// The end came, and was passed on.
    ended: bool,
}

impl Direction {
    /// Copies from one to the other until the end, which is passed on.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, buf): (&mut Sock, &mut Buf),
        to: &mut Sock,
        worker: &Worker,
        frames: Option<&mut Frames>,
    ) -> Poll<io::Result<()>> {
        let mut frames = frames;
        while !self.ended {
            while !buf.is_empty() {
                let n = ready!(to.poll_write(cx, &[IoSlice::new(buf.bytes())]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.moved += n as u64;
                if let Some(frames) = &mut frames {
                    frames.push(&buf.bytes()[..n]);
                }
                buf.consume(n, worker);
            }
            ready!(to.poll_flush(cx))?;
            if ready!(buf.poll_fill(cx, from, worker, SMALL))? == 0 {
                ready!(to.poll_shutdown(cx))?;
                self.ended = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

struct Both<'a> {
    client: &'a mut Sock,
    from_client: &'a mut Buf,
    upstream: &'a mut Sock,
    from_upstream: &'a mut Buf,
    /// What the client was sent, if that is a WebSocket.
    frames: &'a mut Option<Frames>,
    out: &'a mut Direction,
    back: &'a mut Direction,
}

impl Both<'_> {
    fn moved(&self) -> u64 {
        self.out.moved + self.back.moved
    }

    fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<()>> {
        let out = self.out.poll(cx, (self.client, self.from_client), self.upstream, worker, None);
        let back = self.back.poll(
            cx,
            (self.upstream, self.from_upstream),
            self.client,
            worker,
            self.frames.as_mut(),
        );
        match (out, back) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            _ => Poll::Pending,
        }
    }

    fn may_follow(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::may_follow)
    }

    /// Lets the copying go on to the end of a frame; false if that does not come soon, the
    /// connection ends by itself, or it is no WebSocket.
    async fn end_frame(&mut self, slot: &crate::worker::Slot, worker: &Worker) -> bool {
        if self.frames.is_none() {
            return false;
        }
        let whole = slot.wait(|cx| {
            if self.may_follow() {
                return Poll::Ready(true);
            }
            match self.poll(cx, worker) {
                Poll::Ready(_) => Poll::Ready(false),
                Poll::Pending if self.may_follow() => Poll::Ready(true),
                Poll::Pending => Poll::Pending,
            }
        });
        whole.await.unwrap_or(false)
    }
}
