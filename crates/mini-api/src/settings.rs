//! Limits and volumes: settings of an app that go into its releases.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mini_core::name::{AppName, VolumeName};
use serde::{Deserialize, Serialize};

use crate::Deployment;

/// What one instance of a process type may use. Left out: the platform's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    /// Memory and swap together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

/// `GET /v1/apps/{app}/limits`: by process type, those that have any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AllLimits {
    pub limits: BTreeMap<String, Limits>,
}

/// The answer to a change of settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SettingsChanged {
    /// Whether anything is other than before.
    pub changed: bool,
    /// The rollout of the release with the change; none while the app does not run.
    pub deployment: Option<Deployment>,
}

/// `POST /v1/apps/{app}/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewVolume {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: VolumeName,
    /// Where instances find it: an absolute path.
    pub path: String,
    /// Whether two releases may use it at once; otherwise the app is deployed with `recreate`.
    #[serde(default)]
    pub shared: bool,
    /// Takes over the volume of this name that a destroyed app left.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub left_by: Option<AppName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Volume {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: VolumeName,
    /// The app that has it, or had it when it was destroyed.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub app: AppName,
    /// Whether that app is gone.
    pub left: bool,
    /// Where the next release finds it; none: it is kept and not mounted.
    pub path: Option<String>,
    pub shared: bool,
    /// As the engine calls it.
    pub engine_name: String,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Volumes {
    pub volumes: Vec<Volume>,
}

/// The answer to `POST /v1/apps/{app}/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VolumeAdded {
    pub volume: Volume,
    /// Whether anything is other than before.
    pub changed: bool,
    /// It holds what an earlier app of that name left in it.
    pub has_data: bool,
    /// The rollout of the release that mounts it; none while the app does not run.
    pub deployment: Option<Deployment>,
}
