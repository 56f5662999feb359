//! What every part of the controller shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mini_core::id::ServerId;
use mini_core::name::{AppName, HostName};
use mini_core::ports::{Builder, Runtime};
use mini_core::release::Timing;
use mini_core::subnet::Subnet;
use tokio::sync::{Notify, watch};

use crate::deployer::Preparing;
use crate::drivers::Drivers;
use crate::link::Link;
use crate::logs::{Logs, Pumps};
use crate::sources::Sources;
use crate::store::Store;
use crate::vault::Vault;
use crate::world::World;

/// How the controller was told to be. Read once, at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything the platform owns lies in it.
    pub data_dir: PathBuf,
    /// The platform's own domains, the first one is shown to users.
    pub domains: Vec<HostName>,
    /// The port that users reach the proxy at; it stands in URLs unless it is 80.
    pub public_port: u16,
    /// Where apps' subnets come from; none: the first free of the defaults, remembered.
    pub network_pool: Option<Subnet>,
    /// The routes of this host, which no pool may overlap.
    pub host_routes: Vec<Subnet>,
    /// The static-file server that goes into images of folders of files.
    pub static_binary: PathBuf,
    pub control_socket: PathBuf,
    pub timing: Timing,
    /// The longest a build may take.
    pub build_timeout: Duration,
    pub version: String,
}

pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) server: ServerId,
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    pub(crate) sources: Sources,
    pub(crate) logs: Logs,
    pub(crate) pumps: Pumps,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) builder: Arc<dyn Builder>,
    pub(crate) world: World,
    pub(crate) link: Link,
    pub(crate) drivers: Drivers,
    /// Something is queued, or an app has become free.
    pub(crate) queue: Notify,
    /// The deployments that are being built or pulled, to be cancelled.
    pub(crate) preparing: Preparing,
    /// Counts up whenever an event of any deployment was stored.
    pub(crate) events: watch::Sender<u64>,
}

impl Core {
    /// Tells followers that there are new events.
    pub(crate) fn events_stored(&self) {
        self.events.send_modify(|n| *n += 1);
    }

    /// Where the app is reached, best first.
    pub(crate) fn urls(&self, app: &AppName, domains: &[HostName]) -> Vec<String> {
        let port = match self.config.public_port {
            80 => String::new(),
            port => format!(":{port}"),
        };
        let custom = domains.iter().map(|d| format!("http://{d}{port}"));
        let own = self.config.domains.iter().map(|d| format!("http://{app}.{d}{port}"));
        custom.chain(own).collect()
    }

    pub(crate) fn url(&self, app: &AppName) -> String {
        self.urls(app, &[]).into_iter().next().unwrap_or_default()
    }
}
