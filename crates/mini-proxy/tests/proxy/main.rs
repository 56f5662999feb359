//! The proxy through its front doors: sockets in, sockets out.

mod control;
mod failing;
mod harness;
mod holding;
mod hostile;
mod passing;
mod stopping;
