//! Upload bodies: streamed, and watched for a server that takes no more.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::transport::Body;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A body and what is known about its flow.
pub(crate) struct Watched {
    chunks: Chunks,
    flow: Arc<Mutex<Flow>>,
}

struct Flow {
    /// When the connection last took a chunk, or last waited for us.
    moved: Instant,
    /// The connection waits for the next chunk, so standing still is our own doing.
    starved: bool,
    error: Option<io::Error>,
}

pub(crate) struct Watch(Arc<Mutex<Flow>>);

impl Watched {
    pub(crate) fn new(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        let flow = Flow { moved: Instant::now(), starved: false, error: None };
        Self { chunks: Box::pin(chunks), flow: Arc::new(Mutex::new(flow)) }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch(self.flow.clone())
    }

    pub(crate) fn into_body(self) -> Body {
        BodyExt::boxed_unsync(StreamBody::new(self))
    }
}

impl Stream for Watched {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.chunks.as_mut().poll_next(cx);
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        flow.moved = Instant::now();
        flow.starved = polled.is_pending();
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(chunk))) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            Poll::Ready(Some(Err(e))) => {
                let told = io::Error::new(e.kind(), "the source could not be read");
                flow.error = Some(e);
                Poll::Ready(Some(Err(told)))
            }
        }
    }
}

impl Watch {
    /// Ends when the connection has taken nothing for `limit` although there was something, or
    /// when nothing came for `limit` after the end of the body.
    pub(crate) fn stalled(&self, limit: Duration) -> impl Future<Output = String> + use<> {
        let flow = self.0.clone();
        async move {
            loop {
                let rest = {
                    let flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
                    if flow.starved { limit } else { limit.saturating_sub(flow.moved.elapsed()) }
                };
                if rest.is_zero() {
                    return format!("the upload stood still for {} s", limit.as_secs());
                }
                tokio::time::sleep(rest).await;
            }
        }
    }

    pub(crate) fn take_error(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }
}
