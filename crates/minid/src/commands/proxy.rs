//! `minid proxy`.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use mini_proxy::ProxyConfig;

use super::StopSignals;
use crate::handover::Parent;
use crate::output::Fault;
use crate::settings::{Settings, VERSION};

/// How long a request waits for an app that boots.
const HOLD: Duration = Duration::from_secs(30);

pub(crate) async fn run(settings: Settings) -> Result<ExitCode, Fault> {
    let mut signals = StopSignals::new()?;
    let parent = settings.from_parent.then(Parent::at_stdin).transpose();
    let parent = parent.map_err(|error| Fault::new(format!("the parent: {error}")))?;
    let listeners = match &parent {
        Some(parent) => parent
            .listeners()
            .map_err(|error| Fault::new(format!("no sockets came from the parent: {error}")))?,
        None => bind_all(&settings)?,
    };
    super::make_data_folder(&settings)?;
    let config = ProxyConfig {
        domains: settings.domains.clone(),
        listeners,
        control_socket: settings.control_socket(),
        allowed_uids: vec![0, rustix::process::geteuid().as_raw()],
        api_socket: settings.api_socket(),
        snapshot: settings.data_dir.join("routes.snapshot"),
        boot_id: boot_id(),
        version: VERSION.to_owned(),
        drain: Duration::from_millis(settings.timing.drain_ms),
        hold: HOLD,
        timeouts: mini_proxy::Timeouts::default(),
    };
    let stop = async move {
        match parent {
            Some(parent) => tokio::select! {
                () = signals.any() => {}
                () = parent.gone() => tracing::warn!("the parent is gone: stopping"),
            },
            None => signals.any().await,
        }
    };
    let drained = mini_proxy::run(config, stop)
        .await
        .map_err(|error| Fault::new(format!("the proxy: {error}")))?;
    tracing::info!(?drained, "the proxy stopped");
    Ok(ExitCode::SUCCESS)
}

fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

/// Binds every address of the settings.
pub(crate) fn bind_all(settings: &Settings) -> Result<Vec<TcpListener>, Fault> {
    let mut listeners = Vec::new();
    for address in &settings.http_listen {
        match TcpListener::bind(address) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6 still has its IPv4 loopback.
            Err(error)
                if settings.default_listen
                    && address.is_ipv6()
                    && address.ip().is_loopback()
                    && error.kind() == std::io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(not_bound(*address, &error)),
        }
    }
    Ok(listeners)
}

fn not_bound(address: SocketAddr, error: &std::io::Error) -> Fault {
    let other = format!("name another, such as --http-listen {}:8080", address.ip());
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
