//! Errors as they cross the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    pub code: ErrorCode,
    /// One sentence that names the object.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Names the request in the server's log.
    pub request_id: Option<String>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal),+ $(,)?) => {
        /// Every error code, each with one HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)+
            /// A code that this build does not know.
            #[serde(other)]
            Unknown,
        }

        impl ErrorCode {
            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)+
                    Self::Unknown => 500,
                }
            }
        }
    };
}

codes! {
    /// No token, or one that is unknown or revoked.
    Unauthorized = 401,
    /// A token whose time is over.
    TokenExpired = 401,
    /// The caller may not do that.
    Forbidden = 403,
    /// The token may do less than what was asked; the message says what it may.
    OutOfScope = 403,
    /// No such app, deployment, release, token or path.
    NotFound = 404,
    /// The path knows other methods.
    MethodNotAllowed = 405,
    /// The request's form or a value in it.
    InvalidRequest = 400,
    /// A name that breaks the rules.
    InvalidName = 422,
    /// An app of that name exists, or another app has the domain.
    NameTaken = 409,
    /// The object's state does not allow that now.
    Conflict = 409,
    /// The idempotency key was used for another request.
    IdempotencyConflict = 422,
    /// Larger than the limit that the message names.
    TooLarge = 413,
    /// The archive holds an entry that a source may not hold, or is no archive.
    SourceRefused = 422,
    /// There is nothing in the source that could be built or served.
    NothingToDeploy = 422,
    /// The app has no release yet.
    NothingDeployed = 409,
    /// The engine does not answer.
    EngineUnavailable = 503,
    /// The engine or registry refused the image.
    ImageUnavailable = 422,
    /// The data folder is full or cannot be written.
    StorageFull = 507,
    /// Too many requests, or failed authentications; see Retry-After.
    RateLimited = 429,
    /// The API answers over https only (said by the proxy's door).
    HttpsRequired = 403,
    /// The controller is away (said by the proxy's door).
    ControllerUnavailable = 503,
    /// This server's back-end cannot do that.
    Unsupported = 501,
    /// A fault of the server's own: its log has the detail under the request id.
    Internal = 500,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_value(self).ok();
        f.write_str(text.as_ref().and_then(|v| v.as_str()).unwrap_or("unknown"))
    }
}

impl fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_snake_case_and_new_ones_are_survived() {
        assert_eq!(ErrorCode::NameTaken.to_string(), "name_taken");
        assert_eq!(
            serde_json::from_str::<ErrorCode>("\"from_the_future\"").unwrap(),
            ErrorCode::Unknown
        );
    }
}
