//! What can go wrong between a client and its server.

use std::io;

use super::tls::Fingerprint;
use crate::{API_LEVEL, ErrorBody, ErrorCode, MIN_API_LEVEL};

/// Why a call failed. `Display` is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused, in its own words.
    #[error("{}", .0.message)]
    Api(Box<ErrorBody>, u16),
    /// No connection, or it was lost; nothing is known about the request unless `sent` is false.
    #[error("cannot reach {address}: {why}")]
    Unreachable { address: String, why: String, sent: bool },
    /// The server's certificate is not believed; nothing was sent.
    #[error("{}", untrusted(.address, .seen, *.pinned, .why))]
    Untrusted { address: String, seen: Fingerprint, pinned: Option<Fingerprint>, why: String },
    /// Something answered, but not as a mini server that this build understands.
    #[error("{address} {fault}")]
    Protocol { address: String, fault: Fault },
    /// The body of an upload could not be read to its end.
    #[error("{0}")]
    Body(#[source] io::Error),
}

/// What was wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is not a mini server: {0}")]
    NotMini(String),
    /// The router's own page: the host name is not one of the door's.
    #[error("is a mini platform, but that name is not its API's (the router said {0})")]
    NotTheDoor(String),
    #[error(
        "runs mini {version}, which is too new for this client (API level {level}, this client \
         speaks up to {API_LEVEL})"
    )]
    TooNew { level: u32, version: String },
    #[error(
        "runs mini {version}, which is too old for this client (API level {level}, this client \
         needs {MIN_API_LEVEL} or newer)"
    )]
    TooOld { level: u32, version: String },
    #[error("sent an answer that cannot be read: {0}")]
    Garbled(String),
}

fn untrusted(address: &str, seen: &Fingerprint, pinned: Option<Fingerprint>, why: &str) -> String {
    match pinned {
        None => format!(
            "the certificate of {address} is not trusted: {why}; its SHA-256 fingerprint is {seen}"
        ),
        Some(pinned) => format!(
            "the certificate of {address} is not the pinned one, nor trusted otherwise ({why}): \
             its SHA-256 fingerprint is {seen}, pinned is {pinned}"
        ),
    }
}

impl ClientError {
    /// The server's error code, if the server refused.
    pub fn code(&self) -> Option<ErrorCode> {
        if let Self::Api(body, _) = self { Some(body.code) } else { None }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api(_, 404))
    }

    /// Whether the same request may find the server back a little later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Api(_, 503))
    }

    /// Whether nothing of the request can have reached the server.
    pub(crate) fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreachable { sent: false, .. })
    }
}
