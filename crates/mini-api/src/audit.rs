//! Who asked for what: every request that changes something, and every one that was refused.

use jiff::Timestamp;
use mini_core::id::TokenId;
use serde::{Deserialize, Serialize};

/// Entries at once by default, and at most.
pub const AUDIT_LISTED: u32 = 50;
pub const AUDIT_MAX_LISTED: u32 = 10_000;

/// `GET /v1/audit?app=&since=&n=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Audit {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    /// The token's name, or `admin socket (uid 0)`; none: no token that is known here.
    pub actor: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub token_id: Option<TokenId>,
    /// What was asked, such as `apps.destroy`.
    pub action: String,
    /// As the request named it: it may never have been there.
    pub app: Option<String>,
    /// What of it: a release, a domain, a token.
    pub target: Option<String>,
    /// The HTTP status that was answered. 0: not yet, or never, since the server died meanwhile; what was
    /// asked for may have been done.
    pub status: u16,
    /// Names the request in the logs.
    pub request_id: String,
    /// Where it came from, as the proxy told it; none on the admin socket.
    pub source: Option<String>,
}
