//! The fake's streams: changes and output.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::{Call, FakeRuntime};
use crate::id::InstanceId;
use crate::ports::{Change, Items, Output, RuntimeError, RuntimeErrorKind, RuntimeResult};

pub(super) fn changes(fake: FakeRuntime) -> Items<Change> {
    let place = {
        let mut state = fake.lock();
        let first = if state.unreachable {
            Change::Lost("the fake engine is away".to_owned())
        } else {
            Change::Connected
        };
        state.subscribers.push(Some(VecDeque::from([first])));
        state.subscribers.len() - 1
    };
    Box::pin(Changes { fake, place })
}

struct Changes {
    fake: FakeRuntime,
    place: usize,
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        let mut state = self.fake.lock();
        let queue = state.subscribers.get_mut(self.place).and_then(Option::as_mut);
        match queue.map(VecDeque::pop_front) {
            Some(Some(change)) => Poll::Ready(Some(change)),
            Some(None) => {
                state.wait(context);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(queue) = self.fake.lock().subscribers.get_mut(self.place) {
            *queue = None;
        }
    }
}

pub(super) fn logs(
    fake: FakeRuntime,
    id: InstanceId,
    since_nanos: Option<i64>,
    follow: bool,
) -> Items<RuntimeResult<Output>> {
    let opened = async move {
        let there = fake.call(Call::Logs, |state| match state.instances.contains_key(&id) {
            true => Ok(()),
            false => Err(RuntimeError::new(
                RuntimeErrorKind::NotFound,
                format!("the log of instance {id}: the instance is not there"),
            )),
        });
        match there.await {
            Ok(()) => Logs { fake, id, since_nanos, follow, read: 0 }.map(Ok).boxed(),
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        }
    };
    Box::pin(stream::once(opened).flatten())
}

struct Logs {
    fake: FakeRuntime,
    id: InstanceId,
    since_nanos: Option<i64>,
    follow: bool,
    /// How many of the instance's lines were looked at.
    read: usize,
}

impl Stream for Logs {
    type Item = Output;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Output>> {
        let this = &mut *self;
        let mut state = this.fake.lock();
        let Some(container) = state.instances.get(&this.id) else { return Poll::Ready(None) };
        while let Some(output) = container.output.get(this.read) {
            this.read += 1;
            if this.since_nanos.is_none_or(|since| output.at_nanos >= since) {
                return Poll::Ready(Some(output.clone()));
            }
        }
        if !this.follow || !container.is_up() || state.unreachable {
            return Poll::Ready(None);
        }
        state.wait(context);
        Poll::Pending
    }
}
