//! A release: everything that is needed to run an app, immutable and numbered.
//!
//! The environment is part of a release too, but never stands here in the clear: the store keeps
//! it sealed and the driver hands it to the runtime.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::ProcessType;

/// What `PORT` is when the image names none: CONTRACTS, "App contract".
pub const DEFAULT_PORT: u16 = 8080;

/// What runs, how much of it, and how it is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseSpec {
    /// The engine's id of the image (`sha256:…`): a tag may move, an id cannot.
    pub image: String,
    /// Where `web` listens inside its container.
    pub port: u16,
    pub processes: BTreeMap<ProcessType, ProcessSpec>,
    #[serde(default)]
    pub health: HealthSpec,
    #[serde(default)]
    pub timing: Timing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The words to run; `None` is the image's own entry point and command.
    pub command: Option<Vec<String>>,
    pub count: u32,
    #[serde(default)]
    pub limits: Limits,
}

/// Limits of one instance. `None` leaves the platform's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory and swap together, in bytes.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// How an instance shows that it is healthy. A TCP accept is always asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// A path that must answer 2xx or 3xx.
    pub path: Option<String>,
}

/// Deadlines of one app, in milliseconds. The defaults are CONTRACTS'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// From the start of an instance to its first healthy answer.
    pub boot_timeout_ms: u64,
    /// From leaving the routes to the end of the last request.
    pub drain_ms: u64,
    /// From SIGTERM to SIGKILL.
    pub grace_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self { boot_timeout_ms: 60_000, drain_ms: 30_000, grace_ms: 30_000 }
    }
}

impl ReleaseSpec {
    /// How many instances of `process` this release wants; 0 for a type that it does not have.
    pub fn count(&self, process: &ProcessType) -> u32 {
        self.processes.get(process).map_or(0, |p| p.count)
    }
}
