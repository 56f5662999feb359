//! Who may ask. Everything here is decided before a byte of a body is read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use mini_api::ErrorCode;
use mini_core::id::TokenId;
use tokio::net::{UnixListener, UnixStream};

use super::error::ApiError;
use super::{Api, Entrance};
use crate::clock;
use crate::store::{self, TokenRow};
use crate::tokens;

/// Failed authentications a minute and address, requests a minute and token (CONTRACTS, "Limits").
const FAILURES_A_MINUTE: u32 = 10;
const REQUESTS_A_MINUTE: u32 = 600;
const MINUTE: Duration = Duration::from_secs(60);
/// Counters kept at once; beyond, the oldest minute's go first.
const MAX_COUNTERS: usize = 10_000;
/// How often a token's last use is written down.
const USE_EVERY: Duration = Duration::from_secs(60);

/// Who asked.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// None on the admin socket.
    pub(super) token: Option<TokenRow>,
}

impl Caller {
    pub(super) fn name(&self) -> Option<String> {
        self.token.as_ref().map(|t| t.name.clone())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "nobody said who is asking"))
    }
}

/// Counts per minute.
#[derive(Default)]
pub(crate) struct Guard {
    failures: Mutex<HashMap<String, Counter>>,
    requests: Mutex<HashMap<TokenId, Counter>>,
    uses: Mutex<HashMap<TokenId, Instant>>,
}

#[derive(Clone, Copy)]
struct Counter {
    since: Instant,
    count: u32,
}

impl Guard {
    /// Counts one; the seconds to wait if that was one too many.
    fn count<K: std::hash::Hash + Eq + Clone>(
        counters: &Mutex<HashMap<K, Counter>>,
        key: &K,
        allowed: u32,
    ) -> Result<(), u64> {
        let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if counters.len() >= MAX_COUNTERS {
            counters.retain(|_, c| now.duration_since(c.since) < MINUTE);
            if counters.len() >= MAX_COUNTERS {
                counters.clear();
            }
        }
        let counter = counters.entry(key.clone()).or_insert(Counter { since: now, count: 0 });
        if now.duration_since(counter.since) >= MINUTE {
            *counter = Counter { since: now, count: 0 };
        }
        counter.count += 1;
        if counter.count <= allowed {
            Ok(())
        } else {
            Err((MINUTE - now.duration_since(counter.since)).as_secs() + 1)
        }
    }

    fn use_is_due(&self, id: &TokenId) -> bool {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = uses.get(id).is_none_or(|at| now.duration_since(*at) >= USE_EVERY);
        if due {
            uses.insert(id.clone(), now);
        }
        due
    }
}

/// Lets a request through, with its caller, or answers 401 or 429.
pub(super) async fn check(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match caller(&api, request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

async fn caller(api: &Api, headers: &HeaderMap) -> Result<Caller, ApiError> {
    if api.entrance == Entrance::Admin {
        return Ok(Caller { token: None });
    }
    // A good token is never refused for the failures of others at the same address.
    match good_token(api, headers).await? {
        Ok(token) => {
            Guard::count(&api.guard.requests, &token.id, REQUESTS_A_MINUTE).map_err(|seconds| {
                let message =
                    format!("this token asked more than {REQUESTS_A_MINUTE} times in a minute");
                ApiError::new(ErrorCode::RateLimited, message)
                    .hint(format!("try again in {seconds} s"))
                    .retry_after(seconds)
            })?;
            note_use(api, &token);
            Ok(Caller { token: Some(token) })
        }
        Err(refused) => {
            let from = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()).unwrap_or("");
            let from = from.rsplit(',').next().unwrap_or("").trim().to_owned();
            match Guard::count(&api.guard.failures, &from, FAILURES_A_MINUTE) {
                Ok(()) => Err(refused),
                Err(seconds) => Err(ApiError::new(
                    ErrorCode::RateLimited,
                    "too many requests without a valid token came from this address",
                )
                .hint(format!("try again in {seconds} s, with a valid token"))
                .retry_after(seconds)),
            }
        }
    }
}

/// The request's token; the inner error is a refusal, the outer one ours.
async fn good_token(
    api: &Api,
    headers: &HeaderMap,
) -> Result<Result<TokenRow, ApiError>, ApiError> {
    let refused = |message: &str| {
        ApiError::new(ErrorCode::Unauthorized, message)
            .hint("`minid token create --name NAME` on the server makes a token; then `mini login`")
    };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(Err(refused("this needs a token: Authorization: Bearer mini_…")));
    };
    let bearer = value.to_str().ok().and_then(|v| {
        let (scheme, secret) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim().to_owned())
    });
    let Some(secret) = bearer else {
        return Ok(Err(refused("the Authorization header is not `Bearer mini_…`")));
    };
    let Some(id) = tokens::id_of(&secret) else {
        return Ok(Err(refused("that is no token: it was mistyped or cut")));
    };
    let row = api.core.store.read(move |c| store::token(c, &id)).await?;
    Ok(match row {
        Some(row) if tokens::matches(&secret, &row, clock::now()) => Ok(row),
        Some(row) if tokens::hash(&secret) == row.hash && row.revoked_at.is_none() => {
            Err(refused("the token has expired"))
        }
        _ => Err(refused("the token is unknown here, or was revoked")),
    })
}

fn note_use(api: &Api, token: &TokenRow) {
    if !api.guard.use_is_due(&token.id) {
        return;
    }
    let (store, id) = (api.core.store.clone(), token.id.clone());
    tokio::spawn(async move {
        let now = clock::now();
        if let Err(error) = store.write(move |tx| store::token_used(tx, &id, now)).await {
            tracing::debug!(%error, "a token's last use is not written down");
        }
    });
}

/// Accepts root and the data folder's owner only, as the kernel names them.
pub(crate) struct AdminListener {
    inner: UnixListener,
    owner: u32,
}

impl AdminListener {
    pub(crate) fn new(inner: UnixListener, owner: u32) -> Self {
        Self { inner, owner }
    }
}

impl axum::serve::Listener for AdminListener {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = axum::serve::Listener::accept(&mut self.inner).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == self.owner => {
                    return (stream, address);
                }
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "the admin socket is not for this user")
                }
                Err(error) => tracing::warn!(%error, "a caller of the admin socket is not known"),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_failure_in_a_minute_waits() {
        let guard = Guard::default();
        let count = |key: &str| Guard::count(&guard.failures, &key.to_owned(), FAILURES_A_MINUTE);
        for _ in 0..10 {
            assert_eq!(count("1.2.3.4"), Ok(()));
        }
        assert!(count("1.2.3.4").is_err_and(|seconds| (1..=61).contains(&seconds)));
        assert_eq!(count("1.2.3.5"), Ok(()), "others are not slowed");
    }
}
