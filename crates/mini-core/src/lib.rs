//! The domain: what mini *means*, in plain data and pure functions.
//!
//! Nothing here does I/O, reads a clock, or knows tokio, SQL or HTTP. Time comes in as an
//! argument, and the engine, the builder, the stored sources and the proxy are reached through
//! the traits in [`ports`].
//!
//! Where to read first: [`plan`] decides what to do for one app, [`route`] says where a request
//! goes, [`control`] is what controller and proxy say to each other.

pub mod cause;
pub mod cidr;
pub mod control;
pub mod fault;
pub mod id;
pub mod latency;
pub mod name;
pub mod plan;
pub mod ports;
pub mod procfile;
pub mod release;
pub mod route;
pub mod rules;
pub mod source;
pub mod subnet;
#[cfg(feature = "testing")]
pub mod testing;
pub mod time;
pub mod words;
