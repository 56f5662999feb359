//! The server itself.

use serde::{Deserialize, Serialize};

/// `GET /v1/health`: the one answer that needs no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Health {
    /// `ok`, or `degraded` while the engine or the disk is away.
    pub status: String,
    pub version: String,
    pub api_level: u32,
}

/// `GET /v1/server`: also what `login` and `config set-host` check a token with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Server {
    pub id: String,
    pub version: String,
    pub api_level: u32,
    /// The platform's own domains.
    pub domains: Vec<String>,
    /// The engine's version; none while it does not answer.
    pub engine: Option<String>,
    /// The name of the token that asked; none on the machine's own admin socket.
    pub token: Option<String>,
    /// What is wrong now, in words, each with what to do.
    pub problems: Vec<String>,
}
