//! Apps that speak HTTP/2 without TLS, as gRPC servers do: a stream goes on as a stream, trailers
//! and all.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{BrokenOff, OnThisThread, PING, PONG};
use crate::forward::exchange::{Deadlines, Fail};
use crate::forward::job::Job;
use crate::h1::{self, room};
use crate::sock::Sock;
use crate::table::{InFlight, TargetState};
use crate::worker::{Slot, SlotGuard, Verdict, Worker};

/// The connections of one thread: one for each instance carries all of its streams.
#[derive(Default)]
pub(crate) struct Pool(Vec<(Weak<TargetState>, SendRequest<Upload>)>);

impl Pool {
    fn get(&mut self, target: &Arc<TargetState>) -> Option<SendRequest<Upload>> {
        self.0.retain(|(of, sender)| of.strong_count() > 0 && !sender.is_closed());
        let mine = self.0.iter().find(|(of, _)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(target)));
        mine.map(|(_, sender)| sender.clone())
    }
}

/// A request's body on its way, up to the app's limit.
pub(crate) struct Upload {
    incoming: Incoming,
    /// Bytes that it may still have.
    left: Option<u64>,
    too_large: Rc<Cell<bool>>,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return Poll::Ready(Some(Err(BrokenOff))),
            None => return Poll::Ready(None),
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(left) = self.left {
            let Some(left) = left.checked_sub(bytes) else {
                self.too_large.set(true);
                return Poll::Ready(Some(Err(BrokenOff)));
            };
            self.left = Some(left);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// An answer that passes.
pub(super) struct Passing {
    body: Incoming,
    slot: Rc<Slot>,
    _guard: SlotGuard,
    flight: Option<InFlight>,
    idle: std::time::Duration,
}

impl Passing {
    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let slot = Rc::clone(&self.slot);
        let polled = slot.poll(cx, |cx| Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match ready!(polled) {
            Ok(Some(Ok(frame))) => {
                slot.within(self.idle);
                Some(Ok(frame))
            }
            Ok(None) => {
                self.flight = None;
                None
            }
            failed => {
                if let (Err(Verdict::Cut), Some(flight)) = (&failed, &self.flight) {
                    flight.was_cut();
                }
                self.flight = None;
                Some(Err(BrokenOff))
            }
        })
    }
}

/// Sends a stream to an instance, and waits for the head of its answer.
pub(super) async fn send(
    worker: &Rc<Worker>,
    guard: SlotGuard,
    job: &Job,
    incoming: Incoming,
    flight: InFlight,
    deadlines: Deadlines,
) -> Result<(Response<()>, Passing), Fail> {
    let slot = guard.handle();
    slot.within(deadlines.connect);
    let pooled = worker.h2c.borrow_mut().get(&flight.target);
    let mut sender = match pooled {
        Some(sender) => sender,
        None => match slot.wait_for(connect(worker, &flight.target)).await {
            Ok(sender) => sender?,
            Err(Verdict::Late) => return Err(Fail::ConnectTimeout),
            Err(_) => return Err(Fail::Refused),
        },
    };
    let too_large = Rc::new(Cell::new(false));
    let upload = Upload { incoming, left: job.body_limit, too_large: Rc::clone(&too_large) };
    let request = request(job, upload)?;
    // From the end of the request: not known here, so the longer of the two.
    slot.within(deadlines.first_byte.max(deadlines.idle));
    let sent = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    let response = match slot.wait_for(sent).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) if too_large.get() => return Err(Fail::TooLarge),
        Ok(Err(error)) => {
            tracing::debug!(%error, "an h2c upstream failed");
            return Err(Fail::Closed { unsent: false });
        }
        Err(Verdict::Late) => return Err(Fail::FirstByteLate),
        Err(_) => {
            flight.was_cut();
            return Err(Fail::Cut);
        }
    };
    let (mut parts, body) = response.into_parts();
    parts.headers.append(http::header::VIA, HeaderValue::from_static("2 mini"));
    parts.extensions.clear();
    slot.within(deadlines.idle);
    let passing = Passing { body, slot, _guard: guard, flight: Some(flight), idle: deadlines.idle };
    Ok((Response::from_parts(parts, ()), passing))
}

async fn connect(
    worker: &Rc<Worker>,
    target: &Arc<TargetState>,
) -> Result<SendRequest<Upload>, Fail> {
    let sock: Sock = target.endpoint.connect().await.map_err(|_| Fail::Refused)?;
    let (sender, connection) = http2::Builder::new(OnThisThread)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .handshake(TokioIo::new(sock))
        .await
        .map_err(|_| Fail::Bad)?;
    let cut = target.endpoint.cut.clone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "an h2c connection ended");
            },
            () = cut.cancelled() => {}
        }
    });
    worker.h2c.borrow_mut().0.push((Arc::downgrade(target), sender.clone()));
    Ok(sender)
}

/// The head that would go to an app over HTTP/1.1, as a stream's.
fn request(job: &Job, upload: Upload) -> Result<Request<Upload>, Fail> {
    let mut space = room();
    let head = h1::Request::read(&job.head, &mut space).map_err(|_| Fail::Bad)?;
    let mut request = Request::new(upload);
    *request.version_mut() = Version::HTTP_2;
    *request.method_mut() = head.method.parse().map_err(|_| Fail::Bad)?;
    let path = format!("{}{}", head.target.slash, head.target.rest);
    *request.uri_mut() = Uri::builder()
        .scheme("http")
        .authority(head.host)
        .path_and_query(path)
        .build()
        .map_err(|_| Fail::Bad)?;
    for field in head.fields {
        use crate::h1::Known;
        let passes = !matches!(
            h1::known(field.name),
            Known::Host | Known::Connection | Known::TransferEncoding | Known::Upgrade
        );
        let name = HeaderName::from_bytes(field.name.as_bytes());
        if let (true, Ok(name), Ok(value)) = (passes, name, HeaderValue::from_bytes(field.value)) {
            request.headers_mut().append(name, value);
        }
    }
    Ok(request)
}
