//! The only place that writes to stdout and stderr: data and the ready line to stdout, the log
//! and errors to stderr.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is where printing happens"
)]

use tracing_subscriber::EnvFilter;

/// What the log shows: `MINID_LOG=debug`, or per crate as `tracing` reads it.
const LOG: &str = "MINID_LOG";

/// An error for the operator: what is wrong, and the way out.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

pub(crate) fn line(text: &str) {
    println!("{text}");
}

pub(crate) fn error(fault: &Fault) {
    eprintln!("error: {}", fault.message);
    if let Some(hint) = &fault.hint {
        eprintln!("hint: {hint}");
    }
}
