//! `minid proxy`.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use mini_proxy::ProxyConfig;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::oneshot;

use super::{Reload, StopSignals};
use crate::handover::{Listeners, Teller, Tie};
use crate::notify;
use crate::output::Fault;
use crate::program::Program;
use crate::settings::{Settings, VERSION};
use crate::supervise::{HAND_OVER, Launch, Start};
use crate::troubles;

/// How long a request waits for an app that boots.
const HOLD: Duration = Duration::from_secs(30);

pub(crate) async fn run(mut settings: Settings, given: Listeners) -> Result<ExitCode, Fault> {
    troubles::keep_in(&settings.proxy_dir, "proxy");
    let mut signals = StopSignals::new()?;
    let reload = Reload::new()?;
    let tied = settings.from_parent || settings.from_predecessor;
    let tie = tied.then(Tie::at_stdin).transpose();
    let tie = tie.map_err(|error| Fault::new(format!("standard input: {error}")))?;
    let listeners = match &tie {
        Some(tie) => tie
            .listeners()
            .map_err(|error| Fault::new(format!("no sockets came from the parent: {error}")))?,
        None => own_listeners(&mut settings, given)?,
    };
    super::make_folder(&settings.proxy_dir)?;
    let sockets = settings.proxy_sockets.make_folder()?;
    let no_handles =
        |error: std::io::Error| Fault::new(format!("a handle cannot be copied: {error}"));
    let (accepting, accepts) = oneshot::channel();
    let teller = tie.as_ref().map(Tie::teller).transpose().map_err(no_handles)?;
    tokio::spawn(serves(accepts, teller));
    let handing_over = if settings.from_parent {
        tokio::spawn(leave_to_parent(reload));
        None
    } else {
        let launch = Launch {
            name: "proxy",
            environment: settings.as_environment(),
            listeners: listeners.try_clone().map_err(no_handles)?,
        };
        Some(tokio::spawn(hand_over(launch, reload)))
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stopped);
    let config = ProxyConfig {
        domains: settings.domains.clone(),
        listeners: listeners.http,
        https_listeners: listeners.https,
        tls_dir: settings.tls_dir(),
        control_socket: sockets.join("control.sock"),
        metrics_socket: sockets.join("metrics.sock"),
        metrics_listen: settings.metrics_listen,
        allowed_uids: vec![0, rustix::process::geteuid().as_raw()],
        api_sockets: settings.api_sockets(),
        snapshot: settings.proxy_dir.join("routes.snapshot"),
        boot_id: boot_id(),
        version: VERSION.to_owned(),
        drain: Duration::from_millis(settings.timing.drain_ms),
        hold: HOLD,
        timeouts: mini_proxy::Timeouts::default(),
        clients: settings.clients(descriptors()),
        succeeds: settings.succeeds.then(|| settings.proxy_sockets.live("control.sock")),
        accepting: Some(accepting),
    };
    let stop = async move {
        match tie.filter(|_| settings.from_parent) {
            Some(parent) => tokio::select! {
                () = signals.any() => {}
                () = parent.gone() => tracing::warn!("the parent is gone: stopping"),
            },
            None => {
                signals.any().await;
                stopping.store(true, Relaxed);
                notify::stopping();
            }
        }
    };
    let drained = mini_proxy::run(config, stop).await.map_err(not_run)?;
    tracing::info!(?drained, "the proxy stopped");
    if let Some(handing_over) = handing_over.filter(|_| !stopped.load(Relaxed)) {
        // The service manager hears from this process which is the new one. One that has nothing
        // left to do would otherwise end before it is told, and the service with it.
        let _ = tokio::time::timeout(HAND_OVER, handing_over).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// How many descriptors this process may have, after it has asked for all that it is allowed.
fn descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit on open files stays as it is");
            soft.unwrap_or(u64::MAX)
        }
    }
}

/// With what it was that failed, to the bottom.
fn not_run(error: mini_proxy::ProxyError) -> Fault {
    let mut words = format!("the proxy: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        words.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Fault::new(words)
}

/// Says that connections are accepted, once they are.
async fn serves(accepts: oneshot::Receiver<()>, teller: Option<Teller>) {
    if accepts.await.is_err() {
        return;
    }
    match teller {
        // It is the one that the service manager hears.
        Some(teller) => teller.serves(),
        None => notify::ready(),
    }
}

/// Under a parent it is the parent that replaces this process.
async fn leave_to_parent(mut reload: Reload) {
    loop {
        reload.asked().await;
        tracing::warn!("SIGHUP is for the parent of this process; `minid reload` sends it there");
    }
}

/// Replaces this process by a new one when that is asked for. Until that one serves, all goes on.
async fn hand_over(launch: Launch, mut reload: Reload) {
    loop {
        reload.asked().await;
        tracing::info!("reloading: a new proxy takes over");
        notify::reloading();
        let new = match Program::on_disk() {
            Ok(program) => launch.replace(&program, Start::Successor).await,
            Err(error) => Err(format!("the program cannot be opened: {error}")),
        };
        match new {
            Ok(new) => {
                tracing::info!(pid = new.pid(), "a new proxy has taken over");
                return notify::reloaded(new.pid());
            }
            Err(why) => {
                tracing::error!(why, "no reload: the proxy that runs goes on");
                notify::reloaded(None);
            }
        }
    }
}

fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// The sockets that the service manager gave, else those of the settings. The settings say
/// afterwards where these listen.
pub(crate) fn own_listeners(settings: &mut Settings, given: Listeners) -> Result<Listeners, Fault> {
    if given.is_empty() {
        return bind_all(settings);
    }
    let addresses = |all: &[TcpListener]| {
        let all: Result<Vec<_>, _> = all.iter().map(TcpListener::local_addr).collect();
        all.map_err(|error| Fault::new(format!("a listening socket has no address: {error}")))
    };
    settings.http_listen = addresses(&given.http)?;
    settings.https_listen = addresses(&given.https)?;
    let (http, https) = (&settings.http_listen, &settings.https_listen);
    tracing::info!(?http, ?https, "the sockets come from the service manager");
    Ok(given)
}

/// Binds every address of the settings. What is bound of the https ones replaces them, since a
/// default start goes on without those that it cannot have.
fn bind_all(settings: &mut Settings) -> Result<Listeners, Fault> {
    let mut listeners = Listeners::default();
    for address in &settings.http_listen {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.http.push(listener),
            Err(error) if settings.default_listen && is_absent(*address, &error) => {}
            Err(error) => return Err(not_bound("--http-listen", *address, 8080, &error)),
        }
    }
    for address in &settings.https_listen {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.https.push(listener),
            Err(error) if settings.default_https && is_absent(*address, &error) => {}
            Err(error) if settings.default_https => tracing::warn!(
                "there is no https on {address}: {error}; --https-listen {}:8443 chooses another \
                 port, --https-listen off does without",
                address.ip()
            ),
            Err(error) => return Err(not_bound("--https-listen", *address, 8443, &error)),
        }
    }
    let bound = listeners.https.iter().map(TcpListener::local_addr);
    settings.https_listen = bound
        .collect::<Result<_, _>>()
        .map_err(|error| Fault::new(format!("a listening socket has no address: {error}")))?;
    Ok(listeners)
}

/// A machine without IPv6 still has its IPv4 loopback.
fn is_absent(address: SocketAddr, error: &std::io::Error) -> bool {
    address.is_ipv6()
        && address.ip().is_loopback()
        && error.kind() == std::io::ErrorKind::AddrNotAvailable
}

fn not_bound(flag: &str, address: SocketAddr, spare: u16, error: &std::io::Error) -> Fault {
    let other = format!("name another, such as {flag} {}", SocketAddr::new(address.ip(), spare));
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Fault::new(format!("{address} is taken by another program"))
                .hint(format!("stop that one (`ss -ltnp` names it), or {other}"))
        }
        std::io::ErrorKind::PermissionDenied => {
            Fault::new(format!("this user may not listen on {address}"))
                .hint(format!("start it as root, or {other}"))
        }
        _ => Fault::new(format!("{address} cannot be listened on: {error}")).hint(other),
    }
}
