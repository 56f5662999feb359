//! API tokens.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use mini_core::id::TokenId;
use mini_core::name::AppName;
use serde::{Deserialize, Serialize};

/// What a token may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Scope {
    /// Everything.
    #[default]
    Admin,
    /// Deploy the named apps, roll them back, and read all of them but the values of config vars.
    Deploy,
    /// Read: all apps or the named ones, without the values of config vars.
    Read,
    /// A scope that this build does not know: it may nothing.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::Deploy => "deploy",
            Self::Read => "read",
            Self::Unknown => "unknown",
        })
    }
}

/// Not one of the scopes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: admin, deploy or read")]
pub struct BadScope(pub String);

impl FromStr for Scope {
    type Err = BadScope;

    fn from_str(text: &str) -> Result<Self, BadScope> {
        match text {
            "admin" => Ok(Self::Admin),
            "deploy" => Ok(Self::Deploy),
            "read" => Ok(Self::Read),
            _ => Err(BadScope(text.to_owned())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: TokenId,
    pub name: String,
    pub scope: Scope,
    /// The apps that it is for; none: all of them. Empty when those that it was for are gone.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<String>>))]
    pub apps: Option<Vec<AppName>>,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub expires_at: Option<Timestamp>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub last_used_at: Option<Timestamp>,
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub rotated_at: Option<Timestamp>,
    /// Until when the secret from before the rotation works on.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub old_secret_until: Option<Timestamp>,
    /// When it first came over plain http from another machine: from then on it may be known to
    /// others, and should be rotated or revoked.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub seen_over_http_at: Option<Timestamp>,
    /// The token that this request came with.
    pub current: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewToken {
    pub name: String,
    /// Left out: `admin`.
    #[serde(default)]
    pub scope: Scope,
    /// Needed for `deploy`, allowed for `read`, where none means all.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub apps: Vec<AppName>,
    /// Lives that long; left out: until revoked.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// `POST /v1/tokens/{id}/rotate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rotate {
    /// How long the old secret works on; left out: not at all.
    #[serde(default)]
    pub overlap_seconds: u64,
    /// Lives that long from now; left out: as long as it was made for.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
}

/// The only time that the secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedToken {
    pub token: Token,
    /// `mini_…`
    pub secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Tokens {
    pub tokens: Vec<Token>,
}
