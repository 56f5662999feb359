//! What every part of the controller shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mini_core::id::ServerId;
use mini_core::name::{AppName, HostName, HostPattern};
use mini_core::ports::{Builder, Runtime};
use mini_core::release::Timing;
use mini_core::subnet::Subnet;
use tokio::sync::{Notify, watch};

use crate::builds;
use crate::certs::Certs;
use crate::checks::Checks;
use crate::deployer::Preparing;
use crate::dns::Resolver;
use crate::drivers::Drivers;
use crate::firewall::{self, FirewallRules};
use crate::gate::Gate;
use crate::link::Link;
use crate::logs::{Logs, Pumps};
use crate::recovery::Recoveries;
use crate::release_command::Telling;
use crate::router_lines::RouterLines;
use crate::sources::Sources;
use crate::store::Store;
use crate::traffic::Traffic;
use crate::usage::Usage;
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
    /// The same over TLS, unless it is 443; none if nothing is served over TLS.
    pub public_https_port: Option<u16>,
    /// Where apps' subnets come from; none: the first free of the defaults, remembered.
    pub network_pool: Option<Subnet>,
    /// The routes of this host, which no pool may overlap.
    pub host_routes: Vec<Subnet>,
    /// The static-file server that goes into images of folders of files.
    pub static_binary: PathBuf,
    /// Where the proxy listens: the first of these that answers.
    pub control_sockets: Vec<PathBuf>,
    /// Where our own sockets go: the data folder, unless it is read-only.
    pub socket_dir: PathBuf,
    /// Where it listens for the proxy, if not in `socket_dir`: in a folder that the proxy may enter.
    pub api_socket: Option<PathBuf>,
    pub timing: Timing,
    /// The longest a build may take.
    pub build_timeout: Duration,
    pub acme: Acme,
    /// What holds apps back from the rest of the machine; none: nothing does.
    pub firewall: Option<FirewallRules>,
    pub version: String,
}

/// How certificates are ordered (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The authority's directory, a URL.
    pub directory: String,
    /// Where the authority writes to.
    pub email: Option<String>,
    /// What the directory's own certificate is checked with; none: what the system trusts.
    pub ca_bundle: Option<PathBuf>,
    /// Why nothing is ordered, with the way out; none: it is.
    pub off: Option<String>,
    /// Whether apps are served over http, and over https.
    pub http: bool,
    pub https: bool,
    /// From the first failure of a name to the next try.
    pub retry: Duration,
    /// For tests: how old a certificate becomes before it is renewed, whatever anybody suggests.
    pub renew_after: Option<Duration>,
    /// For tests: how often the authority is asked when to renew, instead of when it says.
    pub check_every: Option<Duration>,
}

impl Default for Acme {
    fn default() -> Self {
        Self {
            directory: LETS_ENCRYPT.to_owned(),
            email: None,
            ca_bundle: None,
            off: None,
            http: true,
            https: true,
            retry: Duration::from_secs(60),
            renew_after: None,
            check_every: None,
        }
    }
}

/// The directory of Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

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
    pub(crate) checks: Checks,
    pub(crate) certs: Certs,
    pub(crate) firewall: firewall::Kept,
    pub(crate) builds: builds::Kept,
    pub(crate) drivers: Drivers,
    pub(crate) usage: Usage,
    pub(crate) resolver: Resolver,
    pub(crate) traffic: Traffic,
    pub(crate) router_lines: RouterLines,
    pub(crate) telling: Telling,
    /// Through which every start goes.
    pub(crate) gate: Gate,
    pub(crate) recoveries: Recoveries,
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
    pub(crate) fn urls(&self, app: &AppName, domains: &[HostPattern]) -> Vec<String> {
        // A wildcard is no address to go to.
        let custom = domains.iter().filter(|d| !d.is_wildcard()).map(ToString::to_string);
        let own = self.config.domains.iter().map(|d| format!("{app}.{d}"));
        custom.chain(own).map(|name| self.url_of(&name)).collect()
    }

    /// Over https where there is a certificate for the name.
    fn url_of(&self, name: &str) -> String {
        let https = self.config.public_https_port.filter(|_| self.certs.has(name));
        match (https, self.config.public_port) {
            (Some(443), _) => format!("https://{name}"),
            (Some(port), _) => format!("https://{name}:{port}"),
            (None, 80) => format!("http://{name}"),
            (None, port) => format!("http://{name}:{port}"),
        }
    }

    pub(crate) fn url(&self, app: &AppName) -> String {
        self.urls(app, &[]).into_iter().next().unwrap_or_default()
    }
}
