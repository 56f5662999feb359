//! A server of `/v1` that says what a test wants it to say, and remembers what it was asked.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What it answers.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    end: End,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Proper,
    /// The connection breaks after the body so far.
    Cut,
    /// Nothing more comes, and the connection stays.
    Hang,
}

impl Reply {
    pub(crate) fn bare(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), end: End::Proper }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::bare(status, &body.to_string()).header("mini-api-level", "1")
    }

    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({ "code": code, "message": message }))
    }

    pub(crate) fn lines(lines: &[Value]) -> Self {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        Self::bare(200, &text).header("mini-api-level", "1")
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(n, _)| *n != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn cut(mut self) -> Self {
        self.end = End::Cut;
        self
    }

    pub(crate) fn hang(mut self) -> Self {
        self.end = End::Hang;
        self
    }
}

type Answer = dyn Fn(&Asked) -> Reply + Send + Sync;

/// Runs until it is dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(true, None, answer)
    }

    /// Answers uploads without reading them, and then closes the connection.
    pub(crate) fn start_unread(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(false, None, answer)
    }

    /// Over TLS, with a certificate and its key.
    pub(crate) fn start_secure(
        (certificate, key): (rcgen::Certificate, rcgen::KeyPair),
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Self::start_with(true, Some(TlsAcceptor::from(Arc::new(config))), answer)
    }

    fn start_with(
        read: bool,
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log): (Arc<Answer>, _) = (Arc::new(answer), asked.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log, tls) = (answer.clone(), log.clone(), tls.clone());
                let service =
                    service_fn(move |request| serve(request, read, answer.clone(), log.clone()));
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // A connection that breaks is the client's to tell.
                    let _ = match tls {
                        None => http.serve_connection(TokioIo::new(stream), service).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => {
                                http.serve_connection(TokioIo::new(stream), service).await
                            }
                            Err(_) => Ok(()),
                        },
                    };
                });
            }
        });
        Self { url, asked, runtime: Some(runtime) }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// `METHOD path` of every request, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

async fn serve(
    request: Request<Incoming>,
    read: bool,
    answer: Arc<Answer>,
    log: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let text = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let body = if read { body.collect().await.map(|b| b.to_bytes().to_vec()) } else { Ok(vec![]) };
    let asked = Asked {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        token: text("authorization").and_then(|v| v.strip_prefix("Bearer ").map(str::to_owned)),
        key: text("idempotency-key"),
        body: body.unwrap_or_default(),
    };
    log.lock().unwrap().push(asked.clone());
    let reply = answer(&asked);
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let first = Ok(Frame::data(Bytes::from(reply.body)));
    let end = reply.end;
    let frames = futures_util::stream::unfold(Some(first), move |first| async move {
        match first {
            Some(first) => Some((first, None)),
            None if end == End::Cut => {
                // While it waits, hyper sends what it has.
                tokio::task::yield_now().await;
                Some((Err(std::io::Error::other("cut")), None))
            }
            None if end == End::Hang => std::future::pending().await,
            None => None,
        }
    });
    Ok(response.body(BodyExt::boxed_unsync(StreamBody::new(frames))).unwrap())
}
