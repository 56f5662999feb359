//! The one place where errors become answers. What a client must not see goes to the log.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mini_api::{API_LEVEL, ErrorBody, ErrorCode, LEVEL_HEADER, VERSION_HEADER};
use mini_core::name::AppName;
use mini_core::ports::{RuntimeError, RuntimeErrorKind};

use crate::store::StoreError;
use crate::vault::VaultError;

pub(super) type ApiResult<T> = Result<T, ApiError>;

#[derive(Debug)]
pub(super) struct ApiError {
    code: ErrorCode,
    message: String,
    hint: Option<String>,
    retry_after_seconds: Option<u64>,
    /// For the server's log only.
    detail: Option<String>,
}

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message, hint: None, retry_after_seconds: None, detail: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message)
    }

    pub(super) fn no_app(app: &AppName) -> Self {
        Self::new(ErrorCode::NotFound, format!("there is no app named {app}"))
            .hint("`mini apps` lists them; `mini deploy` makes one")
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn internal(detail: impl std::fmt::Display) -> Self {
        let mut error = Self::new(ErrorCode::Internal, "the server failed; its log says more");
        error.detail = Some(detail.to_string());
        error.hint("try again; if it stays, look for the request id in the server's log")
    }
}

/// The answer to a request whose body, if it has one, is not read. The connection ends with it, and says
/// so: else the proxy would send another request where nobody reads any more.
pub(super) fn unread(error: ApiError, request: &Request) -> Response {
    let mut response = error.into_response();
    let headers = request.headers();
    let none = HeaderValue::from_static("0");
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| *length != none);
    if has_body {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(detail) => {
                let mut error = Self::new(
                    ErrorCode::StorageFull,
                    "the server's data folder cannot be written, so nothing was changed",
                );
                error.detail = Some(detail);
                error.hint("free some space on the server; running apps go on")
            }
            other => Self::internal(other),
        }
    }
}

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        Self::internal(error)
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> Self {
        let code = match error.kind {
            RuntimeErrorKind::Unreachable | RuntimeErrorKind::NotPermitted => {
                ErrorCode::EngineUnavailable
            }
            RuntimeErrorKind::Unsupported => ErrorCode::Unsupported,
            _ => return Self::internal(error),
        };
        Self { hint: error.hint, ..Self::new(code, error.message) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Failure {
            body: ErrorBody {
                code: self.code,
                message: self.message,
                hint: self.hint,
                request_id: None,
            },
            detail: self.detail,
        });
        response
    }
}

/// Names a request in the logs.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

/// Rides on a response until the request id is known.
#[derive(Clone)]
struct Failure {
    body: ErrorBody,
    detail: Option<String>,
}

pub(super) async fn no_such_path(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is nothing at {}", request.uri().path()))
        .hint("the API lies under /v1; GET /v1/openapi.json describes it")
}

pub(super) async fn no_such_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(ErrorCode::MethodNotAllowed, format!("{path} does not know {method}"))
        .hint("GET /v1/openapi.json describes the API")
}

/// Around every request: the request id, the level headers, and the body of an error.
pub(super) async fn finish(mut request: Request, next: Next) -> Response {
    let id = request.headers().get("x-request-id").and_then(|v| v.to_str().ok());
    let id = id.map_or_else(fresh_id, str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Some(mut failure) = response.extensions_mut().remove::<Failure>() {
        failure.body.request_id = Some(id.clone());
        if let Some(detail) = failure.detail {
            tracing::error!(request.id = %id, %method, %path, %detail, "a request failed");
        }
        let (parts, _) = response.into_parts();
        response = axum::Json(failure.body).into_response();
        *response.status_mut() = parts.status;
        for name in [header::RETRY_AFTER, header::CONNECTION] {
            if let Some(value) = parts.headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(LEVEL_HEADER), HeaderValue::from(API_LEVEL));
    headers.insert(
        HeaderName::from_static(VERSION_HEADER),
        HeaderValue::from_static(env!("CARGO_PKG_VERSION")),
    );
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", id);
    }
    response
}

fn fresh_id() -> String {
    crate::vault::random_id().map(hex::encode).unwrap_or_else(|_| "none".to_owned())
}
