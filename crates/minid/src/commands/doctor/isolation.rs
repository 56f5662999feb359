//! What an app reaches, tried from inside a container: one of our own, in a network that is made for
//! it and that the firewall takes for an app's.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mini_core::id::ServerId;
use mini_core::name::AppName;
use mini_core::ports::{
    BuildSpec, Builder, InstanceSpec, InstanceState, NetworkSpec, Progress, Runtime, RuntimeError,
    RuntimeErrorKind, RuntimeResult,
};
use mini_core::release::Limits;
use mini_core::subnet::{Subnet, choose_pool, default_pools};
use mini_docker::{Docker, DockerConfig};
use tokio::time::Instant;

use super::super::firewall::server;
use crate::settings::Settings;

const METADATA: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// From the start of the container to its end; it waits a second for each address, all at once.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
const NAME: &str = "doctor";

/// One thing that was tried.
pub(super) struct Tried {
    pub(super) what: &'static str,
    pub(super) at: SocketAddr,
    /// Whether an app should reach it.
    pub(super) wanted: bool,
    /// `open`, `refused`, `timeout`, or another error.
    pub(super) found: String,
}

impl Tried {
    pub(super) fn is_right(&self) -> bool {
        (self.found == "open") == self.wanted
    }
}

/// Tries all of it; an error is that it could not be tried.
pub(super) async fn look(settings: &Settings) -> Result<Vec<Tried>, String> {
    let server = server(settings).await.ok_or("there is no server yet")?;
    // Another server to the controller, which leaves it alone; one of its own to the firewall, which
    // goes by the first four characters. The same each time, so that what a look which was cut off has
    // left is found by the next.
    let probe: ServerId =
        format!("{}{NAME}", server.short()).parse().map_err(|error| format!("{error}"))?;
    let engine = |server| {
        let host = settings.docker_host.clone();
        Docker::connect(DockerConfig { server, host, default_memory_bytes: None })
    };
    let words = |error: RuntimeError| error.message;
    let ours = engine(server).map_err(words)?;
    let docker = engine(probe).map_err(words)?;
    clean(&docker).await;
    let mut taken = docker.subnets_in_use().await.map_err(words)?;
    taken.extend(mini_docker::host_routes().await);
    // From the other end than the controller's own choice.
    let pools = default_pools().collect::<Vec<_>>().into_iter().rev();
    let pool = choose_pool(pools, &taken).ok_or("no network is free for it")?;
    let subnet = pool.app_subnet(0).ok_or("no network is free for it")?;

    // A service of this machine that no app has any business with.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    let gateway = subnet.gateway();
    let at = |address: Ipv4Addr, port: u16| SocketAddr::new(address.into(), port);
    let mut asked = vec![
        ("another service of this machine, at the network's gateway", at(gateway, port), false),
        ("the cloud's metadata", METADATA, false),
    ];
    if let Some(own) = own_address() {
        asked.push(("another service of this machine, at its own address", at(own, port), false));
    }
    let others = ours.observe().await.map_err(words)?;
    let serving = others.iter().find_map(|i| match (i.state, i.address, i.port) {
        (InstanceState::Running { .. }, Some(address), Some(port)) => Some(at(address, port)),
        _ => None,
    });
    asked.extend(serving.map(|address| ("another app's instance", address, false)));
    // Where the door listens on loopback alone no app reaches it.
    let public = |a: &&SocketAddr| !a.ip().is_loopback();
    if let Some(door) = settings.http_listen.iter().find(public) {
        asked.push(("the front door", at(gateway, door.port()), true));
    }

    let addresses = asked.iter().map(|(_, address, _)| *address).collect();
    let tried = try_all(&docker, &settings.static_binary, subnet, addresses).await;
    clean(&docker).await;
    let found = tried.map_err(words)?;
    drop(listener);
    let row = |(what, at, wanted)| Tried {
        found: found.get(&at).cloned().unwrap_or_else(|| "not tried".to_owned()),
        what,
        at,
        wanted,
    };
    Ok(asked.into_iter().map(row).collect())
}

/// The address that this machine's packets to the world have; none is sent.
fn own_address() -> Option<Ipv4Addr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    }
}

fn broken(what: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::new(RuntimeErrorKind::Other, what.to_string())
}

async fn try_all(
    docker: &Docker,
    program: &Path,
    subnet: Subnet,
    addresses: Vec<SocketAddr>,
) -> RuntimeResult<BTreeMap<SocketAddr, String>> {
    docker.info().await?;
    let app: AppName = NAME.parse().map_err(broken)?;
    let image = image(docker, &app, program).await?;
    docker.ensure_network(NetworkSpec { app: app.clone(), subnet }).await?;
    let mut command = vec!["/probe".to_owned(), "dial".to_owned()];
    command.extend(addresses.iter().map(SocketAddr::to_string));
    let id: mini_core::id::InstanceId = NAME.parse().map_err(broken)?;
    let spec = InstanceSpec {
        id: id.clone(),
        app,
        rollout: NAME.parse().map_err(broken)?,
        release: 1,
        process: "probe".parse().map_err(broken)?,
        ordinal: 1,
        image,
        command: Some(command),
        env: Vec::new(),
        address: Ipv4Addr::from(u32::from(subnet.gateway()) + 1),
        port: None,
        limits: Limits::default(),
        alone: false,
        volumes: Vec::new(),
        one_off: None,
    };
    docker.start(spec).await?;
    let until = Instant::now() + PATIENCE;
    loop {
        let now = docker.observe_one(id.clone()).await?;
        if now.is_none_or(|instance| matches!(instance.state, InstanceState::Exited { .. })) {
            break;
        }
        if Instant::now() > until {
            return Err(broken("the container does not end"));
        }
        tokio::time::sleep(LOOK).await;
    }
    let mut lines = docker.logs(id, None, false);
    let mut found = BTreeMap::new();
    while let Some(line) = lines.next().await {
        let text = String::from_utf8_lossy(&line?.text).into_owned();
        if let Some((address, what)) = text.trim().split_once(' ')
            && let Ok(address) = address.parse()
        {
            found.insert(address, what.to_owned());
        }
    }
    Ok(found)
}

/// An image with the static-file server alone, which can also dial.
async fn image(docker: &Docker, app: &AppName, program: &Path) -> RuntimeResult<String> {
    let program = std::fs::read(program).map_err(broken)?;
    let mut tar = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8]); 2] =
        [("Dockerfile", b"FROM scratch\nCOPY probe /probe\n"), ("probe", &program)];
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, name, content).map_err(broken)?;
    }
    let context = Bytes::from(tar.into_inner().map_err(broken)?);
    let mut steps = docker.build(BuildSpec {
        app: app.clone(),
        deployment: NAME.parse().map_err(broken)?,
        dockerfile: "Dockerfile".into(),
        context: Box::pin(stream::iter([Ok(context)])),
        use_cache: true,
        // There is nothing in it that anybody might not have.
        secret: NAME.to_owned(),
    });
    while let Some(step) = steps.next().await {
        if let Progress::Image(id) = step? {
            return Ok(id);
        }
    }
    Err(broken("the build of its image ended without one"))
}

/// What was made for it, whatever came of it.
async fn clean(docker: &Docker) {
    for instance in docker.observe().await.unwrap_or_default() {
        let _ = docker.remove(instance.id).await;
    }
    for app in docker.networks().await.unwrap_or_default() {
        let _ = docker.remove_network(app).await;
    }
    for image in docker.images().await.unwrap_or_default() {
        let _ = docker.remove_image(image).await;
    }
}
