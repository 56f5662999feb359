//! One file per verb.

pub(crate) mod backup;
pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod firewall;
pub(crate) mod metrics;
pub(crate) mod openapi;
pub(crate) mod proxy;
pub(crate) mod reload;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod units;
pub(crate) mod upgrade;

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Fault;

/// Makes the data folder, or the proxy's, (0700) unless it is there: whoever starts first.
pub(crate) fn make_folder(path: &Path) -> Result<(), Fault> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        Fault::new(format!("the data folder {}: {error}", path.display()))
            .hint("start it as root, or name a folder of your own with --data-dir")
    })
}

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

/// SIGHUP.
pub(crate) struct Reload(Signal);

impl Reload {
    pub(crate) fn new() -> Result<Self, Fault> {
        signal(SignalKind::hangup())
            .map(Self)
            .map_err(|error| Fault::new(format!("signals cannot be received: {error}")))
    }

    pub(crate) async fn asked(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}
