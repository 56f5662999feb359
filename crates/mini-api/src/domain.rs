//! What an app has at the front door beside its releases: domains, maintenance, error pages. A
//! change of these makes no release and takes effect at once.

use std::net::IpAddr;

use jiff::Timestamp;
use mini_core::name::{AppName, HostPattern};
use serde::{Deserialize, Serialize};

/// The largest error page, in bytes.
pub const MAX_PAGE_BYTES: usize = 64 << 10;

/// The codes that an app may have its own page for: CONTRACTS, "Routing". `*` is for all of them.
pub const PAGE_CODES: [&str; 16] = [
    "*",
    "H10",
    "H12",
    "H13",
    "H14",
    "H15",
    "H17",
    "H19",
    "H20",
    "H21",
    "H22",
    "H26",
    "H80",
    "H81",
    "password_required",
    "address_not_allowed",
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Domain {
    /// A host name, or `*.` before one.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: HostPattern,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub created_at: Timestamp,
    /// What the name leads to now; missing where it was not asked for.
    #[serde(default)]
    pub dns: Option<Dns>,
}

/// What a name leads to, as the server's own resolver sees it, and what it should lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dns {
    pub state: DnsState,
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<IpAddr>,
    /// Why it is not known, in the resolver's words.
    pub why: Option<String>,
    /// Records of which one is enough, best first; none where this server has no public name.
    pub records: Vec<DnsRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DnsState {
    /// It leads to this server.
    Here,
    /// It leads to other addresses: another server, or a proxy in front of this one.
    Elsewhere,
    /// It has no address, or the resolver did not say.
    Unresolved,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DnsRecord {
    /// `CNAME`, `A` or `AAAA`.
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Domains {
    pub domains: Vec<Domain>,
}

/// `POST /v1/apps/{app}/domains`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewDomain {
    /// `www.example.com`, or `*.example.com` for every name of one label before it.
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DomainAdded {
    pub domain: Domain,
    /// False when the app had it before.
    pub changed: bool,
    /// Whether requests are routed by it already; otherwise as soon as the proxy is back.
    pub routed: bool,
    /// Another app whose wildcard it is of: the name itself goes first.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub taken_from: Option<AppName>,
}

/// The answer to a change that makes no release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RouteChanged {
    /// Whether anything is other than before.
    pub changed: bool,
    /// Whether requests are treated so already; otherwise as soon as the proxy is back.
    pub routed: bool,
}

/// `GET` and `PUT /v1/apps/{app}/maintenance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Maintenance {
    /// Every request is answered H80 (503), whatever runs.
    pub on: bool,
}

/// `PUT /v1/apps/{app}/pages/{code}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewPage {
    /// What clients that read HTML get, with the code's own status.
    pub html: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page {
    /// `H80`, `H10`, …, or `*`.
    pub code: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pages {
    pub pages: Vec<Page>,
}
