//! The server itself.

use jiff::Timestamp;
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
    /// The last time that the engine came back and instances were started again, since this
    /// controller started.
    pub recovery: Option<Recovery>,
}

/// How everything came back after the engine, or the machine, was away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Recovery {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    /// Those that should run.
    pub instances: u64,
    pub instances_up: u64,
    pub apps: u64,
    pub apps_up: u64,
    /// From the engine's answer until the last one was up, or was waited for no longer.
    pub took_ms: u64,
    /// The same in one line.
    pub text: String,
}
