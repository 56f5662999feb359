//! A release: everything that is needed to run an app, immutable and numbered.
//!
//! The environment is part of a release too, but never stands here in the clear: the store keeps
//! it sealed and the driver hands it to the runtime.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{EnvName, ProcessType, VolumeName};
use crate::rules::Rules;

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
    /// The Procfile's `release`: runs once, before the release goes live.
    #[serde(default)]
    pub release_command: Option<Vec<String>>,
    /// What the user asked for; [`ReleaseSpec::recreates`] says what is done.
    #[serde(default)]
    pub strategy: Strategy,
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// How the front door treats requests, as `mini.toml` says; maintenance and pages are the
    /// app's own and stand elsewhere.
    #[serde(default)]
    pub rules: Rules,
    /// Of which config var's value the password of a user in `rules` is: made anew with each
    /// release of other config vars.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub password_vars: BTreeMap<String, EnvName>,
}

/// How one release takes the place of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The new one is healthy before the old one leaves.
    #[default]
    Rolling,
    /// The old one has stopped before the new one starts; requests are held meanwhile.
    Recreate,
}

/// A volume, and where an instance finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// As the app's owner calls it.
    pub volume: VolumeName,
    /// As the engine calls it.
    pub engine_name: String,
    /// An absolute path inside the container.
    pub path: String,
    /// Whether two releases may use it at once.
    #[serde(default)]
    pub shared: bool,
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
    /// The image's HEALTHCHECK, where no path is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CommandCheck>,
}

/// A command that must exit with 0 inside the instance: an image's HEALTHCHECK. It is run once a
/// second until it passes, then at its interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCheck {
    pub command: Vec<String>,
    pub interval_ms: u64,
    /// One that takes longer is killed, and failed.
    pub timeout_ms: u64,
    /// How long the image says that a start may take.
    pub start_period_ms: u64,
    /// So many failures in a row make an instance that was healthy unhealthy.
    pub retries: u32,
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
    /// The longest that the release command may run.
    #[serde(default = "release_ms")]
    pub release_ms: u64,
}

/// As long as a build may take (CONTRACTS, "Limits").
fn release_ms() -> u64 {
    1_800_000
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            boot_timeout_ms: 60_000,
            drain_ms: 30_000,
            grace_ms: 30_000,
            release_ms: release_ms(),
        }
    }
}

impl ReleaseSpec {
    /// How many instances of `process` this release wants; 0 for a type that it does not have.
    pub fn count(&self, process: &ProcessType) -> u32 {
        self.processes.get(process).map_or(0, |p| p.count)
    }

    /// Whether this release starts only when nothing of another runs: asked for, or since it has a
    /// volume that two must not write at once (CONTRACTS, "App contract").
    pub fn recreates(&self) -> bool {
        self.strategy == Strategy::Recreate || self.volumes.iter().any(|v| !v.shared)
    }
}
