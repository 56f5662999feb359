//! Apps and what runs of them.

use jiff::Timestamp;
use mini_core::id::InstanceId;
use mini_core::name::{AppName, HostPattern, ProcessType};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct App {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: AppName,
    /// Where it is (or will be) reached, best first.
    pub urls: Vec<String>,
    /// Custom domains: host names, or `*.` before one.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub domains: Vec<HostPattern>,
    pub state: AppState,
    /// The live release: `v12`.
    pub release: Option<String>,
    /// The image that the live release runs, by reference or short id.
    pub image: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created_at: Timestamp,
    /// When the live release went live.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub deployed_at: Option<Timestamp>,
    /// Config vars changed with `stage`, waiting for the next deploy.
    pub env_staged: bool,
    /// Requests are answered with the maintenance page.
    #[serde(default)]
    pub maintenance: bool,
}

/// What a user would say the app is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AppState {
    /// Nothing was deployed yet.
    Empty,
    Running,
    Starting,
    /// It should run, and its process keeps dying.
    Crashed,
    Stopping,
    Stopped,
    Destroying,
    /// The engine does not answer, so nobody knows.
    Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewApp {
    /// Left out: the server makes one up, such as `blue-sky`.
    #[serde(default)]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Apps {
    pub apps: Vec<App>,
}

/// One instance of one process type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instance {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: InstanceId,
    /// `web.1`
    pub name: String,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub process: ProcessType,
    /// `v12`
    pub release: String,
    pub state: InstanceState,
    /// Since when it is in that state.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub since: Option<Timestamp>,
    /// Of the last exit.
    pub exit_code: Option<i64>,
    pub out_of_memory: bool,
    /// Restarts after a crash, since this controller started.
    pub restarts: u32,
    /// What it holds, without the pages of files that would be given back at once; missing if it
    /// does not run or nobody can tell.
    pub memory_bytes: Option<u64>,
    /// Of one processor, over the time since somebody last asked if that was 0.2 to 30 s ago, else
    /// over 0.2 s.
    pub cpu_percent: Option<f64>,
    /// Whether it is a one-off command (`mini run`) and no part of the formation.
    #[serde(default)]
    pub one_off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum InstanceState {
    Starting,
    Up,
    /// Answers no probe any more.
    Unhealthy,
    /// Exited, and will be started again.
    Crashed,
    /// Finishes its requests, then stops.
    Draining,
    Stopping,
    /// Has stopped for a release that cannot run beside it, and is started again if that one fails.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instances {
    pub instances: Vec<Instance>,
    /// False while the engine does not answer: the list is then what was last seen.
    pub known: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Release {
    /// `v12`
    pub name: String,
    pub number: u32,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created_at: Timestamp,
    /// `Deploy`, `Set GREETING`, `Rollback to v3`.
    pub description: String,
    /// The image by reference or short id.
    pub image: String,
    /// The source it was built from, in short.
    pub source: Option<String>,
    /// The token that made it.
    pub created_by: Option<String>,
    pub live: bool,
    /// Whether it ever served: a release whose rollout failed did not.
    pub status: ReleaseStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ReleaseStatus {
    /// Being rolled out.
    Pending,
    Live,
    /// Was live.
    Past,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Releases {
    /// Newest first.
    pub releases: Vec<Release>,
}

/// `POST /v1/apps/{app}/rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Rollback {
    /// `v12`; left out: the release that was live before.
    #[serde(default)]
    pub release: Option<String>,
    /// Builds its image again from the kept source if the engine has it no more.
    #[serde(default)]
    pub rebuild: bool,
}

/// How many instances of each process type an app wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Formation {
    pub counts: std::collections::BTreeMap<String, u32>,
}

/// Instances that an app may have in all, so that a rollout still finds addresses for as many.
pub const MAX_INSTANCES: u32 = 24;

/// `GET /v1/apps/{app}/releases/{release}`: all of one release, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReleaseInfo {
    pub release: Release,
    /// The engine's image id.
    pub image_id: String,
    /// The whole digest of the source.
    pub source: Option<String>,
    /// Where `web` listens.
    pub port: u16,
    pub health_path: Option<String>,
    /// The command of each process type; none is the image's own.
    pub processes: std::collections::BTreeMap<String, Option<Vec<String>>>,
    /// The command that ran once before it went live.
    #[serde(default)]
    pub release_command: Option<Vec<String>>,
    /// Of each process type that has any.
    #[serde(default)]
    pub limits: std::collections::BTreeMap<String, crate::Limits>,
    /// Where each volume is found.
    #[serde(default)]
    pub volumes: std::collections::BTreeMap<String, String>,
    /// How requests are treated, where `mini.toml` says it: `body_limit`, `allow`, …
    #[serde(default)]
    pub http: std::collections::BTreeMap<String, String>,
    /// `rolling` or `recreate`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub strategy: mini_core::release::Strategy,
    /// A fingerprint of each config var's value: the same for the same value within an app.
    pub env: std::collections::BTreeMap<String, String>,
}
