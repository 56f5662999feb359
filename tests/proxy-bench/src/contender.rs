//! The proxies that are compared: the same upstream behind each, one process tree on CPU 0.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::PROXY_CPU;
use crate::control::Controls;
use crate::lines::Lines;
use crate::process::Process;
use crate::upstream::{Certificate, free_port};
use crate::{HOST, http};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's `nginx.conf` and `proxy_params`, and nothing but `proxy_pass`.
    Packaged,
    /// With `deferred`, `tcp_nodelay`, kept connections to the upstream, and no access log.
    Tuned,
    Haproxy,
    Caddy,
    /// With a table of so many apps.
    Mini(usize),
}

impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Packaged, Kind::Tuned, Kind::Haproxy, Kind::Caddy, Kind::Mini(10)];

    pub(crate) fn name(self) -> String {
        match self {
            Kind::Packaged => "nginx".into(),
            Kind::Tuned => "nginx-tuned".into(),
            Kind::Haproxy => "haproxy".into(),
            Kind::Caddy => "caddy".into(),
            Kind::Mini(10) => "mini".into(),
            Kind::Mini(routes) => format!("mini-{routes}"),
        }
    }
}

/// What every contender is started with.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The folder with `minid`.
    pub(crate) bin: PathBuf,
    /// Where configuration and logs go.
    pub(crate) folder: PathBuf,
    pub(crate) certificate: Certificate,
    /// Whether this `minid` can listen for https.
    pub(crate) mini_https: bool,
    /// How many files each process may open.
    pub(crate) files: u64,
}

/// A proxy that answers.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) https: Option<SocketAddr>,
    /// mini's; it is told its routes.
    pub(crate) controls: Option<Controls>,
    /// mini's too: its line for each request.
    pub(crate) lines: Option<Lines>,
    pub(crate) upstream: SocketAddr,
}

impl Contender {
    /// Starts one in front of `upstream`, and waits until `path` is answered through it.
    pub(crate) fn start(
        setting: &Setting,
        kind: Kind,
        upstream: SocketAddr,
        path: &str,
    ) -> Result<Self> {
        let name = kind.name();
        let folder = setting.folder.join(format!("{name}-{}", free_port()?.port()));
        fs::create_dir(&folder)?;
        let (http, https) = (free_port()?, free_port()?);
        let told = match kind {
            Kind::Packaged | Kind::Tuned => nginx(setting, kind, &folder, http, https, upstream)?,
            Kind::Haproxy => haproxy(setting, &folder, http, https, upstream)?,
            Kind::Caddy => caddy(setting, &folder, http, https, upstream)?,
            Kind::Mini(_) => mini(setting, &folder, http, https),
        };
        let words: Vec<&str> = told.words.iter().map(String::as_str).collect();
        let environment = [
            // caddy keeps what it makes below these.
            ("HOME", folder.to_str().context("a path in UTF-8")?),
            ("XDG_DATA_HOME", folder.to_str().context("a path in UTF-8")?),
            ("XDG_CONFIG_HOME", folder.to_str().context("a path in UTF-8")?),
            ("MINID_LOG", "warn"),
        ];
        let process = Process::start(&name, PROXY_CPU, &folder, &words, &environment)?;
        let https = told.https.then_some(https);
        let mut this = Self { kind, process, http, https, controls: None, lines: None, upstream };
        let ready = this.make_ready(setting, &folder, path);
        ready.with_context(|| {
            let log = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
            format!("{name} does not serve; it said: {}", log.trim())
        })?;
        Ok(this)
    }

    fn make_ready(&mut self, setting: &Setting, folder: &Path, path: &str) -> Result<()> {
        if let Kind::Mini(routes) = self.kind {
            let socket = folder.join("control.sock");
            let mut controls = Controls::connect(&socket)?;
            self.lines = Some(Lines::follow(&socket)?);
            if self.https.is_some() {
                controls.certificate(&setting.certificate)?;
            }
            controls.table(routes, self.upstream)?;
            self.controls = Some(controls);
        }
        let begun = Instant::now();
        loop {
            match http::get(self.http, HOST, path) {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > PATIENCE || self.process.ended() => {
                    return Err(error);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// How a contender is started.
struct Told {
    words: Vec<String>,
    https: bool,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn nginx(
    setting: &Setting,
    kind: Kind,
    folder: &Path,
    http: SocketAddr,
    https: SocketAddr,
    upstream: SocketAddr,
) -> Result<Told> {
    let (at, certificate) = (folder.display(), &setting.certificate);
    let (chain, key) = (certificate.chain.display(), certificate.key.display());
    let tuned = kind == Kind::Tuned;
    // As in /etc/nginx/nginx.conf of Debian 12; `deferred`, logs and connections apart.
    let (deferred, log, connections, more) = match tuned {
        false => ("", format!("access_log {at}/access.log;"), 768, String::new()),
        true => (
            " deferred backlog=4096",
            "access_log off; tcp_nodelay on; keepalive_requests 1000000000;".to_owned(),
            19_000,
            "proxy_request_buffering off; proxy_http_version 1.1; proxy_set_header Connection \"\";".to_owned(),
        ),
    };
    let keep = if tuned { "keepalive 128; keepalive_requests 1000000000;" } else { "" };
    // For the sole purpose of full handshakes no server's tickets must be off: the client has none.
    let configuration = format!(
        "user root;
worker_processes 1;
pid {at}/nginx.pid;
error_log {at}/error.log;
events {{ worker_connections {connections}; }}
http {{
  sendfile on;
  tcp_nopush on;
  types_hash_max_size 2048;
  default_type application/octet-stream;
  ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
  ssl_prefer_server_ciphers on;
  {log}
  gzip on;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  upstream app {{ server {upstream}; {keep} }}
  server {{
    listen {http}{deferred};
    listen {https} ssl http2{deferred};
    ssl_certificate {chain};
    ssl_certificate_key {key};
    server_name {HOST};
    client_max_body_size 0;
    location / {{
      proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      {more}
      proxy_pass http://app;
    }}
  }}
}}
"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, configuration)?;
    let words = words(&[
        "nginx",
        "-p",
        &at.to_string(),
        "-e",
        &format!("{at}/error.log"),
        "-c",
        &path.display().to_string(),
        "-g",
        "daemon off;",
    ]);
    Ok(Told { words, https: true })
}

fn haproxy(
    setting: &Setting,
    folder: &Path,
    http: SocketAddr,
    https: SocketAddr,
    upstream: SocketAddr,
) -> Result<Told> {
    let path = folder.join("haproxy.cfg");
    let certificate = setting.certificate.both.display();
    let configuration = format!(
        "global
  nbthread 1
  maxconn 15000
  no strict-limits
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
frontend in
  bind {http}
  bind {https} ssl crt {certificate} alpn h2,http/1.1
  default_backend app
backend app
  server app {upstream}
"
    );
    fs::write(&path, configuration)?;
    let words = words(&["haproxy", "-db", "-f", &path.display().to_string()]);
    Ok(Told { words, https: true })
}

fn caddy(
    setting: &Setting,
    folder: &Path,
    http: SocketAddr,
    https: SocketAddr,
    upstream: SocketAddr,
) -> Result<Told> {
    let path = folder.join("Caddyfile");
    let (chain, key) = (setting.certificate.chain.display(), setting.certificate.key.display());
    let configuration = format!(
        "{{
  admin off
  auto_https disable_redirects
  http_port {http_port}
  https_port {https_port}
}}
http://{HOST}:{http_port} {{
  bind 127.0.0.1
  reverse_proxy {upstream}
}}
https://{HOST}:{https_port} {{
  bind 127.0.0.1
  tls {chain} {key}
  reverse_proxy {upstream}
}}
",
        http_port = http.port(),
        https_port = https.port(),
    );
    fs::write(&path, configuration)?;
    let path = path.display().to_string();
    let words = words(&["caddy", "run", "--config", &path, "--adapter", "caddyfile"]);
    Ok(Told { words, https: true })
}

fn mini(setting: &Setting, folder: &Path, http: SocketAddr, https: SocketAddr) -> Told {
    let minid = setting.bin.join("minid").display().to_string();
    let (http, https) = (http.to_string(), https.to_string());
    let mut all = words(&[&minid, "proxy", "--http-listen", &http]);
    if setting.mini_https {
        all.extend(words(&["--https-listen", &https]));
    }
    all.extend(words(&["--data-dir", &folder.display().to_string()]));
    Told { words: all, https: setting.mini_https }
}

/// Whether this `minid` has listeners for https.
pub(crate) fn mini_has_https(bin: &Path) -> Result<bool> {
    let minid = bin.join("minid");
    let said = std::process::Command::new(&minid).args(["proxy", "--help"]).output();
    let said = said.with_context(|| format!("{}", minid.display()))?;
    if !said.status.success() {
        bail!("minid proxy --help: {}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(String::from_utf8_lossy(&said.stdout).contains("--https-listen"))
}
