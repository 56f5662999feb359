//! What controller and proxy say to each other over `control.sock`: one JSON document a line.
//!
//! The proxy listens, the controller connects. After the two hellos the controller sends the
//! whole table, then one app's entry at a time. Every change carries a generation, counted up by
//! one counter of the controller that begins above the generation of the proxy's hello; a
//! change with a generation that is not above the proxy's own is refused.
//!
//! A new proxy process that takes the place of the one that runs comes to the same socket, and says
//! [`ToProxy::Succeed`] where a controller says hello:
//!
//! ```text
//!  successor                          the one that runs
//!     |  <------------------- Hello       (as to everybody)
//!     |  Succeed ------------------->     lets its controller go, takes no changes any more
//!     |  <------------------ Estate       the whole table
//!     |  Ready --------------------->     accepts no more connections
//!     |  <----------------- Leaving
//!   accepts, and is where the controller comes from here on
//!     |  Table, App, Forget -------->     what the controller changes meanwhile
//!     |  <-------- Applied, Drained       what still has requests there
//!     |                                   has answered its last request, or the drain time is over
//! ```
//!
//! If the successor dies, or is not ready in time, the one that runs goes on as before.

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, ServerId};
use crate::latency::Counts;
use crate::name::AppName;
use crate::route::AppRoute;
use crate::time::Millis;

/// The longest line either side accepts, in bytes (10,000 apps in one table stay far below).
pub const MAX_LINE: usize = 64 << 20;

/// Where the proxy sends on what the door refuses over http, if a token came with it (see there). A
/// controller that does not know the place does nothing there either.
pub const OVERHEARD: &str = "/v1/overheard";

/// What is said of a request that came to the door over http, and the way out.
pub const HTTPS_REQUIRED: [&str; 2] = [
    "This server's API answers over https only: what comes over http can be read on the way, a token \
     too.",
    "Use https:// and the server's name, as in `mini config set-host https://mini.example.com`; then \
     make a new token and revoke this one.",
];

/// Controller to proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToProxy {
    Hello {
        server: ServerId,
        version: String,
    },
    /// Replaces everything.
    Table {
        generation: u64,
        apps: Vec<AppRoute>,
    },
    /// Replaces one app's entry.
    App {
        generation: u64,
        route: AppRoute,
    },
    /// Forgets an app.
    Forget {
        generation: u64,
        app: AppName,
    },
    /// Replaces every certificate that came this way. Has no generation: the proxy keeps them in a
    /// folder of its own, and serves what it has until it is told otherwise.
    Certificates {
        certificates: Vec<Certificate>,
    },
    /// Replaces the answers to the certificate authority's questions.
    /// [`FromProxy::Challenged`] says that they are given from now on: only then the authority is
    /// told to ask.
    Challenges {
        /// Which of these documents this is; counted up by the controller.
        sequence: u64,
        challenges: Vec<Challenge>,
    },
    /// Asks for [`FromProxy::Status`]. Also without a hello before it: such a connection is not the
    /// controller's, and disturbs it in nothing.
    Status,
    /// In place of a hello: a new proxy process asks for the place of this one.
    Succeed {
        version: String,
        pid: u32,
    },
    /// The successor has all that it needs, and serves as soon as it hears [`FromProxy::Leaving`].
    Ready,
    /// Also without a hello: this connection is from now on for [`FromProxy::Requests`] alone.
    FollowRequests,
    /// The batch of lines that came last is kept: the next one may come.
    Kept,
    /// Also without a hello, on a connection for this alone: asks for [`FromProxy::Metrics`].
    Metrics,
}

/// A certificate with its key, for the names it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Exact names, or `*.example.com`.
    pub names: Vec<String>,
    /// PEM, the leaf first.
    pub chain: String,
    pub key: SecretPem,
}

/// What a certificate authority will ask for, to see who has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "challenge", rename_all = "snake_case")]
pub enum Challenge {
    /// HTTP-01 (RFC 8555 section 8.3): `GET /.well-known/acme-challenge/TOKEN` at `name` answers
    /// `answer`.
    Http { name: String, token: String, answer: String },
    /// TLS-ALPN-01 (RFC 8737): a handshake for `name` with `acme-tls/1` meets this certificate.
    TlsAlpn { name: String, chain: String, key: SecretPem },
}

/// A private key in PEM. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretPem(pub String);

impl std::fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretPem(…)")
    }
}

/// Proxy to controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromProxy {
    Hello {
        version: String,
        /// The generation of the table in memory: from the snapshot, or 0.
        generation: u64,
        /// The generation of the snapshot on disk.
        durable: u64,
        /// The kernel's boot id, to know a reboot by.
        boot_id: String,
        pid: u32,
        /// The targets that requests are sent to at this moment (role Serve, proven): a
        /// controller that has just started keeps them serving in its first table, without
        /// waiting for a probe.
        serving: Vec<(InstanceId, Millis)>,
    },
    /// Requests are routed by this generation.
    Applied {
        generation: u64,
    },
    /// The snapshot on disk holds this generation.
    Durable {
        generation: u64,
    },
    /// A change came with a generation that is not newer than `current`.
    Refused {
        generation: u64,
        current: u64,
    },
    /// A target's health, when it changes, and for every target after a table.
    Health {
        instance: InstanceId,
        started: Millis,
        verdict: Verdict,
    },
    /// A target whose role is Drain has no request in flight.
    Drained {
        instance: InstanceId,
    },
    /// The authority's questions are answered as the document with this sequence said.
    Challenged {
        sequence: u64,
    },
    Status(ProxyStatus),
    /// To a successor: what this process knows. It takes no change until it heard `Ready`.
    Estate(Estate),
    /// To a successor that is ready: no more connections are accepted here.
    Leaving,
    /// To a successor: its place is not free, and it has to end.
    Stays {
        why: String,
    },
    /// After this line come so many bytes that are no JSON: a line for each request, `APP TAB
    /// NANOSECONDS TAB TEXT LF`, the text in printable ASCII. Nothing else comes before they are
    /// said to be [`ToProxy::Kept`].
    Requests {
        bytes: u64,
        /// How many lines of which app are missing before these.
        lost: Vec<(AppName, u64)>,
    },
    Metrics {
        /// Another process counts from nothing.
        pid: u32,
        /// Those that had requests.
        apps: Vec<AppTraffic>,
    },
}

/// What a proxy leaves to its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Estate {
    /// Of the table in memory.
    pub generation: u64,
    /// Of the snapshot on disk.
    pub durable: u64,
    pub apps: Vec<AppRoute>,
    /// As in [`FromProxy::Hello`], at this moment.
    pub serving: Vec<(InstanceId, Millis)>,
}

/// What probing a target found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "snake_case")]
pub enum Verdict {
    Healthy,
    /// Not yet, or no longer; `why` is for the user: `connection refused`, `GET /up answered 500`.
    Unhealthy {
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    pub version: String,
    pub pid: u32,
    pub generation: u64,
    pub durable: u64,
    pub apps: u64,
    /// Requests since this process started.
    pub requests: u64,
    /// Requests (upgraded connections among them) in flight now.
    pub in_flight: u64,
    pub connections: u64,
    /// Connections closed at once, since there were as many as there may be.
    #[serde(default)]
    pub refused: u64,
    /// Requests cut because they outlasted the drain time.
    pub cut: u64,
}

/// What was seen of one app's requests since the proxy's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppTraffic {
    pub app: AppName,
    /// Requests that wait for an instance now, and those that ever had to.
    pub waiting: u64,
    pub held: u64,
    /// By release, of those that had requests.
    pub releases: Vec<ReleaseTraffic>,
}

/// What was seen of the requests of one release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTraffic {
    /// None: requests that no release got.
    pub release: Option<u32>,
    /// Answers by class, 1xx to 5xx; then those whose status is none of these.
    pub statuses: [u64; 6],
    /// Of bodies.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// How many were sent twice.
    pub retried: u64,
    /// How long they took, all together.
    pub took_us: u64,
    pub latency: Counts,
    /// By the router's code, such as `H12`.
    pub errors: Vec<(String, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_tagged_lines() {
        let line = serde_json::to_string(&FromProxy::Applied { generation: 7 }).unwrap();
        assert_eq!(line, r#"{"type":"applied","generation":7}"#);
        let health = FromProxy::Health {
            instance: "abc".parse().unwrap(),
            started: Millis(5),
            verdict: Verdict::Unhealthy { why: "connection refused".into() },
        };
        let line = serde_json::to_string(&health).unwrap();
        assert_eq!(serde_json::from_str::<FromProxy>(&line).unwrap(), health);
    }
}
