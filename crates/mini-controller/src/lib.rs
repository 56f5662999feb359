//! The brain: it takes what users ask, remembers it, and makes it so.
//!
//! - [`api`] answers requests: it writes down what should be and reads what is.
//! - [`deployer`] turns a queued deployment into a release (builds, pulls).
//! - [`drivers`] bring each app to what it should be, by `mini_core::plan`.
//! - [`world`] and [`link`] know what is: the engine's instances, the proxy's reports.
//! - [`router_lines`] and [`traffic`] fetch what the proxy saw of requests.
//! - [`sessions`] pass streams between a client and a process that it is attached to.
//! - [`certs`] orders certificates and tells the proxy which to serve.
//! - [`checks`] runs the images' own health checks.
//! - [`mod@backup`] puts all of it into one file, and back.
//! - [`firewall`] keeps apps from the rest of the machine.
//! - [`store`] holds all SQL, [`logs`] the apps' lines, [`sources`] what was sent, [`vault`] the
//!   key that secrets are sealed with.
//!
//! Starting up is the first activation of every driver: there is no recovery path of its own.

mod actions;
mod api;
mod backup;
mod builds;
mod certs;
mod checks;
mod clock;
mod core;
mod deployer;
mod dns;
mod drivers;
mod env;
mod firewall;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gate;
mod glance;
mod intent;
mod link;
mod logs;
mod orphans;
mod ownership;
mod recovery;
mod release_command;
mod router_lines;
mod run;
mod sessions;
mod sources;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod traffic;
mod usage;
mod vault;
mod world;

pub use api::openapi_document;
pub use backup::{
    BackupError, BackupLock, Manifest, Options, Origin, Restored, backup, copy_of_database,
    restore, step_back, verify,
};
pub use core::{Acme, Config, LETS_ENCRYPT};
pub use firewall::{Firewall, FirewallLook, FirewallRules};
pub use glance::{Glance, WantedApp, copy_before, glance, schema};
pub use run::{DataFolder, StartError, run};
pub use store::StoreError;
