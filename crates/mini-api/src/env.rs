//! Config vars.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Deployment;

/// All values of an app together, in bytes: CONTRACTS, "Limits".
pub const MAX_ENV_BYTES: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Env {
    pub vars: BTreeMap<String, String>,
    /// The token may see names only: every value is empty.
    #[serde(default)]
    pub values_hidden: bool,
    /// Names whose change waits for the next deploy.
    pub staged: Vec<String>,
}

/// `PATCH /v1/apps/{app}/env`: `null` unsets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvChange {
    pub vars: BTreeMap<String, Option<String>>,
    /// Keeps the change for the next deploy.
    #[serde(default)]
    pub stage: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvChanged {
    /// What really changed, sorted.
    pub changed: Vec<String>,
    /// The rollout with the new values; none if staged, nothing changed, or nothing runs.
    pub deployment: Option<Deployment>,
}
