//! The wire: what CLI and controller say to each other under `/v1`.
//!
//! JSON, plural nouns, snake_case, RFC 3339 times in UTC, units in names. Unknown fields are
//! ignored on both sides, so that either may be a little newer than the other; a break of that
//! raises [`API_LEVEL`].

pub mod app;
pub mod audit;
pub mod cert;
#[cfg(feature = "client")]
pub mod client;
pub mod deployment;
pub mod domain;
pub mod env;
pub mod error;
pub mod log;
pub mod metrics;
pub mod server;
pub mod session;
pub mod settings;
pub mod token;

pub use app::*;
pub use audit::*;
pub use cert::*;
pub use deployment::*;
pub use domain::*;
pub use env::*;
pub use error::*;
pub use log::*;
pub use metrics::*;
pub use server::*;
pub use settings::*;
pub use token::*;

/// What this build speaks. Sent by the server in [`LEVEL_HEADER`] with every answer.
pub const API_LEVEL: u32 = 1;
/// The oldest level that this build still understands on the other side.
pub const MIN_API_LEVEL: u32 = 1;
/// `mini-api-level: 1`, on every answer of the server and every request of the client.
pub const LEVEL_HEADER: &str = "mini-api-level";
/// `mini-version: 0.1.0`, beside it.
pub const VERSION_HEADER: &str = "mini-version";
/// The same key within a day returns the same deployment.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// How often a stream with nothing to say sends a heartbeat, in seconds.
pub const HEARTBEAT_SECONDS: u64 = 15;
/// The media types of an uploaded source.
pub const SOURCE_TYPES: [&str; 3] =
    ["application/gzip", "application/x-gzip", "application/octet-stream"];
/// The media type of streams: one JSON document a line.
pub const NDJSON: &str = "application/x-ndjson";
