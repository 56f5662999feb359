//! End to end: the real binaries, a real Docker Engine, requests through the front door.
//!
//! Each test runs a platform of its own, with its own data folder, ports and label on the engine,
//! and clears by that label what it made. `scripts/test e2e` builds what they need.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod access;
mod deploys;
mod examples;
mod failures;
mod house;
mod http;
mod ills;
mod images;
mod platform;
mod restarts;
