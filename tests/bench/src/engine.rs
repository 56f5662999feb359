//! The Docker Engine by itself, over its Unix socket: what mini's deploys are compared with.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::POLL;
use crate::http::Socket;

/// The label of what the comparison makes; what mini makes carries its own.
const LABEL: &str = "mini.bench";
const OWN_SOCKET: &str = "/var/run/docker.sock";
/// What the fixture's image exposes.
pub(crate) const PORT: u16 = 8080;

pub(crate) struct Engine {
    pub(crate) socket: Socket,
    /// `20.10.24 (API 1.41)`
    pub(crate) version: String,
    /// Tells this run's objects from another's.
    mark: String,
    /// The bridge of the comparison: its name and the first three bytes of its addresses.
    bridge: Option<(String, [u8; 3])>,
    used: u8,
}

fn filter(label: &str) -> String {
    encoded(&json!({ "label": [label] }))
}

fn encoded(filters: &Value) -> String {
    filters.to_string().bytes().map(|b| format!("%{b:02X}")).collect()
}

/// An open stream of events, read as bytes: only that something came matters.
pub(crate) struct Starts {
    stream: UnixStream,
    seen: Vec<u8>,
}

impl Starts {
    /// Waits for the first start, at no cost to the machine.
    pub(crate) async fn first(mut self) -> Result<()> {
        const START: &[u8] = br#""Action":"start""#;
        while !self.seen.windows(START.len()).any(|window| window == START) {
            if self.stream.read_buf(&mut self.seen).await? == 0 {
                bail!("the engine ended its events");
            }
        }
        Ok(())
    }
}

impl Engine {
    pub(crate) async fn connect(mark: &str) -> Result<Self> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let path = match host.strip_prefix("unix://") {
            Some(path) => path,
            None if host.is_empty() => OWN_SOCKET,
            None => bail!("DOCKER_HOST={host}: only a unix:// socket is measured"),
        };
        let mut socket = Socket::new(Path::new(path));
        let version = socket.json(Method::GET, "/version", &Value::Null).await?;
        let text = |key: &str| version[key].as_str().unwrap_or("?").to_owned();
        socket.prefix = format!("/v{}", text("ApiVersion"));
        let version = format!("{} (API {})", text("Version"), text("ApiVersion"));
        Ok(Self { socket, version, mark: mark.to_owned(), bridge: None, used: 1 })
    }

    pub(crate) fn image(&self) -> String {
        format!("mini-bench/fixture:{}", self.mark)
    }

    /// Makes the image that is deployed: the fixture and nothing else, as `FROM scratch` would.
    pub(crate) async fn make_image(&self, fixture: &Path) -> Result<()> {
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_path_with_name(fixture, "mini-fixture")?;
        let (image, mark) = (self.image(), &self.mark);
        let changes = format!(
            "changes=CMD%20%5B%22%2Fmini-fixture%22%5D&changes=EXPOSE%20{PORT}\
             &changes=LABEL%20{LABEL}%3D{mark}"
        );
        let (repo, tag) = image.split_once(':').context("a name without a tag")?;
        let path = format!("/images/create?fromSrc=-&repo={repo}&tag={tag}&{changes}");
        let body = archive.into_inner()?.into();
        let limit = Duration::from_secs(60);
        let sent = self.socket.send(Method::POST, &path, "application/x-tar", body, limit);
        let (status, answer) = sent.await?;
        let answer = String::from_utf8_lossy(&answer);
        if !status.is_success() || answer.contains("\"error\"") {
            bail!("the image could not be made: {status} {answer}");
        }
        Ok(())
    }

    /// A bridge like an app's: a subnet of its own, chosen by us, no IPv6.
    pub(crate) async fn make_bridge(&mut self) -> Result<()> {
        if self.bridge.is_some() {
            return Ok(());
        }
        let name = format!("mini-bench-{}", self.mark);
        let mut refusal = String::new();
        for third in 0..64_u8 {
            let start = [10, 221, third];
            let [a, b, c] = start;
            let network = json!({
                "Name": name, "Driver": "bridge", "EnableIPv6": false,
                "Labels": { LABEL: self.mark },
                "IPAM": { "Config": [{
                    "Subnet": format!("{a}.{b}.{c}.0/26"), "Gateway": format!("{a}.{b}.{c}.1"),
                }] },
            });
            match self.socket.json(Method::POST, "/networks/create", &network).await {
                Ok(_) => {
                    self.bridge = Some((name, start));
                    return Ok(());
                }
                // Taken by another network, most likely.
                Err(error) => refusal = error.to_string(),
            }
        }
        bail!("no network could be made: {refusal}")
    }

    /// Create, start, first TCP accept, of a container that is what `like` is but for its name,
    /// network and labels. Answers with the time until created, started and accepted.
    pub(crate) async fn time_one(&mut self, like: &Value) -> Result<[Duration; 3]> {
        let (bridge, [a, b, c]) = self.bridge.clone().context("no bridge was made")?;
        // Round robin, as mini gives out its own.
        self.used = if self.used >= 60 { 2 } else { self.used + 1 };
        let address = Ipv4Addr::new(a, b, c, self.used);
        let mut host_config = like["HostConfig"].clone();
        host_config["NetworkMode"] = json!(bridge);
        let wanted = json!({
            "Image": self.image(),
            "Hostname": like["Config"]["Hostname"],
            "Env": like["Config"]["Env"],
            "Healthcheck": { "Test": ["NONE"] },
            "Labels": { LABEL: self.mark },
            "HostConfig": host_config,
            "NetworkingConfig": { "EndpointsConfig": {
                bridge: { "IPAMConfig": { "IPv4Address": address.to_string() } },
            } },
        });
        let begun = Instant::now();
        let made = self.socket.json(Method::POST, "/containers/create", &wanted).await?;
        let created = begun.elapsed();
        let id = made["Id"].as_str().context("a container without an id")?.to_owned();
        self.socket.json(Method::POST, &format!("/containers/{id}/start"), &Value::Null).await?;
        let started = begun.elapsed();
        let accepting = async {
            while TcpStream::connect((address, PORT)).await.is_err() {
                tokio::time::sleep(POLL).await;
            }
            begun.elapsed()
        };
        let accepted = tokio::time::timeout(Duration::from_secs(30), accepting).await;
        self.remove_container(&id).await?;
        Ok([created, started, accepted.context("the container did not listen within 30 s")?])
    }

    /// The containers with a label, running or not: their ids.
    pub(crate) async fn containers(&self, label: &str) -> Result<Vec<String>> {
        let path = format!("/containers/json?all=1&filters={}", filter(label));
        let list = self.socket.json(Method::GET, &path, &Value::Null).await?;
        let ids = list.as_array().into_iter().flatten();
        Ok(ids.filter_map(|c| Some(c["Id"].as_str()?.to_owned())).collect())
    }

    /// Subscribes to starts of containers with a label.
    pub(crate) async fn starts(&self, label: &str) -> Result<Starts> {
        let filters = json!({ "type": ["container"], "event": ["start"], "label": [label] });
        let path = format!("{}/events?filters={}", self.socket.prefix, encoded(&filters));
        let mut stream = UnixStream::connect(&self.socket.path).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        Ok(Starts { stream, seen: Vec::new() })
    }

    pub(crate) async fn inspect(&self, container: &str) -> Result<Value> {
        let path = format!("/containers/{container}/json");
        self.socket.json(Method::GET, &path, &Value::Null).await
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let path = format!("/containers/{id}?force=1&v=1");
        self.socket.json(Method::DELETE, &path, &Value::Null).await.map(drop)
    }

    /// When a container was created and started, in nanoseconds since the epoch.
    pub(crate) async fn times_of(&self, container: &str) -> Result<(i64, i64)> {
        let found = self.inspect(container).await?;
        let time = |text: &Value| -> Result<i64> {
            let time: jiff::Timestamp = text.as_str().context("a time is missing")?.parse()?;
            Ok(i64::try_from(time.as_nanosecond())?)
        };
        Ok((time(&found["Created"])?, time(&found["State"]["StartedAt"])?))
    }

    /// Removes all that carries this run's label, and all of the platform `server`. What cannot be
    /// removed stops nothing; the last reason is the error.
    pub(crate) async fn clean(&self, server: Option<&str>) -> Result<()> {
        let own = format!("{LABEL}={}", self.mark);
        let servers = server.map(|id| format!("mini.server={id}"));
        let mut done = Ok(());
        for label in servers.into_iter().chain([own]) {
            // In this order: a network or an image in use stays.
            for (kind, list) in [
                ("containers", "/containers/json?all=1&filters="),
                ("networks", "/networks?filters="),
                ("images", "/images/json?all=1&filters="),
            ] {
                let path = format!("{list}{}", filter(&label));
                let found = self.socket.json(Method::GET, &path, &Value::Null).await?;
                for object in found.as_array().into_iter().flatten() {
                    let id = object["Id"].as_str().unwrap_or_default();
                    let path = format!("/{kind}/{id}?force=1");
                    let removed = self.socket.json(Method::DELETE, &path, &Value::Null).await;
                    done = removed.map(drop).and(done);
                }
            }
        }
        done
    }
}
