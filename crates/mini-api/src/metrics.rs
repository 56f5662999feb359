//! What an app's requests were like, as the proxy saw them.

use jiff::Timestamp;
use mini_core::name::AppName;
use serde::{Deserialize, Serialize};

/// `GET /v1/apps/{app}/metrics`. Kept in memory: a controller that was started since knows less
/// than an hour.
///
/// Errors are answers with a status of 500 and above, the app's own and the router's. Times are from
/// the request's head to the end of the answer, in milliseconds, to a tenth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Metrics {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub app: AppName,
    /// False while the proxy has told nothing yet.
    pub known: bool,
    /// How far samples are apart, in seconds. The last one is of less.
    pub every_s: u32,
    /// Requests that wait for an instance now.
    pub waiting: u64,
    /// The last minute, five minutes, hour.
    pub windows: Vec<MetricsWindow>,
    /// Oldest first.
    pub samples: Vec<MetricsSample>,
    /// Newest first, each as long as it is known.
    pub releases: Vec<ReleaseMetrics>,
}

/// The requests of a time that ends now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricsWindow {
    pub seconds: u32,
    pub requests: u64,
    pub requests_per_s: f64,
    pub errors: u64,
    /// 0 to 1; none without a request.
    pub error_share: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// The requests since the sample before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MetricsSample {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    pub requests: u64,
    pub errors: u64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// The requests of one release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReleaseMetrics {
    /// `v12`.
    pub release: String,
    pub requests: u64,
    pub errors: u64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}
