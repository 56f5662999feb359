//! Certificates.

use jiff::Timestamp;
use mini_core::name::AppName;
use serde::{Deserialize, Serialize};

/// A name that leads to this server, and its certificate; or an own certificate for a name that
/// leads nowhere yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cert {
    /// `blue.example.com`, or `*.example.com`.
    pub name: String,
    /// The app that the name leads to; none: the server's own, or nothing yet.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub app: Option<AppName>,
    pub state: CertState,
    /// Where the certificate that is served comes from; none while there is none.
    pub source: Option<CertSource>,
    /// All names on that certificate.
    pub names: Vec<String>,
    pub issuer: Option<String>,
    /// SHA-256 of the certificate, in hex.
    pub fingerprint: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub not_before: Option<Timestamp>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub not_after: Option<Timestamp>,
    /// When it is renewed, if it is by itself.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub renew_at: Option<Timestamp>,
    /// Whether that is within what the authority suggests (RFC 9773).
    pub renewal_suggested: bool,
    /// Orders that failed one after the other.
    pub attempts: u32,
    pub last_error: Option<String>,
    /// When the next order is tried, after one that failed.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub next_try_at: Option<Timestamp>,
    /// What to know about the name, such as why no certificate is ordered for it.
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CertState {
    /// There is one that holds.
    Valid,
    /// There is none that holds, and an order is under way or about to be.
    Ordering,
    /// There is none that holds, and the last order failed.
    Failed,
    Expired,
    /// There is none, and none is ordered.
    None,
    /// One that this build does not know.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CertSource {
    /// Ordered by the server.
    Acme,
    /// Brought by `mini certs add`.
    Own,
    /// One that this build does not know.
    #[serde(other)]
    Unknown,
}

/// `GET /v1/certs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Certs {
    pub certs: Vec<Cert>,
    pub acme: AcmeInfo,
}

/// How certificates are ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AcmeInfo {
    /// The authority's directory.
    pub directory: String,
    pub email: Option<String>,
    /// Why none are ordered, with the way out; none: they are.
    pub off: Option<String>,
}

/// `GET /v1/certs/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertDetail {
    pub cert: Cert,
    /// The certificate with what signed it, in PEM.
    pub chain: Option<String>,
    /// What happened lately, oldest first.
    pub events: Vec<CertEvent>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertEvent {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub at: Timestamp,
    pub text: String,
}

/// `POST /v1/certs`: an own certificate. It wins over ordered ones for its names.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewCert {
    /// PEM, the server's own first, then what signed it.
    pub chain: String,
    /// The private key, PEM.
    pub key: String,
    /// The app that it belongs to: it goes when that app is destroyed.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub app: Option<AppName>,
}

impl std::fmt::Debug for NewCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCert").field("app", &self.app).finish_non_exhaustive()
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertAdded {
    /// One for each name on it.
    pub certs: Vec<Cert>,
    /// What is odd about it and does not stand in the way.
    pub warnings: Vec<String>,
}
