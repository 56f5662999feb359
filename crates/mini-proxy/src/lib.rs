//! The data plane: accepts connections, finds the app that a request names, and forwards it to
//! one of the app's instances.
//!
//! It knows routes and addresses, neither Docker nor a database nor a secret. The controller
//! tells it the routes over a socket ([`mini_core::control`]); without a controller it goes on
//! with what it knows, and starts with what its snapshot says.
//!
//! ```text
//!  client ── serve ── forward ──┬── table ──── upstream ── instance
//!                               └── (the door) upstream ── api.sock
//!  controller ── control ── apply ── table, snapshot, probe
//! ```

mod apply;
mod clock;
mod control;
mod error_page;
mod forward;
mod framing;
mod headers;
mod probe;
mod serve;
mod shared;
mod snapshot;
mod table;
mod upgrade;
mod upstream;

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use mini_core::name::HostName;
use tokio_util::task::AbortOnDropHandle;

use shared::Shared;

/// All that a proxy needs to be told.
#[derive(Debug)]
pub struct ProxyConfig {
    /// The platform's own domains: each app answers at `APP.DOMAIN`, the door at `DOMAIN` and
    /// `mini.DOMAIN`.
    pub domains: Vec<HostName>,
    /// Where plain HTTP comes in; already bound and listening.
    pub listeners: Vec<TcpListener>,
    /// Where the controller connects; made with mode 0600.
    pub control_socket: PathBuf,
    /// The user ids that may connect there.
    pub allowed_uids: Vec<u32>,
    /// The controller's API, to which the door forwards.
    pub api_socket: PathBuf,
    /// The file that the table is kept in.
    pub snapshot: PathBuf,
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    pub version: String,
    /// How long requests in flight may take after the shutdown signal.
    pub drain: Duration,
    /// How long a request is held for an app that is starting (H20).
    pub hold: Duration,
    pub timeouts: Timeouts,
}

/// Deadlines of requests. The defaults are CONTRACTS', "Routing" (Heroku's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// To a TCP connection (H19).
    pub connect: Duration,
    /// From the last byte of the request passed on to the first byte of the answer (H12).
    pub first_byte: Duration,
    /// While a body flows: from byte to byte, in either direction (H15).
    pub body_idle: Duration,
    /// The same for upgraded connections, and for the door's streams.
    pub upgraded_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            body_idle: Duration::from_secs(55),
            upgraded_idle: Duration::from_secs(3600),
        }
    }
}

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every request was answered to its end.
    All,
    /// This many requests (upgraded connections among them) outlasted the drain time.
    Cut(u64),
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("the control socket {path} cannot be made")]
    ControlSocket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a listener cannot be used")]
    Listener(#[source] io::Error),
}

/// Serves until `shutdown` is ready, then drains.
///
/// A snapshot that is missing or damaged means an empty table, never an error.
pub async fn run(
    config: ProxyConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Drained, ProxyError> {
    let shared = Arc::new(Shared::new(&config));
    match snapshot::read(&config.snapshot) {
        Ok(Some(image)) => {
            let (generation, apps) = (image.generation, image.apps.len());
            apply::restore(&shared, image);
            tracing::info!(generation, apps, "the routes come from the snapshot");
        }
        Ok(None) => tracing::info!("there is no snapshot: the table is empty"),
        Err(error) => {
            let path = config.snapshot.display();
            tracing::error!(%error, %path, "the snapshot is not usable: the table is empty");
        }
    }
    let socket = control::Socket::bind(&config.control_socket)
        .map_err(|source| ProxyError::ControlSocket { path: config.control_socket, source })?;
    let mut accepting = Vec::new();
    for listener in config.listeners {
        listener.set_nonblocking(true).map_err(ProxyError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(ProxyError::Listener)?;
        accepting.push(tokio::spawn(serve::accept(Arc::clone(&shared), listener)));
    }
    let background = [
        tokio::spawn(control::listen(Arc::clone(&shared), socket, config.allowed_uids)),
        tokio::spawn(snapshot::keep(Arc::clone(&shared), config.snapshot)),
        tokio::spawn(sweep(Arc::clone(&shared))),
    ]
    .map(AbortOnDropHandle::new);

    shutdown.await;
    tracing::info!("draining: no new connections");
    shared.draining.cancel();
    for task in accepting {
        let _ = task.await;
    }
    let drained = drain(&shared, config.drain).await;
    drop(background);
    shared.end();
    Ok(drained)
}

/// Waits for the connections to end, at most `time`; then cuts what is left.
async fn drain(shared: &Shared, time: Duration) -> Drained {
    shared.tasks.close();
    if tokio::time::timeout(time, shared.tasks.wait()).await.is_ok() {
        return Drained::All;
    }
    let cut = shared.counters.in_flight.load(SeqCst);
    shared.counters.cut.fetch_add(cut, SeqCst);
    shared.cut.cancel();
    shared.tasks.wait().await;
    if cut == 0 { Drained::All } else { Drained::Cut(cut) }
}

/// Closes idle upstream connections before the other side does.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        shared.door.sweep();
        for target in shared.table.load_full().apps.values().flat_map(|a| &a.targets) {
            target.endpoint.sweep();
        }
    }
}
