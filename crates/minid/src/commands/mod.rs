//! One file per verb.

pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod openapi;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod token;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Fault;

/// SIGTERM and SIGINT.
pub(crate) struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> Result<Self, Fault> {
        let listen = |kind| {
            signal(kind).map_err(|error| Fault::new(format!("signals cannot be received: {error}")))
        };
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
