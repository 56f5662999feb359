//! Who may ask. Everything here is decided before a byte of a body is read.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use mini_api::{ErrorCode, Scope};
use mini_core::id::TokenId;
use mini_core::name::AppName;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::access::{self, Operation};
use super::audit::{self, Asked};
use super::error::{ApiError, RequestId, unread};
use super::{Api, Entrance, lasting};
use crate::clock::{self, timestamp};
use crate::store::{self, TokenRow};
use crate::tokens::{self, Judged};

/// Failed authentications a minute and address, requests a minute and token (CONTRACTS, "Limits").
const FAILURES_A_MINUTE: u32 = 10;
const REQUESTS_A_MINUTE: u32 = 600;
/// Refusals of nobody that is known, in all, that the audit trail takes in a minute.
const STRANGERS_A_MINUTE: u32 = 60;
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
    /// The hash of the secret that came: the token's own, or one of before a rotation.
    pub(super) secret: Option<Vec<u8>>,
}

impl Caller {
    pub(super) fn name(&self) -> Option<String> {
        self.token.as_ref().map(|t| t.name.clone())
    }

    /// Whether the app may be named to the caller.
    pub(super) fn may_see(&self, app: &AppName) -> bool {
        self.token.as_ref().is_none_or(|token| access::may_see(token, app))
    }

    /// Whether what belongs to no app, or to one that is gone, may be shown.
    pub(super) fn may_see_all(&self) -> bool {
        self.token
            .as_ref()
            .is_none_or(|token| token.scope != Scope::Unknown && token.apps.is_none())
    }

    /// Whether the values of config vars may be shown.
    pub(super) fn may_see_values(&self) -> bool {
        self.token.as_ref().is_none_or(|token| token.scope == Scope::Admin)
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
    strangers: Mutex<HashMap<(), Counter>>,
    /// A token that was made later than it is by our clock.
    of_tomorrow: Mutex<Option<TokenRow>>,
    /// Counts up when a token was revoked or rotated.
    changes: watch::Sender<u64>,
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

    /// Whether one more refusal of nobody that is known is written down.
    pub(super) fn may_note_a_stranger(&self) -> bool {
        Self::count(&self.strangers, &(), STRANGERS_A_MINUTE).is_ok()
    }

    /// Keeps in mind that the clock is before a token's creation.
    fn check_clock(&self, token: &TokenRow) {
        if clock::now() < token.created_at {
            let mut of_tomorrow = self.of_tomorrow.lock().unwrap_or_else(PoisonError::into_inner);
            *of_tomorrow = Some(token.clone());
        }
    }

    /// What is wrong with the clock, as the tokens tell it. Nobody is locked out for it: a token
    /// that was made is good, and its expiry is judged by the clock as it stands.
    pub(super) fn clock_problem(&self) -> Option<String> {
        let mut of_tomorrow = self.of_tomorrow.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        // It has been set right.
        of_tomorrow.take_if(|token| token.created_at <= now);
        of_tomorrow.as_ref().map(|token| {
            format!(
                "the server's clock says {}, which is before the token {:?} was made ({}): set the \
                 clock, since tokens and certificates expire by it",
                timestamp(now),
                token.name,
                timestamp(token.created_at)
            )
        })
    }

    /// A token was revoked or rotated: what was opened with it ends.
    pub(super) fn tokens_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    pub(super) fn tokens_changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
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

/// Lets a request through, with its caller, or refuses it: 401, 403, 404 or 429. What changes
/// something, and what is refused, is written into the audit trail.
pub(super) async fn check(
    State(api): State<Api>,
    path: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let operation = access::operation(request.method(), path.as_str());
    let (app, target) = named(&params);
    let mut asked = asked(&api, &request, operation, app.clone(), target);
    let caller = match caller(&api, request.headers()).await {
        Ok(caller) => caller,
        Err(Refused { error, token }) => {
            if let Some(token) = token {
                by(&mut asked, &token);
            }
            if error.status().as_u16() == 401 {
                audit::refused(&api, asked, &error);
            }
            return unread(error, &request);
        }
    };
    if let Some(token) = &caller.token {
        by(&mut asked, token);
        // A name that is none is the handler's to refuse: it reaches no app.
        let app: Option<AppName> = app.and_then(|app| app.parse().ok());
        if let Err(error) = access::decide(token, operation, app.as_ref()) {
            audit::refused(&api, asked, &error);
            return unread(error, &request);
        }
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    request.extensions_mut().insert(caller.clone());
    if !changes {
        let answer = next.run(request).await;
        return lasting::while_good(&api, caller, answer);
    }
    // A task of its own: a client that goes away ends neither the change half done nor its trace.
    let change = tokio::spawn(async move {
        audit::change(&api, asked, operation.on_engine(), next.run(request)).await
    });
    match change.await {
        Ok(answer) => answer,
        Err(error) => ApiError::internal(error).into_response(),
    }
}

/// The app of the path, and what else it names.
fn named(params: &RawPathParams) -> (Option<String>, Option<String>) {
    let app = params.iter().find(|(key, _)| *key == "app").map(|(_, value)| value.to_owned());
    let others: Vec<&str> =
        params.iter().filter(|(key, _)| *key != "app").map(|(_, value)| value).collect();
    (app, (!others.is_empty()).then(|| others.join(" ")))
}

fn asked(
    api: &Api,
    request: &Request,
    operation: Operation,
    app: Option<String>,
    target: Option<String>,
) -> Asked {
    let extensions = request.extensions();
    let actor = (api.entrance == Entrance::Admin).then(|| {
        match extensions.get::<ConnectInfo<Peer>>().and_then(|peer| peer.0.uid) {
            Some(uid) => format!("admin socket (uid {uid})"),
            None => "admin socket".to_owned(),
        }
    });
    Asked {
        actor,
        token_id: None,
        action: operation.name,
        app,
        target,
        request_id: extensions.get::<RequestId>().map_or_else(String::new, |id| id.0.clone()),
        source: audit::source(request.headers()).filter(|_| api.entrance == Entrance::Door),
    }
}

fn by(asked: &mut Asked, token: &TokenRow) {
    asked.actor = Some(token.name.clone());
    asked.token_id = Some(token.id.clone());
}

/// A refusal, and whose token it was, if the secret was right.
pub(super) struct Refused {
    error: ApiError,
    token: Option<TokenRow>,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { error, token: None }
    }
}

async fn caller(api: &Api, headers: &HeaderMap) -> Result<Caller, Refused> {
    if api.entrance == Entrance::Admin {
        return Ok(Caller { token: None, secret: None });
    }
    // A good token is never refused for the failures of others at the same address.
    match good_token(api, headers).await? {
        Ok((token, secret)) => {
            Guard::count(&api.guard.requests, &token.id, REQUESTS_A_MINUTE).map_err(|seconds| {
                let message =
                    format!("this token asked more than {REQUESTS_A_MINUTE} times in a minute");
                ApiError::new(ErrorCode::RateLimited, message)
                    .hint(format!("try again in {seconds} s"))
                    .retry_after(seconds)
            })?;
            api.guard.check_clock(&token);
            note_use(api, &token);
            if could_be_read(headers) {
                note_seen_over_http(api, &token);
            }
            Ok(Caller { token: Some(token), secret: Some(secret) })
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
                .retry_after(seconds)
                .into()),
            }
        }
    }
}

/// A token, and the hash of the secret that came for it.
pub(super) type Known = (TokenRow, Vec<u8>);

/// The request's token; the inner error is a refusal, the outer one ours.
pub(super) async fn good_token(
    api: &Api,
    headers: &HeaderMap,
) -> Result<Result<Known, Refused>, ApiError> {
    let refused = |message: &str| {
        ApiError::new(ErrorCode::Unauthorized, message)
            .hint("`minid token create --name NAME` on the server makes a token; then `mini login`")
    };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(Err(refused("this needs a token: Authorization: Bearer mini_…").into()));
    };
    let bearer = value.to_str().ok().and_then(|v| {
        let (scheme, secret) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim().to_owned())
    });
    let Some(secret) = bearer else {
        return Ok(Err(refused("the Authorization header is not `Bearer mini_…`").into()));
    };
    let Some(id) = tokens::id_of(&secret) else {
        return Ok(Err(refused("that is no token: it was mistyped or cut").into()));
    };
    let unknown = || refused("the token is unknown here, or was revoked");
    let Some(row) = api.core.store.read(move |c| store::token(c, &id)).await? else {
        return Ok(Err(unknown().into()));
    };
    let now = clock::now();
    let hash = tokens::hash(&secret);
    let error = match tokens::judge(&hash, &row, now) {
        Judged::Good => return Ok(Ok((row, hash))),
        Judged::Unknown => return Ok(Err(unknown().into())),
        Judged::Revoked => unknown(),
        Judged::Expired(at) => ApiError::new(
            ErrorCode::TokenExpired,
            format!(
                "the token {:?} expired {} (the server's clock says {})",
                row.name,
                timestamp(at),
                timestamp(now)
            ),
        )
        .hint(format!(
            "`mini tokens rotate {0}` with an admin's token gives it a new secret; on the server, \
             `minid token create --name {0}` makes a token",
            row.name
        )),
        Judged::Rotated(at) => ApiError::new(
            ErrorCode::TokenExpired,
            format!(
                "the token {:?} has another secret by now; this one ended {}",
                row.name,
                timestamp(at)
            ),
        )
        .hint("use the secret that `mini tokens rotate` printed"),
    };
    Ok(Err(Refused { error, token: Some(row) }))
}

/// Whether the request came over plain http from another machine, by what the proxy says of it,
/// which is the only one that speaks here and lets no client speak for it.
pub(super) fn could_be_read(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let far = |from: &str| {
        let mut hops = from.split(',').map(|hop| hop.trim().parse::<IpAddr>());
        hops.any(|hop| hop.is_ok_and(|ip| !ip.to_canonical().is_loopback()))
    };
    text("x-forwarded-proto") == Some("http") && text("x-forwarded-for").is_some_and(far)
}

/// Writes that down, the first time.
pub(super) fn note_seen_over_http(api: &Api, token: &TokenRow) {
    if token.seen_over_http_at.is_some() {
        return;
    }
    tracing::warn!(
        token.name,
        "a token came over plain http from another machine, where it could be read on the way"
    );
    let (store, id) = (api.core.store.clone(), token.id.clone());
    tokio::spawn(async move {
        let now = clock::now();
        if let Err(error) = store.write(move |tx| store::token_seen_over_http(tx, &id, now)).await {
            tracing::warn!(%error, "that a token was seen over http is not written down");
        }
    });
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

/// Who is at the other end of the admin socket, as the kernel names them.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, AdminListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, AdminListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
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
    fn only_plain_http_from_elsewhere_can_be_read() {
        let came = |proto: &'static str, from: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-proto", proto.parse().unwrap());
            headers.insert("x-forwarded-for", from.parse().unwrap());
            could_be_read(&headers)
        };
        assert!(came("http", "203.0.113.7") && came("http", "203.0.113.7, 127.0.0.1"));
        assert!(came("http", "2001:db8::1"));
        for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(!came("http", near), "{near}");
        }
        assert!(!came("https", "203.0.113.7"));
        assert!(!could_be_read(&HeaderMap::new()), "not through the proxy");
    }

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
