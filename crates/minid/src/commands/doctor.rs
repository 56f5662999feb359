//! `minid doctor`: what is there, what is wrong, and what to do about it.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::process::ExitCode;

use mini_controller::{Firewall, FirewallLook};
use mini_core::cause::size;
use mini_core::id::ServerId;
use mini_core::ports::{EngineInfo, Runtime};
use mini_core::subnet::{choose_pool, default_pools};
use mini_docker::{Docker, DockerConfig};

mod isolation;

use crate::health;
use crate::output::{self, Fault};
use crate::settings::{Settings, VERSION};

/// The oldest Engine API that the platform was tried with (Docker 20.10).
const OLDEST_API: (u32, u32) = (1, 41);
/// Below this a build or a deploy is likely to fail.
const LOW_DISK: u64 = 2 << 30;

enum Finding {
    Good(String),
    /// Works, but the operator should know.
    Note(String, String),
    Bad(String, String),
}

use Finding::{Bad, Good, Note};

pub(crate) async fn run(settings: Settings) -> Result<ExitCode, Fault> {
    let mut findings = vec![Good(format!("minid {VERSION}"))];
    let server = "0000".parse::<ServerId>();
    let docker = server.ok().map(|server| {
        Docker::connect(DockerConfig {
            server,
            host: settings.docker_host.clone(),
            default_memory_bytes: None,
        })
    });
    match docker {
        Some(Ok(docker)) => engine(&settings, &docker, &mut findings).await,
        Some(Err(error)) => findings.push(Bad(error.message, error.hint.unwrap_or_default())),
        None => {}
    }
    findings.push(data_folder(&settings.data_dir));
    findings.push(disk("the data folder", &settings.data_dir));
    findings.push(static_server(&settings.static_binary));
    let running = health::over_unix(&settings.sockets.live("admin.sock")).await;
    findings.push(match &running {
        Some(health) if health.status == "ok" => {
            Good(format!("the controller runs ({})", health.version))
        }
        Some(health) => Bad(
            format!("the controller runs ({}), and is {}", health.version, health.status),
            "`mini --host unix:…/admin.sock version` or its log says why".into(),
        ),
        None => {
            Note("no controller runs on this data folder".into(), "`minid run` starts it".into())
        }
    });
    for address in &settings.http_listen {
        findings.push(port(&settings, *address, running.is_some()).await);
    }
    for address in &settings.https_listen {
        findings.push(secure_port(&settings, *address, running.is_some()).await);
    }
    for domain in &settings.domains {
        findings.push(names(domain.as_str()));
    }
    findings.push(certificates(&settings));
    let held = firewall(&settings).await;
    let try_it = matches!(held, Good(_));
    findings.push(held);
    if try_it {
        findings.extend(isolation(&settings).await);
    }
    let mut faults = 0;
    for finding in findings {
        match finding {
            Good(text) => output::line(&format!("ok    {text}")),
            Note(text, hint) => output::line(&format!("note  {text}\n      {hint}")),
            Bad(text, hint) => {
                faults += 1;
                output::line(&format!("FAULT {text}\n      {hint}"));
            }
        }
    }
    output::line(&match faults {
        0 => "no faults".to_owned(),
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    });
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn engine(settings: &Settings, docker: &Docker, findings: &mut Vec<Finding>) {
    let info = match docker.info().await {
        Ok(info) => info,
        Err(error) => {
            let hint = error.hint.unwrap_or_else(|| "is Docker running?".into());
            return findings.push(Bad(format!("the engine: {}", error.message), hint));
        }
    };
    findings.push(version(&info));
    findings.push(if info.buildkit {
        Good("builds go through BuildKit".into())
    } else {
        Note(
            "the engine has no BuildKit".into(),
            "builds use the classic builder, which is slower".into(),
        )
    });
    findings.push(builds(settings, docker, &info).await);
    findings.push(disk("the engine's data", &info.root_dir));
    if settings.network_pool.is_none() {
        let mut taken = docker.subnets_in_use().await.unwrap_or_default();
        taken.extend(mini_docker::host_routes().await);
        if choose_pool(default_pools(), &taken).is_none() {
            findings.push(Note(
                "every default network pool overlaps a network of this machine".into(),
                "unless this server chose one before, name a free one with --network-pool".into(),
            ));
        }
    }
}

/// Whether builds are held, seen with a step of one.
async fn builds(settings: &Settings, docker: &Docker, info: &EngineInfo) -> Finding {
    if !settings.dedicated() {
        return Note(
            "builds have no limit together, since the engine is shared with others".into(),
            "`--engine dedicated` limits them, on an engine that is mini's alone".into(),
        );
    }
    let Some(memory) = settings.build_memory_bytes() else {
        return Bad(
            "builds have no limit, since this machine's memory is not known".into(),
            "name one with --build-memory-mb".into(),
        );
    };
    let most = size(memory);
    if !info.buildkit {
        return Good(format!("each build is held to {most} by the classic builder"));
    }
    match docker.find_steps(&settings.static_binary).await {
        Err(why) => Bad(
            format!("whether builds are held could not be seen with a step of one: {why}"),
            "it takes root, the engine on this machine, and the static-file server".into(),
        ),
        Ok(steps) => match steps.look(memory) {
            Ok(()) => {
                Good(format!("all builds together are held to {most} (seen with a step: {steps})"))
            }
            Err(why) => Bad(
                format!("builds are not held (a step was seen {steps}): {why}"),
                "a controller that runs puts it right within 20 s; else its log says why".into(),
            ),
        },
    }
}

fn version(info: &EngineInfo) -> Finding {
    let api = info
        .api_version
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    let text = format!(
        "engine {} (API {}, {}, cgroup v{}, {} CPUs, {})",
        info.version,
        info.api_version,
        info.storage_driver,
        info.cgroup_version,
        info.cpus,
        size(info.memory_bytes)
    );
    match api {
        Some(api) if api >= OLDEST_API => Good(text),
        _ => Bad(text, "it is older than Docker 20.10 (API 1.41): upgrade it".into()),
    }
}

fn data_folder(path: &Path) -> Finding {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => Bad(
            format!("{} is not a folder", path.display()),
            "move it away, or name another --data-dir".into(),
        ),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Bad(
            format!("others may look into {}", path.display()),
            format!("chmod 700 {}", path.display()),
        ),
        Ok(_) => Good(format!("data folder {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Note(
            format!("the data folder {} is not there yet", path.display()),
            "the first start makes it".into(),
        ),
        Err(error) => Bad(format!("{}: {error}", path.display()), "start it as root".into()),
    }
}

/// Free space where `path` is, or will be.
fn disk(what: &str, path: &Path) -> Finding {
    let there = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let text = format!("{} free for {what} ({})", size(free), path.display());
            if free < LOW_DISK {
                Bad(text, "free some space: builds and deploys need it".into())
            } else {
                Good(text)
            }
        }
        Err(error) => {
            Bad(format!("{what} ({}): {error}", path.display()), "is the disk well?".into())
        }
    }
}

fn static_server(path: &Path) -> Finding {
    if path.is_file() {
        Good(format!("static-file server {}", path.display()))
    } else {
        Bad(
            format!("the static-file server {} is missing", path.display()),
            "put mini-static beside minid, or set MINID_STATIC".into(),
        )
    }
}

async fn port(settings: &Settings, address: SocketAddr, controller_runs: bool) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) if controller_runs => Bad(
            format!("nobody listens on {address}, though the controller runs"),
            "the proxy is away: its log says why".into(),
        ),
        Ok(_) => Good(format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            match health::over_tcp(address, settings.proxy_protocol()).await {
                Some(_) => Good(format!("{address} is served by mini")),
                None => Bad(
                    format!("{address} is taken by another program"),
                    "`ss -ltnp` names it; or name another --http-listen".into(),
                ),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            Note(format!("{address} is no address of this machine"), "it is left out".into())
        }
        Err(error) => Bad(
            format!("{address} cannot be listened on: {error}"),
            "start it as root, or name another --http-listen".into(),
        ),
    }
}

/// The same for https, which a default start may be without.
async fn secure_port(settings: &Settings, address: SocketAddr, controller_runs: bool) -> Finding {
    let trouble = |text: String, hint: &str| {
        if settings.default_https { Note(text, hint.into()) } else { Bad(text, hint.into()) }
    };
    match TcpListener::bind(address) {
        Ok(_) if controller_runs => trouble(
            format!("nobody listens on {address} for https, though the controller runs"),
            "the proxy's log says why",
        ),
        Ok(_) => Good(format!("{address} is free for https")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            if health::is_our_tls(address, settings.proxy_protocol()).await {
                Good(format!("{address} is served by mini over https"))
            } else {
                trouble(
                    format!("{address}, for https, is taken by another program"),
                    "`ss -ltnp` names it; or name another --https-listen",
                )
            }
        }
        Err(error) => trouble(
            format!("{address} cannot be listened on for https: {error}"),
            "start it as root, or name another --https-listen",
        ),
    }
}

async fn firewall(settings: &Settings) -> Finding {
    if !settings.firewall() {
        let why = if settings.firewall_named() { "it is off" } else { "this is not root" };
        return Note(
            format!("no firewall ({why}): apps reach services of this machine"),
            "run minid as root without --firewall off".into(),
        );
    }
    let Some(server) = super::firewall::server(settings).await else {
        return Note(
            "there is no firewall yet".into(),
            "the first start of the controller makes it".into(),
        );
    };
    let rules = super::firewall::rules(settings, &server);
    match Firewall::new(rules.clone()).look().await {
        Ok(FirewallLook::There(_)) => Good(format!("the firewall is in place ({})", rules.table())),
        Ok(FirewallLook::Missing) => Bad(
            "the firewall is not in place: apps reach services of this machine".into(),
            "a controller that runs puts it back within 20 s; else its log says why".into(),
        ),
        Err(why) => {
            Bad(format!("the firewall: {why}"), "it takes root, and nftables or iptables".into())
        }
    }
}

/// What the firewall says, tried from inside a container.
async fn isolation(settings: &Settings) -> Vec<Finding> {
    let tried = match isolation::look(settings).await {
        Ok(tried) => tried,
        Err(why) => {
            return vec![Note(
                format!("what apps reach could not be tried from inside a container: {why}"),
                "it takes the engine, and the static-file server".into(),
            )];
        }
    };
    let wrong = tried.iter().filter(|tried| !tried.is_right());
    let mut findings: Vec<Finding> = wrong
        .map(|tried| {
            let (what, at, found) = (tried.what, tried.at, &tried.found);
            match tried.wanted {
                true => Bad(
                    format!("from inside a container {what} ({at}) is not reached: {found}"),
                    "apps cannot call each other by their public names; another firewall of this \
                     machine may be in the way"
                        .into(),
                ),
                false => Bad(
                    format!("from inside a container {what} ({at}) can be reached: {found}"),
                    "`minid firewall show` prints our rules; another program may have changed them"
                        .into(),
                ),
            }
        })
        .collect();
    if findings.is_empty() {
        let all: Vec<&str> = tried.iter().filter(|t| !t.wanted).map(|t| t.what).collect();
        findings
            .push(Good(format!("tried from inside a container, not reached: {}", all.join("; "))));
    }
    findings
}

fn certificates(settings: &Settings) -> Finding {
    let acme = &settings.acme;
    if let Some(path) = acme.ca_bundle.as_ref().filter(|path| !path.is_file()) {
        return Bad(
            format!("--acme-ca: there is no file {}", path.display()),
            "name a bundle of certificates in PEM, or leave it out for a public authority".into(),
        );
    }
    match &acme.off {
        None => Good(format!("certificates are ordered from {}", acme.directory)),
        Some(why) => Note("no certificates are ordered".to_owned(), why.clone()),
    }
}

fn names(domain: &str) -> Finding {
    let name = format!("doctor-check.{domain}");
    match (name.as_str(), 80).to_socket_addrs() {
        Ok(mut found) => match found.next() {
            Some(address) => Good(format!("*.{domain} resolves ({})", address.ip())),
            None => unresolved(domain),
        },
        Err(_) => unresolved(domain),
    }
}

fn unresolved(domain: &str) -> Finding {
    if domain == "localhost" || domain.ends_with(".localhost") {
        Note(
            format!("*.{domain} does not resolve on this machine"),
            "browsers and curl know it by themselves; for other programs install libnss-myhostname"
                .into(),
        )
    } else if domain.ends_with(".nip.io") {
        Note(
            format!("*.{domain} does not resolve on this machine"),
            "its resolver does not answer for nip.io, as those do that keep names from private \
             addresses; visitors who use another may have no trouble; --domain names a domain of \
             your own"
                .into(),
        )
    } else {
        Bad(
            format!("*.{domain} does not resolve"),
            format!("add a DNS record *.{domain} with this machine's address, or use IP.nip.io"),
        )
    }
}
