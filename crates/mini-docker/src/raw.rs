//! Connections of our own to the engine, for what streams.
//!
//! bollard hides when a response's head has arrived (so nobody could say `Connected`), takes log
//! times in whole seconds, and leaves its side of a build's session open for good. Here a stream
//! holds its connection: dropping it closes the socket, and that is what cancels on the engine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{
    BodyExt, BodyStream, Empty, Full, Limited, StreamBody, combinators::UnsyncBoxBody,
};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use mini_core::ports::{Items, RuntimeError, RuntimeErrorKind, RuntimeResult};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::error;

/// What we send.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An error's text is short; what is longer is not one.
const ERROR_BYTES: usize = 64 * 1024;
/// The longest document that is read whole.
const DOCUMENT_BYTES: usize = 4 * 1024 * 1024;
/// The longest line of a JSON stream that is still read.
const LINE_BYTES: usize = 16 * 1024 * 1024;

/// The engine's socket.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    socket: PathBuf,
}

/// A response and the connection that it arrives on.
pub(crate) struct Answer {
    response: Response<Incoming>,
    connection: Connection,
}

/// Closes its connection when dropped.
pub(crate) struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Raw {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A request without a body whose answer must begin within `deadline`.
    pub(crate) async fn get(
        &self,
        what: &str,
        target: &str,
        deadline: Duration,
    ) -> RuntimeResult<Answer> {
        let request = request(Method::GET, target, empty());
        match tokio::time::timeout(deadline, self.send(what, request)).await {
            Ok(answer) => answer?.checked(what).await,
            Err(_) => {
                let why = format!("it did not answer within {} s", deadline.as_secs());
                Err(error::unreachable(what, &why))
            }
        }
    }

    /// A request whose answer is one JSON document.
    pub(crate) async fn json(
        &self,
        what: &str,
        method: Method,
        target: &str,
        body: Option<String>,
        deadline: Duration,
    ) -> RuntimeResult<serde_json::Value> {
        match tokio::time::timeout(deadline, self.document(what, method, target, body)).await {
            Ok(document) => document,
            Err(_) => {
                let why = format!("it did not answer within {} s", deadline.as_secs());
                Err(error::unreachable(what, &why))
            }
        }
    }

    /// The same for an answer that comes when it comes.
    pub(crate) async fn document(
        &self,
        what: &str,
        method: Method,
        target: &str,
        body: Option<String>,
    ) -> RuntimeResult<serde_json::Value> {
        let mut request = request(method, target, full(body.unwrap_or_default()));
        let json = http::HeaderValue::from_static("application/json");
        request.headers_mut().insert(http::header::CONTENT_TYPE, json);
        let answer = self.send(what, request).await?.checked(what).await?;
        let Answer { response, connection } = answer;
        let body = Limited::new(response.into_body(), DOCUMENT_BYTES).collect().await;
        drop(connection);
        let body = body.map_err(|error| error::from_transport(what, &*error))?.to_bytes();
        if body.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| {
            RuntimeError::new(
                RuntimeErrorKind::Other,
                format!("{what}: the engine's answer cannot be read: {error}"),
            )
        })
    }

    /// Sends a request on a connection of its own, and answers with whatever comes back.
    pub(crate) async fn send(&self, what: &str, request: Request<Body>) -> RuntimeResult<Answer> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| error::from_transport(what, &error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error::from_transport(what, &error))?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the engine ended");
            }
        });
        let connection = Connection(task.abort_handle());
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error::from_transport(what, &error))?;
        Ok(Answer { response, connection })
    }
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The answer if it is a success, else the engine's error.
    pub(crate) async fn checked(self, what: &str) -> RuntimeResult<Answer> {
        let status = self.response.status();
        if status.is_success() {
            return Ok(self);
        }
        let body = Limited::new(self.response.into_body(), ERROR_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let said = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|json| Some(json.get("message")?.as_str()?.to_owned()))
            .unwrap_or_else(|| String::from_utf8_lossy(&body).into_owned());
        Err(error::from_answer(what, status.as_u16(), &said))
    }

    /// The upgraded connection of a 101.
    pub(crate) async fn upgraded(
        self,
        what: &str,
    ) -> RuntimeResult<(hyper::upgrade::Upgraded, Connection)> {
        let upgraded = hyper::upgrade::on(self.response)
            .await
            .map_err(|error| error::from_transport(what, &error))?;
        Ok((upgraded, self.connection))
    }

    /// The body in the pieces it came in.
    pub(crate) fn chunks(self, what: &str) -> Chunks {
        Chunks {
            body: BodyStream::new(self.response.into_body()),
            what: what.to_owned(),
            _connection: self.connection,
        }
    }

    /// The body cut at line ends, without them.
    pub(crate) fn lines(self, what: &str) -> Lines {
        Lines { chunks: self.chunks(what), buffer: BytesMut::new(), searched: 0, ended: false }
    }
}

pub(crate) struct Chunks {
    body: BodyStream<Incoming>,
    what: String,
    _connection: Connection,
}

impl Chunks {
    pub(crate) async fn next(&mut self) -> RuntimeResult<Option<Bytes>> {
        while let Some(frame) = self.body.next().await {
            let frame = frame.map_err(|error| error::from_transport(&self.what, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

pub(crate) struct Lines {
    chunks: Chunks,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    ended: bool,
}

impl Lines {
    /// The next line that is not blank.
    pub(crate) async fn next(&mut self) -> RuntimeResult<Option<Bytes>> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                let line = line.slice(..line.len() - 1);
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.ended {
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.buffer.len() > LINE_BYTES {
                return Err(error::unreachable(&self.chunks.what, "its answer has no end"));
            }
            match self.chunks.next().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => self.ended = true,
            }
        }
    }
}

/// A request for the engine. `target` is a path with its query and must be encoded.
pub(crate) fn request(method: Method, target: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().expect("the target was put together by `Query`");
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
    request
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// A body that is read only as fast as the engine takes it.
pub(crate) fn streamed(items: Items<std::io::Result<Bytes>>) -> Body {
    BodyExt::boxed_unsync(StreamBody::new(items.map(|item| item.map(Frame::data))))
}

/// A path and its query, encoded as it grows (RFC 3986 section 2.1).
pub(crate) struct Query {
    target: String,
    separator: char,
}

impl Query {
    /// `parts` are the path's, `/` between them.
    pub(crate) fn new(parts: &[&str]) -> Self {
        let mut query = Self { target: String::new(), separator: '?' };
        for part in parts {
            query.target.push('/');
            query.encode(part);
        }
        query
    }

    #[must_use]
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.target.push(self.separator);
        self.separator = '&';
        self.target.push_str(key);
        self.target.push('=');
        self.encode(value);
        self
    }

    fn encode(&mut self, text: &str) {
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.target.push(byte.into());
            } else {
                self.target.push_str(&format!("%{byte:02X}"));
            }
        }
    }

    pub(crate) fn target(&self) -> &str {
        &self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded() {
        let query =
            Query::new(&["build"]).with("t", "mini-ab/x:1").with("labels", "{\"a\":\"ä b\"}");
        assert_eq!(
            query.target(),
            "/build?t=mini-ab%2Fx%3A1&labels=%7B%22a%22%3A%22%C3%A4%20b%22%7D"
        );
        assert!(query.target().parse::<http::Uri>().is_ok());
    }
}
