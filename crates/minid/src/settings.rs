//! Flags and their environment twins, resolved once into plain settings.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mini_controller::Acme;
use mini_core::cidr::Cidr;
use mini_core::name::HostName;
use mini_core::release::Timing;
use mini_core::subnet::Subnet;
use mini_proxy::Clients;

use crate::acme::AcmeFlags;
use crate::output::Fault;
use crate::schedule::Schedule;
use crate::sockets::Sockets;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the static-file server lies, if not beside `minid`.
const STATIC: &str = "MINID_STATIC";

#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Everything the platform owns lies in this folder
    #[arg(long, env = "MINID_DATA_DIR", default_value = "/var/lib/mini", value_name = "DIR")]
    data_dir: PathBuf,
    /// What the proxy keeps and the sockets it listens at lie here, so that it can be another user
    /// than the controller [default: the data folder]
    #[arg(long, env = "MINID_PROXY_DIR", value_name = "DIR")]
    proxy_dir: Option<PathBuf>,
    /// The controller's socket for the proxy [default: api.sock in the data folder]
    #[arg(long, env = "MINID_API_SOCKET", value_name = "PATH")]
    api_socket: Option<PathBuf>,
    /// Where apps are served [default: port 80, on loopback while the domain is localhost]
    #[arg(long, env = "MINID_HTTP_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    http_listen: Vec<SocketAddr>,
    /// The same over TLS; `off` for none [default: port 443, where it is free and allowed]
    #[arg(
        long,
        env = "MINID_HTTPS_LISTEN",
        value_name = "ADDR:PORT",
        value_delimiter = ',',
        value_parser = secure_listener
    )]
    https_listen: Vec<SecureListener>,
    /// The platform's own domain: apps are served at APP.DOMAIN
    #[arg(
        long,
        env = "MINID_DOMAIN",
        default_value = "localhost",
        value_name = "NAME",
        value_delimiter = ','
    )]
    domain: Vec<String>,
    /// Where apps' networks come from [default: the first free of 10.210.0.0/16 to 10.219.0.0/16]
    #[arg(long, env = "MINID_NETWORK_POOL", value_name = "NETWORK")]
    network_pool: Option<Subnet>,
    /// Where a scraper may read GET /metrics, beside metrics.sock; it is not public [default: nowhere]
    #[arg(long, env = "MINID_METRICS_LISTEN", value_name = "ADDR:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Whether the engine is ours alone (`dedicated`: what the installer sets up) or has others' containers too
    #[arg(
        long,
        env = "MINID_ENGINE",
        default_value = "shared",
        value_parser = ["shared", "dedicated"]
    )]
    engine: String,
    /// Keep apps from the rest of this machine, and from each other [default: on for root]
    #[arg(long, env = "MINID_FIREWALL", value_name = "on|off", value_enum)]
    firewall: Option<Switch>,
    /// How long a new instance may take until it is healthy
    #[arg(long, env = "MINID_BOOT_TIMEOUT_S", default_value_t = 60, value_name = "SECONDS")]
    boot_timeout_s: u64,
    /// How long requests of an old instance may take to finish
    #[arg(long, env = "MINID_DRAIN_S", default_value_t = 30, value_name = "SECONDS")]
    drain_s: u64,
    /// From SIGTERM to SIGKILL
    #[arg(long, env = "MINID_GRACE_S", default_value_t = 30, value_name = "SECONDS")]
    grace_s: u64,
    /// The longest a build may take
    #[arg(long, env = "MINID_BUILD_TIMEOUT_S", default_value_t = 1800, value_name = "SECONDS")]
    build_timeout_s: u64,
    /// What one instance may use of memory and swap [default: half of the machine's memory]
    #[arg(long, env = "MINID_INSTANCE_MEMORY_MB", value_name = "MB")]
    instance_memory_mb: Option<u64>,
    /// What all builds together may use of memory and swap, with `--engine dedicated` [default: 2048, or 60 % of
    /// the machine's if that is less]
    #[arg(long, env = "MINID_BUILD_MEMORY_MB", value_name = "MB")]
    build_memory_mb: Option<NonZeroU64>,
    /// A proxy in front whose X-Forwarded-… are believed; may be repeated
    #[arg(
        long,
        env = "MINID_TRUSTED_PROXY",
        value_name = "NETWORK",
        value_delimiter = ',',
        help_heading = "Behind a load balancer"
    )]
    trusted_proxy: Vec<Cidr>,
    /// Every connection begins with a header of the PROXY protocol (1 or 2); others are closed
    #[arg(
        long,
        env = "MINID_PROXY_PROTOCOL",
        value_parser = clap::builder::BoolishValueParser::new(),
        help_heading = "Behind a load balancer"
    )]
    proxy_protocol: bool,
    /// Connections of clients in all [default: what the limit on open files leaves]
    #[arg(long, env = "MINID_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<NonZeroUsize>,
    /// Connections of one client: an IPv4 address, or an IPv6 network of 64 bits
    #[arg(
        long,
        env = "MINID_MAX_CONNECTIONS_PER_CLIENT",
        value_name = "N",
        default_value_t = Clients::MAX_EACH
    )]
    max_connections_per_client: usize,
    /// Where the controller puts backups that it makes by itself [default: it makes none]
    #[arg(long, env = "MINID_BACKUP_DIR", value_name = "DIR", help_heading = "Backups")]
    backup_dir: Option<PathBuf>,
    /// From one backup to the next: a number with s, m, h or d
    #[arg(
        long,
        env = "MINID_BACKUP_EVERY",
        value_name = "TIME",
        default_value = "24h",
        value_parser = crate::schedule::duration,
        help_heading = "Backups"
    )]
    backup_every: Duration,
    /// How many of them are kept
    #[arg(
        long,
        env = "MINID_BACKUP_KEEP",
        value_name = "N",
        default_value = "7",
        help_heading = "Backups"
    )]
    backup_keep: NonZeroUsize,
    #[command(flatten)]
    acme: AcmeFlags,
    /// Take the listening sockets from the parent, over standard input, and end with it
    #[arg(long, hide = true)]
    from_parent: bool,
    /// Take the listening sockets from the proxy that ran until now, over standard input
    #[arg(long, hide = true, conflicts_with = "from_parent")]
    from_predecessor: bool,
    /// Take the place of the proxy that runs
    #[arg(long, hide = true)]
    succeeds: bool,
}

/// What a `minid` process was told to be.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    /// Where the controller's sockets lie.
    pub(crate) sockets: Sockets,
    /// The proxy's own folder, which may be the data folder.
    pub(crate) proxy_dir: PathBuf,
    /// Where the proxy's sockets lie.
    pub(crate) proxy_sockets: Sockets,
    /// Where the controller listens for the proxy, if not beside its other socket.
    pub(crate) api_socket: Option<PathBuf>,
    pub(crate) http_listen: Vec<SocketAddr>,
    /// Whether `http_listen` is the default, which may lack an address family.
    pub(crate) default_listen: bool,
    pub(crate) https_listen: Vec<SocketAddr>,
    /// Whether `https_listen` is the default, which a start does without where it must.
    pub(crate) default_https: bool,
    pub(crate) metrics_listen: Option<SocketAddr>,
    pub(crate) domains: Vec<HostName>,
    pub(crate) network_pool: Option<Subnet>,
    pub(crate) timing: Timing,
    pub(crate) build_timeout: Duration,
    pub(crate) acme: Acme,
    pub(crate) docker_host: Option<String>,
    pub(crate) instance_memory_bytes: Option<u64>,
    pub(crate) static_binary: PathBuf,
    pub(crate) from_parent: bool,
    pub(crate) from_predecessor: bool,
    pub(crate) succeeds: bool,
    flags: Flags,
}

/// A flag with two positions.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    On,
    Off,
}

/// One value of `--https-listen`: none is `off`.
type SecureListener = Option<SocketAddr>;

fn secure_listener(text: &str) -> Result<SecureListener, String> {
    match text {
        "off" => Ok(None),
        address => address.parse().map(Some).map_err(|_| {
            "an address with a port, such as 0.0.0.0:443 or [::]:8443, or off".to_owned()
        }),
    }
}

/// Where a front door listens by default.
fn default_addresses(local: bool, port: u16) -> Vec<SocketAddr> {
    if local {
        vec![([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()]
    } else {
        vec![(std::net::Ipv6Addr::UNSPECIFIED, port).into()]
    }
}

impl Flags {
    pub(crate) fn resolve(self) -> Result<Settings, Fault> {
        let flags = self.clone();
        let mut domains = Vec::new();
        for name in &self.domain {
            let name: HostName = name.parse().map_err(|error| {
                Fault::new(format!("--domain: {error}"))
                    .hint("a name such as localhost or apps.example.com")
            })?;
            domains.push(name);
        }
        let local =
            domains.iter().all(|d| d.as_str() == "localhost" || d.as_str().ends_with(".localhost"));
        let default_listen = self.http_listen.is_empty();
        let http_listen =
            if default_listen { default_addresses(local, 80) } else { self.http_listen };
        let default_https = self.https_listen.is_empty();
        let https_listen = if default_https {
            default_addresses(local, 443)
        } else {
            self.https_listen.into_iter().flatten().collect()
        };
        let data_dir = std::path::absolute(&self.data_dir).map_err(|error| {
            Fault::new(format!("--data-dir {}: {error}", self.data_dir.display()))
        })?;
        let absolute = |flag: &str, path: PathBuf| {
            std::path::absolute(&path)
                .map_err(|error| Fault::new(format!("{flag} {}: {error}", path.display())))
        };
        let proxy_dir = match self.proxy_dir {
            Some(path) => absolute("--proxy-dir", path)?,
            None => data_dir.clone(),
        };
        let api_socket = self.api_socket.map(|path| absolute("--api-socket", path)).transpose()?;
        let static_binary = match std::env::var_os(STATIC) {
            Some(path) => PathBuf::from(path),
            None => beside_us("mini-static"),
        };
        let acme = self.acme.resolve(!https_listen.is_empty())?;
        Ok(Settings {
            sockets: Sockets::of(&data_dir),
            proxy_sockets: Sockets::of(&proxy_dir),
            data_dir,
            proxy_dir,
            api_socket,
            http_listen,
            default_listen,
            https_listen,
            default_https,
            metrics_listen: self.metrics_listen,
            domains,
            network_pool: self.network_pool,
            timing: Timing {
                boot_timeout_ms: self.boot_timeout_s.saturating_mul(1000),
                drain_ms: self.drain_s.saturating_mul(1000),
                grace_ms: self.grace_s.saturating_mul(1000),
                ..Timing::default()
            },
            build_timeout: Duration::from_secs(self.build_timeout_s),
            acme,
            docker_host: std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty()),
            instance_memory_bytes: self
                .instance_memory_mb
                .map(|mb| mb.saturating_mul(1_000_000))
                .or_else(half_of_memory),
            static_binary,
            from_parent: self.from_parent,
            from_predecessor: self.from_predecessor,
            succeeds: self.succeeds,
            flags,
        })
    }
}

fn half_of_memory() -> Option<u64> {
    let info = rustix::system::sysinfo();
    Some(info.totalram.checked_mul(u64::from(info.mem_unit))? / 2)
}

fn beside_us(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.parent().map(|folder| folder.join(name)).unwrap_or_else(|| PathBuf::from(name))
}

impl Settings {
    /// The certificate folder of the proxy.
    pub(crate) fn tls_dir(&self) -> PathBuf {
        self.proxy_dir.join("tls")
    }

    /// Where the controller may listen for the proxy, best first.
    pub(crate) fn api_sockets(&self) -> Vec<PathBuf> {
        match &self.api_socket {
            Some(path) => vec![path.clone()],
            None => self.sockets.all("api.sock"),
        }
    }

    /// The port in apps' URLs.
    pub(crate) fn public_port(&self) -> u16 {
        self.http_listen.first().map_or(80, SocketAddr::port)
    }

    /// As [`secure_listener`] reads it. A child is told what was chosen, as its parent binds.
    fn https_as_text(&self) -> String {
        match self.https_listen.as_slice() {
            [] => "off".to_owned(),
            all => Vec::from_iter(all.iter().map(SocketAddr::to_string)).join(","),
        }
    }

    /// The backups that the controller makes by itself.
    pub(crate) fn schedule(&self) -> Option<Schedule> {
        let (every, keep) = (self.flags.backup_every, self.flags.backup_keep.get());
        let folder = self.flags.backup_dir.as_ref()?;
        // Also where the path cannot be made absolute it is said by the first backup.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        Some(Schedule { folder, every, keep })
    }

    /// Whether the engine is ours alone.
    pub(crate) fn dedicated(&self) -> bool {
        self.flags.engine == "dedicated"
    }

    /// What all builds together may use, unless it is said: 2 GiB, or 60 % of the machine's memory if that is less
    /// (CONTRACTS, "Limits"). Unknown where the kernel does not say.
    pub(crate) fn build_memory_bytes(&self) -> Option<u64> {
        if let Some(mb) = self.flags.build_memory_mb {
            return Some(mb.get().saturating_mul(1 << 20));
        }
        Some((half_of_memory()? / 5 * 6).min(2 << 30))
    }

    /// Whether there should be a firewall. Only root can have one.
    pub(crate) fn firewall(&self) -> bool {
        match self.flags.firewall {
            Some(switch) => switch == Switch::On,
            None => rustix::process::geteuid().is_root(),
        }
    }

    /// Whether the firewall was turned off, or never turned on.
    pub(crate) fn firewall_named(&self) -> bool {
        self.flags.firewall.is_some()
    }

    /// Whether every connection begins with a PROXY header.
    pub(crate) fn proxy_protocol(&self) -> bool {
        self.flags.proxy_protocol
    }

    /// Who the proxy's clients are, and how many there may be of them, with so many descriptors.
    pub(crate) fn clients(&self, descriptors: u64) -> Clients {
        let mut clients = Clients::for_descriptors(descriptors);
        if let Some(max) = self.flags.max_connections {
            if max.get() > clients.max {
                tracing::warn!(
                    "--max-connections {max} is more than the limit on open files allows: {}",
                    clients.max
                );
            }
            clients.limit(max.get().min(clients.max));
        }
        clients.max_each = self.flags.max_connections_per_client;
        clients.proxy_protocol = self.flags.proxy_protocol;
        clients.trusted.clone_from(&self.flags.trusted_proxy);
        clients
    }

    /// The environment that makes a child resolve the same settings.
    pub(crate) fn as_environment(&self) -> Vec<(&'static str, OsString)> {
        let listen: Vec<String> = self.http_listen.iter().map(SocketAddr::to_string).collect();
        let mut environment = vec![
            ("MINID_DATA_DIR", self.data_dir.clone().into_os_string()),
            ("MINID_HTTP_LISTEN", listen.join(",").into()),
            ("MINID_HTTPS_LISTEN", self.https_as_text().into()),
            ("MINID_DOMAIN", self.flags.domain.join(",").into()),
            ("MINID_ENGINE", self.flags.engine.clone().into()),
            ("MINID_BOOT_TIMEOUT_S", self.flags.boot_timeout_s.to_string().into()),
            ("MINID_DRAIN_S", self.flags.drain_s.to_string().into()),
            ("MINID_GRACE_S", self.flags.grace_s.to_string().into()),
            ("MINID_BUILD_TIMEOUT_S", self.flags.build_timeout_s.to_string().into()),
        ];
        if self.proxy_dir != self.data_dir {
            environment.push(("MINID_PROXY_DIR", self.proxy_dir.clone().into_os_string()));
        }
        if let Some(path) = &self.api_socket {
            environment.push(("MINID_API_SOCKET", path.clone().into_os_string()));
        }
        let clients = &self.flags;
        environment.push((
            "MINID_MAX_CONNECTIONS_PER_CLIENT",
            clients.max_connections_per_client.to_string().into(),
        ));
        environment.push(("MINID_PROXY_PROTOCOL", clients.proxy_protocol.to_string().into()));
        if let Some(max) = clients.max_connections {
            environment.push(("MINID_MAX_CONNECTIONS", max.to_string().into()));
        }
        if !clients.trusted_proxy.is_empty() {
            let all = Vec::from_iter(clients.trusted_proxy.iter().map(Cidr::to_string)).join(",");
            environment.push(("MINID_TRUSTED_PROXY", all.into()));
        }
        environment.extend(self.flags.acme.environment());
        if let Some(switch) = self.flags.firewall {
            let word = if switch == Switch::On { "on" } else { "off" };
            environment.push(("MINID_FIREWALL", word.into()));
        }
        if let Some(mb) = self.flags.instance_memory_mb {
            environment.push(("MINID_INSTANCE_MEMORY_MB", mb.to_string().into()));
        }
        if let Some(mb) = self.flags.build_memory_mb {
            environment.push(("MINID_BUILD_MEMORY_MB", mb.to_string().into()));
        }
        if let Some(backups) = self.schedule() {
            let every = format!("{}s", backups.every.as_secs());
            environment.push(("MINID_BACKUP_DIR", backups.folder.into_os_string()));
            environment.push(("MINID_BACKUP_EVERY", every.into()));
            environment.push(("MINID_BACKUP_KEEP", backups.keep.to_string().into()));
        }
        if let Some(address) = self.metrics_listen {
            environment.push(("MINID_METRICS_LISTEN", address.to_string().into()));
        }
        if let Some(pool) = self.network_pool {
            environment.push(("MINID_NETWORK_POOL", pool.to_string().into()));
        }
        environment
    }
}
