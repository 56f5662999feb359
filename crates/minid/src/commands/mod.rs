//! One file per verb.

pub(crate) mod controller;
pub(crate) mod doctor;
pub(crate) mod openapi;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod token;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output::Fault;
use crate::settings::Settings;

/// Makes the data folder (0700) unless it is there: whoever starts first.
pub(crate) fn make_data_folder(settings: &Settings) -> Result<(), Fault> {
    use std::os::unix::fs::DirBuilderExt;
    let path = &settings.data_dir;
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
