//! The session that BuildKit wants: our side of a connection on which the engine calls us.
//!
//! `POST /session` with `Upgrade: h2c`, and then we are the gRPC server (HTTP/2; the protocol is
//! described in grpc's PROTOCOL-HTTP2). It answers that we are alive and nothing else: the context
//! goes as a tar, and where the engine asks for credentials, "unimplemented" means anonymous.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use mini_core::ports::RuntimeResult;
use tokio::task::AbortHandle;

use crate::error;
use crate::raw::{self, Connection, Raw};

const WHAT: &str = "a session with the builder";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse { status: SERVING }`: not compressed, two bytes long, field 1 = 1.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");

/// An open session; dropping it closes it.
pub(crate) struct Session {
    server: AbortHandle,
    _connection: Connection,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Session {
    /// Opens a session under an id of our choice; `None` if the engine has no BuildKit.
    pub(crate) async fn open(raw: &Raw, id: &str) -> RuntimeResult<Option<Session>> {
        let mut request = raw::request(Method::POST, "/session", raw::empty());
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("h2c"));
        let id = HeaderValue::from_str(id).expect("a session's id is made of ids and digits");
        headers.insert("x-docker-expose-session-uuid", id);
        headers.insert("x-docker-expose-session-name", HeaderValue::from_static("mini"));
        headers.insert("x-docker-expose-session-grpc-method", HeaderValue::from_static(HEALTH));
        let answer = tokio::time::timeout(crate::engine::LOOK, raw.send(WHAT, request))
            .await
            .map_err(|_| error::unreachable(WHAT, "it did not answer in time"))??;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        let (upgraded, connection) = answer.upgraded(WHAT).await?;
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(upgraded, service_fn(answer_call));
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a session with the builder ended");
            }
        });
        Ok(Some(Session { server: task.abort_handle(), _connection: connection }))
    }
}

async fn answer_call(request: Request<Incoming>) -> Result<Response<raw::Body>, Infallible> {
    let healthy = request.uri().path() == HEALTH;
    let body = if healthy {
        let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
        Full::new(Bytes::from_static(SERVING))
            .with_trailers(std::future::ready(Some(Ok(trailers))))
            .map_err(|never: Infallible| match never {})
            .boxed_unsync()
    } else {
        raw::empty()
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if !healthy {
        response.headers_mut().insert(GRPC_STATUS, UNIMPLEMENTED);
    }
    Ok(response)
}
