//! How a try of a request fails, and what follows from it.

use mini_core::route::Host;

use crate::error_page::Code;
use crate::h1::Refusal;
use crate::table::InFlight;

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fail {
    Refused,
    ConnectTimeout,
    /// Closed before a byte of the answer; whether all of the request is still there.
    Closed {
        unsent: bool,
    },
    /// Closed within the answer.
    Broken,
    /// The answer is not HTTP.
    Bad,
    FirstByteLate,
    Idle,
    /// The instance left the table.
    Cut,
    /// The client's own body broke off, or the client is gone.
    ClientGone,
    /// The client's own body is malformed.
    ClientBad(Refusal),
    /// The request's body is larger than the app takes.
    TooLarge,
}

impl Fail {
    pub(crate) fn code(self) -> Code {
        match self {
            Fail::Refused => Code::H21,
            Fail::ConnectTimeout => Code::H19,
            Fail::Closed { .. } | Fail::Broken | Fail::Cut => Code::H13,
            Fail::Bad => Code::H17,
            Fail::FirstByteLate => Code::H12,
            Fail::Idle => Code::H15,
            Fail::ClientGone => Code::H26("its body broke off"),
            Fail::ClientBad(refusal) => refusal.into(),
            Fail::TooLarge => Code::BodyTooLarge,
        }
    }

    /// What the client is told, by whom it asked: what ails the door is the controller's being away.
    pub(crate) fn code_for(self, host: &Host) -> Code {
        match (self, host) {
            (Fail::FirstByteLate | Fail::Idle | Fail::ClientBad(_) | Fail::TooLarge, _)
            | (_, Host::Name(_)) => self.code(),
            (_, Host::Door) => Code::ControllerUnavailable,
        }
    }

    /// Whether another try may do better: nothing was sent, or the request may be repeated.
    pub(crate) fn may_repeat(self, repeatable: bool) -> bool {
        match self {
            Fail::Refused | Fail::Closed { unsent: true } => true,
            Fail::Closed { unsent: false } => repeatable,
            _ => false,
        }
    }

    /// Notes what it says about the instance.
    pub(crate) fn note(self, flight: &InFlight) {
        let (app, process) = (&flight.target.app, &flight.target.spec.process);
        tracing::debug!(fail = ?self, %app, process, "a try failed");
        match self {
            Fail::Refused => flight.target.shun(),
            Fail::Cut => flight.was_cut(),
            _ => {}
        }
    }
}
