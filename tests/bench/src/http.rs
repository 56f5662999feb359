//! Plain HTTP/1.1 requests, one connection each, every one under a deadline.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// A server behind a Unix socket, spoken to in JSON.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    pub(crate) path: std::path::PathBuf,
    /// What goes before every path, such as `/v1.41`.
    pub(crate) prefix: String,
}

impl Socket {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), prefix: String::new() }
    }

    /// One request with a JSON body; `Null` sends none. Answers with the status and the body.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Bytes)> {
        let (kind, body) = match body {
            Value::Null => ("text/plain", Bytes::new()),
            body => ("application/json", body.to_string().into()),
        };
        self.send(method, path, kind, body, Duration::from_secs(60)).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes)> {
        let path = format!("{}{path}", self.prefix);
        let what = format!("{method} {path} at {}", self.path.display());
        let asked = async {
            let mut connection = Connection::on(UnixStream::connect(&self.path).await?).await?;
            connection.ask(method, "localhost", &path, (kind, body)).await
        };
        let answer = tokio::time::timeout(deadline, asked).await;
        answer.with_context(|| format!("{what}: no answer in time"))?.context(what)
    }

    /// The same, where anything but success is an error.
    pub(crate) async fn json(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let (status, answer) = self.ask(method.clone(), path, body).await?;
        if !status.is_success() {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer).trim());
        }
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer)? })
    }
}

/// One kept connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(crate) async fn on(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender; its errors come to whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub(crate) async fn ask(
        &mut self,
        method: Method,
        host: &str,
        path: &str,
        (kind, body): (&str, Bytes),
    ) -> Result<(StatusCode, Bytes)> {
        self.sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", host)
            .header("content-type", kind)
            .body(Full::new(body))?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Result<(StatusCode, Bytes)> {
        self.ask(Method::GET, host, path, ("text/plain", Bytes::new())).await
    }
}
