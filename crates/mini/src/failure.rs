//! How a command ends when it does not end well: a message, a hint, and the exit code.

use std::fmt;
use std::io;

use mini_api::client::{ClientError, Fault};
use mini_api::{ErrorBody, ErrorCode};
use mini_core::name::AppName;

/// What a failure means to a script: CONTRACTS, "CLI", exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Failed,
    Usage,
    NotAuthorised,
    NotFound,
    Conflict,
    Unreachable,
    Interrupted,
    /// Nobody reads our output any more; as if by SIGPIPE, without a word.
    BrokenPipe,
    /// A remote command ended with this code, and so do we.
    Remote(u8),
}

impl Kind {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotAuthorised => 3,
            Self::NotFound => 4,
            Self::Conflict => 5,
            Self::Unreachable => 6,
            Self::Interrupted => 130,
            Self::BrokenPipe => 128 + 13,
            Self::Remote(code) => code,
        }
    }
}

/// Printed once, by `main`: `error: …`, `hint: …`, then `note: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) note: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, note: None }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// `what` says what was tried: `mini.toml cannot be read`.
    pub(crate) fn io(what: impl fmt::Display, e: &io::Error) -> Self {
        Self::failed(format!("{what}: {e}"))
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the next command if the app was not found and the server named none.
    #[must_use]
    pub(crate) fn about(mut self, app: &AppName) -> Self {
        if self.kind == Kind::NotFound && self.hint.is_none() {
            self.hint = Some(format!("`mini apps` lists the apps; is {app} on another server?"));
        }
        self
    }
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        let message = e.to_string();
        match e {
            ClientError::Api(body, status) => refused(*body, status),
            ClientError::Unreachable { .. } => Self::new(Kind::Unreachable, message)
                .hint("is the server running? `mini config show` says which one is used"),
            ClientError::Untrusted { address, seen, pinned, .. } => {
                let hint = match pinned {
                    None => format!(
                        "if `minid status` on the server names that fingerprint too, pin it with \
                         `mini login {address} --fingerprint {seen}`; or use a name of the server \
                         that has a public certificate"
                    ),
                    Some(_) => format!(
                        "`minid status` on the server names the right one: if it is the new one, \
                         pin it with `mini login {address} --fingerprint …`; if not, somebody \
                         stands between you and the server"
                    ),
                };
                Self::new(Kind::Unreachable, message).hint(hint)
            }
            ClientError::Protocol { fault, .. } => {
                let hint = match fault {
                    Fault::TooNew { .. } => "update this client",
                    Fault::TooOld { .. } => "update the server, or use an older client",
                    Fault::NotMini(_) => {
                        "check the address; `mini config set-host URL` sets another"
                    }
                    Fault::NotTheDoor(_) => {
                        "use the server's IP address, its domain, or mini.DOMAIN"
                    }
                    Fault::Garbled(_) => "`mini version` compares the versions of both sides",
                };
                Self::new(Kind::Unreachable, message).hint(hint)
            }
            ClientError::Body(_) => Self::failed(message),
        }
    }
}

fn refused(body: ErrorBody, status: u16) -> Failure {
    let kind = match body.code {
        ErrorCode::Unauthorized
        | ErrorCode::TokenExpired
        | ErrorCode::Forbidden
        | ErrorCode::OutOfScope
        | ErrorCode::HttpsRequired => Kind::NotAuthorised,
        ErrorCode::NotFound => Kind::NotFound,
        ErrorCode::NameTaken
        | ErrorCode::Conflict
        | ErrorCode::NothingDeployed
        | ErrorCode::IdempotencyConflict => Kind::Conflict,
        ErrorCode::ControllerUnavailable => Kind::Unreachable,
        ErrorCode::Unknown => match status {
            401 | 403 => Kind::NotAuthorised,
            404 => Kind::NotFound,
            409 => Kind::Conflict,
            _ => Kind::Failed,
        },
        _ => Kind::Failed,
    };
    let hint = match body.code {
        ErrorCode::Unauthorized => Some("`mini login` stores a token for this server".to_owned()),
        ErrorCode::Internal => body.hint.or_else(|| {
            let id = body.request_id.as_ref()?;
            Some(format!("the server's log has the detail under request {id}"))
        }),
        _ => body.hint,
    };
    Failure { kind, message: body.message, hint, note: None }
}
