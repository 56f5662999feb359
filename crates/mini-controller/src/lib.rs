//! The brain: it takes what users ask, remembers it, and makes it so.
//!
//! - [`api`] answers requests: it writes down what should be and reads what is.
//! - [`deployer`] turns a queued deployment into a release (builds, pulls).
//! - [`drivers`] bring each app to what it should be, by `mini_core::plan`.
//! - [`world`] and [`link`] know what is: the engine's instances, the proxy's reports.
//! - [`store`] holds all SQL, [`logs`] the apps' lines, [`sources`] what was sent, [`vault`] the
//!   key that secrets are sealed with.
//!
//! Starting up is the first activation of every driver: there is no recovery path of its own.

mod actions;
mod api;
mod clock;
mod core;
mod deployer;
mod drivers;
mod env;
mod intent;
mod link;
mod logs;
mod orphans;
mod run;
mod sources;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod vault;
mod world;

pub use api::openapi_document;
pub use core::Config;
pub use run::{DataFolder, StartError, run};
