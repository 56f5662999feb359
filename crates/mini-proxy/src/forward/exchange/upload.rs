//! The request's direction.

use std::task::{Context, Poll, ready};

use super::out::Out;
use super::{Ends, Fail, Tally};
use crate::h1::Body;
use crate::sock::Buf;
use crate::worker::{LARGE, Worker};

/// The request on its way.
pub(super) struct Upload<'a> {
    pub(super) head: &'a [u8],
    pub(super) body: &'a mut Body,
    pub(super) out: Out,
    pub(super) chunked: bool,
    pub(super) limit: Option<u64>,
    /// The client waits for 100 (Continue): nothing is asked of it yet.
    pub(super) gate: bool,
    pub(super) finished: bool,
    /// The upstream takes no more; it may still answer.
    pub(super) given_up: bool,
}

impl Upload<'_> {
    pub(super) fn poll(
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
    pub(super) fn take(&mut self, from: &mut Buf, tally: &Tally) -> Result<(), Fail> {
        let step = self.out.take(self.body, from.bytes_mut(), self.chunked);
        let step = step.map_err(Fail::ClientBad)?;
        let sum = tally.bytes_in + step.len as u64;
        if self.limit.is_some_and(|limit| sum > limit) {
            return Err(Fail::TooLarge);
        }
        Ok(())
    }
}
