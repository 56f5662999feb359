//! The proxy through its front doors: sockets in, sockets out.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed")]

mod clients;
mod control;
mod failing;
mod harness;
mod holding;
mod hostile;
mod http2;
mod passing;
mod rules;
mod seen;
mod stopping;
mod succession;
mod tls;
mod websockets;
