//! Log lines as they cross the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One line of `GET /v1/apps/{app}/logs`.
///
/// Query: `n` (how many of the last lines, 100), `follow`, `source` (`app` or `mini`), `process`
/// (`web` or `web.1`), `since` (RFC 3339), `after` (the `number` of the last line seen).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LogItem {
    Line(LogLine),
    /// Lines are missing here: they fell out of the budget before they were read.
    Missed {
        bytes: u64,
    },
    Heartbeat,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    /// Its place in the app's stream: the next request's `after`.
    pub number: u64,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    /// `app` or `mini`.
    pub source: String,
    /// `web.1`, `router`, `deploy`, `build`, `api`.
    pub process: String,
    pub text: String,
}
