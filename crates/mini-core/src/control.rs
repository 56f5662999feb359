//! What controller and proxy say to each other over `control.sock`: one JSON document a line.
//!
//! The proxy listens, the controller connects. After the two hellos the controller sends the
//! whole table, then one app's entry at a time. Every change carries a generation, counted up by
//! one counter of the controller that begins above the generation of the proxy's hello; a
//! change with a generation that is not above the proxy's own is refused.

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, ServerId};
use crate::name::AppName;
use crate::route::AppRoute;
use crate::time::Millis;

/// The longest line either side accepts, in bytes (10,000 apps in one table stay far below).
pub const MAX_LINE: usize = 64 << 20;

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
    /// Asks for [`FromProxy::Status`].
    Status,
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
    Status(ProxyStatus),
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
    /// Requests cut because they outlasted the drain time.
    pub cut: u64,
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
