//! End to end: the real binaries, a real Docker Engine, requests through the front door.
//!
//! Each test runs a platform of its own, with its own data folder, ports and label on the engine,
//! and clears by that label what it made. `scripts/test e2e` builds what they need.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod access;
mod backup;
mod builds;
mod certs;
mod crash;
mod deploys;
mod domains;
mod drops;
mod engine;
mod examples;
mod failures;
mod firewall;
mod handover;
mod healthchecks;
mod house;
mod http;
mod ills;
mod images;
mod load;
mod platform;
mod prober;
mod releases;
mod requests;
mod restarts;
mod said;
mod sessions;
mod status;
mod terminal;
mod tls;
mod volumes;
mod websocket;
