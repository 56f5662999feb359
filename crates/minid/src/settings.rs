//! Flags and their environment twins, resolved once into plain settings.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mini_core::name::HostName;
use mini_core::release::Timing;
use mini_core::subnet::Subnet;

use crate::output::Fault;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the static-file server lies, if not beside `minid`.
const STATIC: &str = "MINID_STATIC";

#[derive(Args, Clone, Debug)]
pub(crate) struct Flags {
    /// Everything the platform owns lies in this folder
    #[arg(long, env = "MINID_DATA_DIR", default_value = "/var/lib/mini", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where apps are served [default: port 80, on loopback while the domain is localhost]
    #[arg(long, env = "MINID_HTTP_LISTEN", value_name = "ADDR:PORT", value_delimiter = ',')]
    http_listen: Vec<SocketAddr>,
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
    /// Whether the engine is ours alone; so far only `shared`
    #[arg(long, env = "MINID_ENGINE", default_value = "shared", value_parser = ["shared"])]
    engine: String,
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
    /// Take the listening sockets from the parent, over standard input (used by `minid run`)
    #[arg(long, hide = true)]
    from_parent: bool,
}

/// What a `minid` process was told to be.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) http_listen: Vec<SocketAddr>,
    /// Whether `http_listen` is the default, which may lack an address family.
    pub(crate) default_listen: bool,
    pub(crate) domains: Vec<HostName>,
    pub(crate) network_pool: Option<Subnet>,
    pub(crate) timing: Timing,
    pub(crate) build_timeout: Duration,
    pub(crate) docker_host: Option<String>,
    pub(crate) instance_memory_bytes: Option<u64>,
    pub(crate) static_binary: PathBuf,
    pub(crate) from_parent: bool,
    flags: Flags,
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
        let http_listen = match (default_listen, local) {
            (false, _) => self.http_listen,
            (true, true) => {
                vec![([127, 0, 0, 1], 80).into(), (std::net::Ipv6Addr::LOCALHOST, 80).into()]
            }
            (true, false) => vec![(std::net::Ipv6Addr::UNSPECIFIED, 80).into()],
        };
        let data_dir = std::path::absolute(&self.data_dir).map_err(|error| {
            Fault::new(format!("--data-dir {}: {error}", self.data_dir.display()))
        })?;
        let static_binary = match std::env::var_os(STATIC) {
            Some(path) => PathBuf::from(path),
            None => beside_us("mini-static"),
        };
        Ok(Settings {
            data_dir,
            http_listen,
            default_listen,
            domains,
            network_pool: self.network_pool,
            timing: Timing {
                boot_timeout_ms: self.boot_timeout_s.saturating_mul(1000),
                drain_ms: self.drain_s.saturating_mul(1000),
                grace_ms: self.grace_s.saturating_mul(1000),
            },
            build_timeout: Duration::from_secs(self.build_timeout_s),
            docker_host: std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty()),
            instance_memory_bytes: self
                .instance_memory_mb
                .map(|mb| mb.saturating_mul(1_000_000))
                .or_else(half_of_memory),
            static_binary,
            from_parent: self.from_parent,
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
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.data_dir.join("control.sock")
    }

    pub(crate) fn api_socket(&self) -> PathBuf {
        self.data_dir.join("api.sock")
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// The port in apps' URLs.
    pub(crate) fn public_port(&self) -> u16 {
        self.http_listen.first().map_or(80, SocketAddr::port)
    }

    /// The environment that makes a child resolve the same settings.
    pub(crate) fn as_environment(&self) -> Vec<(&'static str, OsString)> {
        let listen: Vec<String> = self.http_listen.iter().map(SocketAddr::to_string).collect();
        let mut environment = vec![
            ("MINID_DATA_DIR", self.data_dir.clone().into_os_string()),
            ("MINID_HTTP_LISTEN", listen.join(",").into()),
            ("MINID_DOMAIN", self.flags.domain.join(",").into()),
            ("MINID_ENGINE", self.flags.engine.clone().into()),
            ("MINID_BOOT_TIMEOUT_S", self.flags.boot_timeout_s.to_string().into()),
            ("MINID_DRAIN_S", self.flags.drain_s.to_string().into()),
            ("MINID_GRACE_S", self.flags.grace_s.to_string().into()),
            ("MINID_BUILD_TIMEOUT_S", self.flags.build_timeout_s.to_string().into()),
        ];
        if let Some(mb) = self.flags.instance_memory_mb {
            environment.push(("MINID_INSTANCE_MEMORY_MB", mb.to_string().into()));
        }
        if let Some(pool) = self.network_pool {
            environment.push(("MINID_NETWORK_POOL", pool.to_string().into()));
        }
        environment
    }
}
