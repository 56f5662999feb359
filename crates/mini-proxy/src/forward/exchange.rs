//! One try of one request at one upstream.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};

use crate::clock;
use crate::error_page::Code;
use crate::forward::body::{Decision, Progress, ReqBody};
use crate::upstream::{Conn, Endpoint, NoConnection};

/// The deadlines of one try.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) connect: Duration,
    /// From the last byte of the request passed on to the first of the answer.
    pub(crate) first_byte: Duration,
    /// While the request's body flows.
    pub(crate) idle: Duration,
}

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    Refused,
    ConnectTimeout,
    /// Closed before a byte of the answer.
    Closed,
    /// Closed within the answer's head.
    Broken,
    /// The answer is not HTTP.
    Bad,
    FirstByteLate,
    Idle,
    /// The instance left the table.
    Cut,
    /// The client's own body broke off.
    ClientGone,
}

impl Fail {
    pub(crate) fn code(self) -> Code {
        match self {
            Fail::Refused => Code::H21,
            Fail::ConnectTimeout => Code::H19,
            Fail::Closed | Fail::Broken | Fail::Cut => Code::H13,
            Fail::Bad => Code::H17,
            Fail::FirstByteLate => Code::H12,
            Fail::Idle => Code::H15,
            Fail::ClientGone => Code::H26("its body broke off"),
        }
    }
}

pub(crate) struct Failed {
    pub(crate) fail: Fail,
    /// The request, if nothing of it was sent.
    pub(crate) unsent: Option<Request<ReqBody>>,
}

pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) conn: Conn,
}

/// Takes an idle connection that is younger than `max_idle`, or makes a new one.
pub(crate) async fn connection(
    endpoint: &Endpoint,
    max_idle: Option<Duration>,
    connect: Duration,
) -> Result<Conn, Fail> {
    if let Some(conn) = max_idle.and_then(|max| endpoint.take(max)) {
        return Ok(conn);
    }
    let connected = tokio::select! {
        connected = endpoint.connect(connect) => connected,
        () = endpoint.cut.cancelled() => return Err(Fail::Refused),
    };
    connected.map_err(|e| match e {
        NoConnection::Timeout => Fail::ConnectTimeout,
        NoConnection::Refused(error) => {
            tracing::debug!(%error, "an upstream refused");
            Fail::Refused
        }
    })
}

/// Sends `request` over `conn` and waits for the head of the answer.
pub(crate) async fn exchange(
    endpoint: &Endpoint,
    mut conn: Conn,
    mut request: Request<ReqBody>,
    deadlines: Deadlines,
    decision: Option<&Decision>,
) -> Result<Answer, Failed> {
    if let Some(decision) = decision {
        let decision = decision.clone();
        hyper::ext::on_informational(&mut request, move |r| {
            if r.status() == StatusCode::CONTINUE {
                decision.send();
            }
        });
    }
    let progress = Arc::clone(&request.body().progress);
    let heard = conn.heard();
    let sent = conn.sender.try_send_request(request);
    let lost = |fail| Failed { fail, unsent: None };
    let mut error = tokio::select! {
        result = sent => match result {
            Ok(response) => return Ok(Answer { response, conn }),
            Err(error) => error,
        },
        fail = too_late(&progress, deadlines, decision) => return Err(lost(fail)),
        () = endpoint.cut.cancelled() => return Err(lost(Fail::Cut)),
    };
    if let Some(request) = error.take_message() {
        return Err(Failed { fail: Fail::Closed, unsent: Some(request) });
    }
    let error = error.into_error();
    tracing::debug!(%error, cause = ?error.source(), "an upstream failed");
    Err(lost(if error.is_parse() {
        Fail::Bad
    } else if error.is_user() {
        Fail::ClientGone
    } else if conn.heard() == heard {
        Fail::Closed
    } else {
        Fail::Broken
    }))
}

/// Ends when the answer is too late.
async fn too_late(progress: &Progress, deadlines: Deadlines, decision: Option<&Decision>) -> Fail {
    // A client that waits for 100 Continue must not wait for ever for an upstream that does not
    // know it (RFC 9110 section 10.1.1).
    let give_up_waiting = Instant::now() + Duration::from_secs(1);
    if let Some(decision) = decision {
        tokio::select! {
            () = sleep_until(give_up_waiting) => decision.send(),
            () = progress.finished.notified() => {}
        }
    }
    loop {
        let (last, done) = progress.get();
        let limit = if done { deadlines.first_byte } else { deadlines.idle };
        let quiet = clock::ms().saturating_sub(last);
        let Some(left) = clock::millis(limit).checked_sub(quiet) else {
            return if done { Fail::FirstByteLate } else { Fail::Idle };
        };
        let wake = Instant::now() + Duration::from_millis(left + 1);
        tokio::select! {
            () = sleep_until(wake) => {}
            () = progress.finished.notified() => {}
        }
    }
}
