//! The proxy through its front doors: sockets in, sockets out.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod control;
mod failing;
mod harness;
mod holding;
mod hostile;
mod passing;
mod stopping;
