//! Deployments: long work that can be followed, and resumed.

use jiff::Timestamp;
use mini_core::cause::Cause;
use mini_core::id::DeploymentId;
use mini_core::name::AppName;
use mini_core::release::Strategy;
use mini_core::source::SourceDigest;
use serde::{Deserialize, Serialize};

/// `POST /v1/apps/{app}/deployments` as JSON: exactly one of `source` and `image`.
///
/// The same path takes a `.tar.gz` as its body instead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewDeployment {
    /// A source that the server has.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub source: Option<SourceDigest>,
    /// A ready image: `NAME[:TAG|@DIGEST]`.
    #[serde(default)]
    pub image: Option<String>,
    /// Builds even if the same source was built before, and without the engine's cache.
    #[serde(default)]
    pub rebuild: bool,
    /// `rolling` or `recreate`; left out: what `mini.toml` says, else what the volumes need.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub strategy: Option<Strategy>,
    /// Shown in `releases`.
    #[serde(default)]
    pub description: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployment {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: DeploymentId,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub app: AppName,
    pub kind: DeploymentKind,
    pub status: DeploymentStatus,
    /// `v12`, once there is a release.
    pub release: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created_at: Timestamp,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub finished_at: Option<Timestamp>,
    /// Where the app is reached.
    pub url: String,
    /// Why it failed.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub cause: Option<Cause>,
    pub description: String,
    /// The token that asked for it.
    pub created_by: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeploymentKind {
    /// From source or a ready image.
    #[default]
    Deploy,
    /// The same code with other config vars, limits or volumes.
    Config,
    /// The same release, new instances.
    Restart,
    /// The last live release of a stopped app.
    Start,
    Rollback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeploymentStatus {
    Queued,
    Building,
    Starting,
    Live,
    Failed,
    Cancelled,
    /// A newer one took its place while it waited.
    Superseded,
}

impl DeploymentStatus {
    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Live | Self::Failed | Self::Cancelled | Self::Superseded)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployments {
    /// Newest first.
    pub deployments: Vec<Deployment>,
}

/// One line of `GET /v1/deployments/{id}/events?after=N&follow=true`.
///
/// Stored events count from 1 without a gap within a deployment; a heartbeat has no number.
/// The stream ends after a final status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    #[serde(flatten)]
    pub body: EventBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EventBody {
    /// The status changed. `Building` and `Starting` begin the steps that users see.
    Status { status: DeploymentStatus },
    /// A line of the engine's build or pull output.
    Output { line: String },
    /// Something worth knowing: `No Dockerfile: serving the folder as a static site`.
    Note { text: String },
    /// All instances answered.
    Healthy { after_ms: u64 },
    /// It serves: always followed by the status `live`.
    Live { release: String, url: String },
    /// Why it failed: always followed by the status `failed`.
    Failed {
        #[cfg_attr(feature = "openapi", schema(value_type = Object))]
        cause: Cause,
    },
    /// Nothing happened for a while; the stream lives.
    Heartbeat,
    /// An event that this build does not know.
    #[serde(other)]
    Unknown,
}

/// A source that the server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Source {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub digest: SourceDigest,
    /// Files and links.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}
