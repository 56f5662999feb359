//! One try of one call: connect, send, read the head, and judge who answered.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, LOCATION, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connect::connect;
use super::error::{ClientError, Fault};
use super::tls::{NoConnection, Untrusted};
use super::{Client, upload};
use crate::{
    API_LEVEL, ErrorBody, ErrorCode, IDEMPOTENCY_HEADER, LEVEL_HEADER, MIN_API_LEVEL,
    VERSION_HEADER, session,
};

/// The largest document that is read, in bytes.
const MAX_DOCUMENT: usize = 64 << 20;

/// What is asked, in a form that can be asked again.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) json: Option<Bytes>,
    pub(crate) key: Option<String>,
}

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A 2xx answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) body: Incoming,
    /// Drives the connection; the body ends with it.
    pub(crate) driver: Driver,
}

/// Ends its task when it is dropped.
pub(crate) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// One try of a call, its answer read to the end.
    pub(crate) async fn try_document(&self, call: &Call) -> Result<Bytes, ClientError> {
        let answer = self.try_open(call).await?;
        self.read_document(answer).await
    }

    /// One try of a call, up to the head of a 2xx answer.
    pub(crate) async fn try_open(&self, call: &Call) -> Result<Answer, ClientError> {
        let body = Full::new(call.json.clone().unwrap_or_default());
        let kind = call.json.is_some().then_some("application/json");
        let request = self.request(call, kind, body.map_err(no_error).boxed_unsync())?;
        let limit = self.inner.timing.answer;
        self.exchange(request, async move {
            tokio::time::sleep(limit).await;
            format!("no answer within {} s", limit.as_secs())
        })
        .await
    }

    /// One try of a call that turns its connection into a session, and the instance it is with.
    pub(crate) async fn try_upgrade(
        &self,
        call: &Call,
    ) -> Result<(Upgraded, Option<String>), ClientError> {
        let body = Full::new(call.json.clone().unwrap_or_default());
        let body = body.map_err(no_error).boxed_unsync();
        let mut request = self.request(call, Some("application/json"), body)?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(session::UPGRADE));
        let limit = self.inner.timing.answer;
        let give_up = async move {
            tokio::time::sleep(limit).await;
            format!("no answer within {} s", limit.as_secs())
        };
        let (response, driver) = self.respond(request, give_up).await?;
        let level = self.level(response.headers())?;
        if level.is_none() || response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, body) = response.into_parts();
            let answer = Answer { body, driver };
            return Err(self.refusal(head.status, &head.headers, level.is_some(), answer).await);
        }
        let instance = response.headers().get(session::INSTANCE_HEADER);
        let instance = instance.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| self.failed(&e))?;
        Ok((upgraded, instance))
    }

    /// One try of an upload. `body` is streamed, never held.
    pub(crate) async fn try_upload(
        &self,
        call: &Call,
        kind: &'static str,
        body: upload::Watched,
    ) -> Result<Bytes, ClientError> {
        let watch = body.watch();
        let request = self.request(call, Some(kind), body.into_body())?;
        let result = self.exchange(request, watch.stalled(self.inner.timing.answer)).await;
        match result {
            Ok(answer) => self.read_document(answer).await,
            // An unreadable file ends the connection too; the file is the reason worth telling.
            Err(e) => Err(watch.take_error().map_or(e, ClientError::Body)),
        }
    }

    fn request(
        &self,
        call: &Call,
        kind: Option<&'static str>,
        body: Body,
    ) -> Result<Request<Body>, ClientError> {
        let agent = concat!("mini/", env!("CARGO_PKG_VERSION"));
        let mut builder = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header(HOST, self.inner.endpoint.authority())
            .header(USER_AGENT, agent)
            .header(ACCEPT, "application/json")
            .header(LEVEL_HEADER, API_LEVEL)
            .header(VERSION_HEADER, env!("CARGO_PKG_VERSION"));
        if let Some(token) = &self.inner.token {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| self.garbled("the token holds odd characters"))?;
            value.set_sensitive(true);
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(kind) = kind {
            builder = builder.header(CONTENT_TYPE, kind);
        }
        if let Some(key) = &call.key {
            builder = builder.header(IDEMPOTENCY_HEADER, key);
        }
        builder.body(body).map_err(|e| self.garbled(&e.to_string()))
    }

    /// Sends on a new connection and returns a 2xx answer from a mini server, or the error.
    /// `give_up` ends, with the reason, when the answer will not come.
    async fn exchange(
        &self,
        request: Request<Body>,
        give_up: impl Future<Output = String>,
    ) -> Result<Answer, ClientError> {
        let (response, driver) = self.respond(request, give_up).await?;
        let (head, body) = response.into_parts();
        let answer = Answer { body, driver };
        let level = self.level(&head.headers)?;
        if level.is_some() && head.status.is_success() {
            return Ok(answer);
        }
        Err(self.refusal(head.status, &head.headers, level.is_some(), answer).await)
    }

    /// Sends on a new connection and returns the head of whatever answer comes.
    async fn respond(
        &self,
        request: Request<Body>,
        give_up: impl Future<Output = String>,
    ) -> Result<(Response<Incoming>, Driver), ClientError> {
        let io = connect(&self.inner.endpoint, &self.inner.tls).await;
        let io = io.map_err(|e| self.unconnected(e))?;
        let handshake = http1::handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.lost(lost_words(&e), false))?;
        let driver = Driver(tokio::spawn(async move {
            // Its errors reach the caller through the request and the body.
            let _ = connection.with_upgrades().await;
        }));
        let response = tokio::select! {
            response = sender.send_request(request) => {
                response.map_err(|e| self.failed(&e))?
            }
            why = give_up => return Err(self.lost(why, true)),
        };
        self.contacted();
        Ok((response, driver))
    }

    /// The server's API level; none if what answers does not say one.
    fn level(&self, headers: &HeaderMap) -> Result<Option<u32>, ClientError> {
        let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let Some(level) = text(LEVEL_HEADER).and_then(|v| v.trim().parse::<u32>().ok()) else {
            return Ok(None);
        };
        let version = || text(VERSION_HEADER).unwrap_or("of an unknown version").to_owned();
        if level > API_LEVEL {
            return Err(self.protocol(Fault::TooNew { level, version: version() }));
        }
        if level < MIN_API_LEVEL {
            return Err(self.protocol(Fault::TooOld { level, version: version() }));
        }
        Ok(Some(level))
    }

    /// What an answer means that is no success, or not from the API.
    async fn refusal(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        has_level: bool,
        answer: Answer,
    ) -> ClientError {
        let read = self.read_document(answer).await;
        let body = read.as_ref().ok().and_then(|b| serde_json::from_slice::<ErrorBody>(b).ok());
        let router = headers.get("x-mini-error").and_then(|v| v.to_str().ok());
        // The proxy's door answers by itself too, and knows no level.
        let by_door = [ErrorCode::ControllerUnavailable, ErrorCode::HttpsRequired];
        let from_door = |b: &ErrorBody| router.is_none() || by_door.contains(&b.code);
        match body {
            Some(body) if has_level || (!status.is_success() && from_door(&body)) => {
                return ClientError::Api(Box::new(body), status.as_u16());
            }
            _ => {}
        }
        if has_level {
            return match read {
                Err(lost) => lost,
                Ok(_) => self.garbled(&format!("{status} without a reason")),
            };
        }
        if let Some(code) = router {
            return self.protocol(Fault::NotTheDoor(format!("{} {code}", status.as_u16())));
        }
        let location = headers.get(LOCATION).and_then(|v| v.to_str().ok());
        let what = match location {
            Some(to) if status.is_redirection() => format!("it redirects to {to:?}"),
            _ => format!("it answered {status} without {LEVEL_HEADER}"),
        };
        self.protocol(Fault::NotMini(what))
    }

    async fn read_document(&self, answer: Answer) -> Result<Bytes, ClientError> {
        let Answer { mut body, driver } = answer;
        let _driver = driver;
        let limit = self.inner.timing.answer;
        let mut document = Vec::new();
        loop {
            match timeout(limit, body.frame()).await {
                Ok(None) => return Ok(document.into()),
                Ok(Some(Ok(frame))) => {
                    document.extend_from_slice(frame.data_ref().map_or(&[], |d| d));
                    if document.len() > MAX_DOCUMENT {
                        return Err(self.garbled("it is too large"));
                    }
                }
                Ok(Some(Err(e))) => return Err(self.lost(lost_words(&e), true)),
                Err(_) => return Err(self.lost("the answer stopped midway".to_owned(), true)),
            }
        }
    }

    fn unconnected(&self, e: NoConnection) -> ClientError {
        match e {
            NoConnection::Because(why) => self.lost(why, false),
            NoConnection::Untrusted(Untrusted { seen, why }) => ClientError::Untrusted {
                address: self.inner.endpoint.to_string(),
                seen,
                pinned: self.inner.tls.pin,
                why,
            },
        }
    }

    pub(crate) fn lost(&self, why: String, sent: bool) -> ClientError {
        ClientError::Unreachable { address: self.inner.endpoint.to_string(), why, sent }
    }

    fn failed(&self, e: &hyper::Error) -> ClientError {
        if e.is_parse() {
            return self.protocol(Fault::NotMini("it does not answer as HTTP".to_owned()));
        }
        self.lost(lost_words(e), true)
    }

    pub(crate) fn protocol(&self, fault: Fault) -> ClientError {
        ClientError::Protocol { address: self.inner.endpoint.to_string(), fault }
    }

    pub(crate) fn garbled(&self, why: &str) -> ClientError {
        self.protocol(Fault::Garbled(why.to_owned()))
    }
}

fn no_error(never: Infallible) -> std::io::Error {
    match never {}
}

/// hyper's reason for a lost connection, in words.
pub(crate) fn lost_words(e: &hyper::Error) -> String {
    if e.is_incomplete_message() || e.is_closed() || e.is_canceled() {
        return "the connection was closed before the answer came".to_owned();
    }
    "the connection was lost".to_owned()
}

/// The default for [`super::Timing::answer`].
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
