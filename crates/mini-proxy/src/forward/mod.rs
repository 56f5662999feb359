//! From a request to its answer. hyper speaks HTTP/1.1 on both sides; what it needs to be told
//! stands in this folder alone, so that another forwarder can take its place.

pub(crate) mod body;
pub(crate) mod client;
mod exchange;
mod hold;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use mini_core::route::{Host, read_host};

use crate::error_page::{Code, answer};
use crate::forward::body::{Decision, OutBody, ReqBody};
use crate::forward::client::{Client, RequestGuard};
use crate::forward::exchange::{Answer, Deadlines, Fail, Failed, connection, exchange};
use crate::framing::Refusal;
use crate::headers::{self, BadHead};
use crate::shared::Shared;
use crate::table::{InFlight, TargetState};
use crate::upgrade;
use crate::upstream::{Endpoint, IDLE_ANY, IDLE_UNREPEATABLE};

/// Answers one request.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Response<OutBody> {
    let (guard, refusal) = client.begin(&shared);
    let id = headers::request_id(request.headers());
    // What an error page needs, before the head goes on its way.
    let mut accept = HeaderMap::new();
    for value in request.headers().get_all(header::ACCEPT) {
        accept.append(header::ACCEPT, value.clone());
    }
    let mut guard = Some(guard);
    let result = match check(&shared, &request, refusal) {
        Ok(host) => forward(&shared, &client, &mut guard, request, host, &id).await,
        Err(code) => Err(code),
    };
    let mut response = result.unwrap_or_else(|code| {
        let (error, status) = (code.name(), code.status().as_u16());
        tracing::debug!(error, status, request_id = ?id, "the router answers by itself");
        answer(code, &accept, &id)
    });
    if shared.draining.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if refusal.is_some() {
        // Where the next request begins is not known.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(guard) = guard {
        response.body_mut().attach(guard);
    }
    response
}

fn check(
    shared: &Shared,
    request: &Request<Incoming>,
    refusal: Option<Refusal>,
) -> Result<Host, Code> {
    match refusal {
        Some(Refusal::TooLarge) => return Err(Code::HeadTooLarge),
        Some(refusal) => return Err(Code::H26(refusal.why())),
        None => {}
    }
    let host = headers::host_of(request.method(), request.uri(), request.headers());
    let host = host.map_err(|e| match e {
        BadHead::TooManyFields => Code::HeadTooLarge,
        BadHead::Because(why) => Code::H26(why),
    })?;
    read_host(host, &shared.domains)
        .map_err(|_| Code::H26("its Host header is not a host name or address"))
}

/// Makes the upstream's request out of the client's and sees it through.
async fn forward(
    shared: &Arc<Shared>,
    client: &Arc<Client>,
    guard: &mut Option<RequestGuard>,
    mut request: Request<Incoming>,
    host: Host,
    id: &HeaderValue,
) -> Result<Response<OutBody>, Code> {
    let protocol = headers::upgrade_of(request.version(), request.headers());
    let on_upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    let chunked = !body.is_end_stream() && body.size_hint().exact().is_none();
    headers::for_upstream(&mut parts.headers, client.arrival, id, protocol.as_ref(), chunked);
    parts.version = http::Version::HTTP_11;
    parts.uri = origin_form(&parts.uri)?;
    parts.extensions.clear();

    let expects = parts.headers.get(header::EXPECT);
    let expects = expects.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let decision = (expects && !body.is_end_stream()).then(Decision::default);
    let repeatable = body.is_end_stream() && repeatable(&parts.method);
    let job = Job {
        shared,
        spare: repeatable.then(|| parts.clone()),
        request: Request::from_parts(parts, ReqBody::new(body, decision.as_ref())),
        decision,
    };
    let (done, limit) = match host {
        Host::Door => (job.through_door().await?, shared.timeouts.upgraded_idle),
        Host::Name(name) => (job.at_app(&name).await?, shared.timeouts.body_idle),
    };
    client.flows(limit);
    if done.answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(shared, client, guard, done, on_upgrade);
    }
    let Done { answer: Answer { response, conn }, endpoint, counted } = done;
    let (mut parts, body) = response.into_parts();
    headers::for_client(&mut parts.headers);
    parts.extensions.clear();
    Ok(Response::from_parts(parts, OutBody::stream(body, endpoint, conn, counted)))
}

/// Passes a 101 on and lets the two ends talk; only if the client asked for it.
fn switch(
    shared: &Arc<Shared>,
    client: &Arc<Client>,
    guard: &mut Option<RequestGuard>,
    done: Done,
    on_upgrade: Option<OnUpgrade>,
) -> Result<Response<OutBody>, Code> {
    let Done { answer: Answer { mut response, conn }, endpoint, counted } = done;
    let (Some(from_client), Some(guard)) = (on_upgrade, guard.take()) else {
        return Err(Code::H17);
    };
    let protocol = response.headers().get(header::UPGRADE).cloned();
    let from_upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    headers::for_client(&mut parts.headers);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        parts.headers.insert(header::UPGRADE, protocol);
    }
    parts.extensions.clear();
    client.switch_to_raw();
    upgrade::spawn(shared, from_client, from_upstream, endpoint, conn, guard, counted);
    Ok(Response::from_parts(parts, OutBody::full(bytes::Bytes::new())))
}

/// The target as an origin server reads it (RFC 9112 section 3.2.1).
fn origin_form(uri: &Uri) -> Result<Uri, Code> {
    match uri.path_and_query() {
        Some(path) if path.as_str().starts_with('/') || path == "*" => {
            Uri::try_from(path.as_str()).map_err(|_| Code::H26("its target is not a path"))
        }
        // `http://host?query` and `http://host`.
        Some(path) if uri.authority().is_some() => {
            Uri::try_from(format!("/{path}")).map_err(|_| Code::H26("its target is not a path"))
        }
        _ => Err(Code::H26("its target is not a path")),
    }
}

/// Whether a request without a body may be sent twice (RFC 9110 section 9.2.2).
fn repeatable(method: &Method) -> bool {
    method.is_idempotent()
}

/// A request that is ready to be sent.
struct Job<'a> {
    shared: &'a Arc<Shared>,
    request: Request<ReqBody>,
    /// The head again, if the request may be repeated after it was sent.
    spare: Option<Parts>,
    decision: Option<Decision>,
}

/// A request that got an answer.
struct Done {
    answer: Answer,
    endpoint: Endpoint,
    counted: Option<Arc<InFlight>>,
}

impl Job<'_> {
    /// Sends it to an instance of the app; a connection that is dead is replaced once.
    async fn at_app(mut self, host: &str) -> Result<Done, Code> {
        let shared = self.shared;
        let timeouts = &shared.timeouts;
        let deadlines = Deadlines {
            connect: timeouts.connect,
            first_byte: timeouts.first_byte,
            idle: timeouts.body_idle,
        };
        let mut dead: Option<Arc<TargetState>> = None;
        loop {
            let flight = hold::pick(shared, host, dead.as_deref()).await?;
            let (target, counted) = (Arc::clone(&flight.target), Arc::new(flight));
            self.request.body_mut().counted = Some(Arc::clone(&counted));
            let first = dead.is_none();
            match self.attempt(&target.endpoint, first, deadlines).await {
                Ok(answer) => {
                    let endpoint = target.endpoint.clone();
                    return Ok(Done { answer, endpoint, counted: Some(counted) });
                }
                Err((fail, again)) => {
                    let (app, process) = (&target.app, &target.spec.process);
                    tracing::debug!(?fail, %app, process, first, "a try failed");
                    match fail {
                        Fail::Refused => target.shun(),
                        Fail::Cut => drop(shared.counters.cut.fetch_add(1, SeqCst)),
                        _ => {}
                    }
                    match again {
                        Some(job) if first => self = job,
                        _ => return Err(fail.code()),
                    }
                }
            }
            dead = Some(target);
        }
    }

    /// Sends it to the controller.
    async fn through_door(mut self) -> Result<Done, Code> {
        let hour = self.shared.timeouts.upgraded_idle;
        let connect = self.shared.timeouts.connect;
        let deadlines = Deadlines { connect, first_byte: hour, idle: hour };
        let endpoint = self.shared.door.clone();
        let mut first = true;
        loop {
            match self.attempt(&endpoint, first, deadlines).await {
                Ok(answer) => return Ok(Done { answer, endpoint, counted: None }),
                Err((_, Some(job))) if first => self = job,
                Err((Fail::ClientGone | Fail::Idle, _)) => return Err(Code::H15),
                Err((Fail::FirstByteLate, _)) => return Err(Code::H12),
                Err(_) => return Err(Code::ControllerUnavailable),
            }
            first = false;
        }
    }

    /// One try. What failed comes back with the job if it may be tried once more.
    ///
    /// The first try may use an idle connection, the second never does.
    async fn attempt(
        self,
        endpoint: &Endpoint,
        first: bool,
        deadlines: Deadlines,
    ) -> Result<Answer, (Fail, Option<Self>)> {
        let max_idle = if self.spare.is_some() { IDLE_ANY } else { IDLE_UNREPEATABLE };
        let max_idle = first.then_some(max_idle);
        let conn = match connection(endpoint, max_idle, deadlines.connect).await {
            Ok(conn) => conn,
            Err(Fail::Refused) => return Err((Fail::Refused, Some(self))),
            Err(fail) => return Err((fail, None)),
        };
        let Self { shared, request, mut spare, decision } = self;
        let result = exchange(endpoint, conn, request, deadlines, decision.as_ref()).await;
        if let (Ok(_), Some(decision)) = (&result, &decision) {
            decision.forget();
        }
        result.map_err(|Failed { fail, unsent }| {
            let again = unsent.or_else(|| {
                let parts = spare.take_if(|_| fail == Fail::Closed)?;
                spare = Some(parts.clone());
                Some(Request::from_parts(parts, ReqBody::none()))
            });
            (fail, again.map(|request| Self { shared, request, spare, decision }))
        })
    }
}
