//! The only place that writes to stdout and stderr: data and the ready line to stdout, the log
//! and errors to stderr.

#![expect(clippy::print_stderr, reason = "this module is where printing happens")]

use std::io::Write as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::troubles::Keep;

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

    /// What is wrong, and the way out, as one text.
    pub(crate) fn words(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{} ({hint})", self.message),
            None => self.message.clone(),
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).with(Keep).init();
}

/// A line for whoever reads; one who reads no more (`minid status | head`) misses nothing.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Text that ends its lines itself.
pub(crate) fn text(text: &str) {
    let _ = write!(std::io::stdout(), "{text}");
}

pub(crate) fn error(fault: &Fault) {
    eprintln!("error: {}", fault.message);
    if let Some(hint) = &fault.hint {
        eprintln!("hint: {hint}");
    }
}
