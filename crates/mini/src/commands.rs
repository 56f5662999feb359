//! The verbs, one file each: `Args` as clap reads them, and `run`.

pub(crate) mod apps;
pub(crate) mod audit;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod deploy;
pub(crate) mod deploys;
pub(crate) mod diff;
pub(crate) mod domains;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod limits;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod maintenance;
pub(crate) mod metrics;
pub(crate) mod open;
pub(crate) mod pages;
pub(crate) mod ps;
pub(crate) mod releases;
pub(crate) mod restart;
pub(crate) mod rollback;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod server;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod tokens;
pub(crate) mod version;
pub(crate) mod volumes;

/// How a wire enum is written, such as `queued`: as JSON has it.
fn word<T: serde::Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).ok();
    value.as_ref().and_then(|v| v.as_str()).unwrap_or("unknown").to_owned()
}
