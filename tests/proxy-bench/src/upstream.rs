//! What all contenders stand in front of: one nginx that serves files from memory, on the CPU of
//! the load; and the certificate that all show.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::{HOST, LOAD_CPU, http};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Upstream {
    _process: Process,
    pub(crate) at: SocketAddr,
}

impl Upstream {
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let folder = folder.join("upstream");
        let files = folder.join("files");
        fs::create_dir_all(&files)?;
        fs::write(files.join("1k"), vec![b'x'; 1 << 10])?;
        fs::write(files.join("64k"), vec![b'x'; 64 << 10])?;
        let (address, at) = (free_port()?, folder.display());
        let configuration = format!(
            "user root;
worker_processes 1;
pid {at}/nginx.pid;
events {{ worker_connections 19000; }}
http {{
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  access_log off;
  default_type application/octet-stream;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  open_file_cache max=16;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  server {{ listen {address} backlog=4096; root {at}/files; }}
}}
"
        );
        let path = folder.join("nginx.conf");
        fs::write(&path, configuration)?;
        let (at, path) = (at.to_string(), path.display().to_string());
        let log = format!("{at}/error.log");
        let words = ["nginx", "-p", &at, "-e", &log, "-c", &path, "-g", "daemon off;"];
        let mut process = Process::start("upstream", LOAD_CPU, &folder, &words, &[])?;
        let begun = Instant::now();
        while let Err(error) = http::get(address, "upstream", "/1k") {
            if begun.elapsed() > PATIENCE || process.ended() {
                return Err(error).context("the upstream does not serve");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { _process: process, at: address })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    /// Chain and key in one file, as haproxy wants it.
    pub(crate) both: PathBuf,
}

impl Certificate {
    /// ECDSA on P-256, signed by itself.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let this = Self { chain: file("chain.pem"), key: file("key.pem"), both: file("both.pem") };
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", &format!("/CN={HOST}"), "-addext"])
            .arg(format!("subjectAltName=DNS:{HOST}"))
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&this.key)
            .arg("-out")
            .arg(&this.chain)
            .output()
            .context("openssl")?;
        if !made.status.success() {
            bail!("openssl: {}", String::from_utf8_lossy(&made.stderr));
        }
        let both = [fs::read(&this.chain)?, fs::read(&this.key)?].concat();
        fs::write(&this.both, both)?;
        Ok(this)
    }
}

/// An address of loopback on which nobody listens; the kernel gives its port to no client, as it
/// takes those from 32,768 on.
pub(crate) fn free_port() -> Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..10_000 {
        let next = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as u16);
        let address = SocketAddr::from(([127, 0, 0, 1], 20_000 + next % 10_000));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port between 20,000 and 30,000 is free")
}
