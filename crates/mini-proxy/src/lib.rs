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

mod admit;
mod apply;
mod clock;
mod control;
mod error_page;
mod forward;
mod forwarded;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod h1;
mod h2;
mod limits;
mod overheard;
mod probe;
mod proxy_protocol;
mod seen;
mod serve;
mod shards;
mod shared;
mod snapshot;
mod sock;
mod succession;
mod table;
mod tls;
mod upstream;
mod websocket;
mod worker;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;
use std::time::Duration;

use mini_core::name::HostName;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use serve::Listener;
use shared::Shared;
use succession::Predecessor;

pub use limits::Clients;
pub use succession::Refusal;

pub use tls::{SPEAKS_HTTPS, TlsError, fingerprint};

/// All that a proxy needs to be told.
#[derive(Debug)]
pub struct ProxyConfig {
    /// The platform's own domains: each app answers at `APP.DOMAIN`, the door at `DOMAIN` and
    /// `mini.DOMAIN`.
    pub domains: Vec<HostName>,
    /// Where plain HTTP comes in; already bound and listening.
    pub listeners: Vec<TcpListener>,
    /// Where TLS comes in; the same.
    pub https_listeners: Vec<TcpListener>,
    /// The folder that certificates are kept in; made if missing, ours alone.
    pub tls_dir: PathBuf,
    /// Where the controller connects; made with mode 0600.
    pub control_socket: PathBuf,
    /// The user ids that may connect there.
    pub allowed_uids: Vec<u32>,
    /// Where the counters are read (`GET /metrics`); made with mode 0600.
    pub metrics_socket: PathBuf,
    /// The same on a port, for a scraper.
    pub metrics_listen: Option<SocketAddr>,
    /// The controller's API, to which the door forwards: the first of these that answers.
    pub api_sockets: Vec<PathBuf>,
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
    pub clients: Clients,
    /// The control socket of a proxy whose place this one takes, with its listening sockets.
    pub succeeds: Option<PathBuf>,
    /// Told when connections are accepted.
    pub accepting: Option<oneshot::Sender<()>>,
}

/// Deadlines of requests. The defaults are CONTRACTS', "Routing" (Heroku's).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From a connection to the end of its TLS handshake.
    pub handshake: Duration,
    /// To a TCP connection (H19).
    pub connect: Duration,
    /// From the last byte of the request passed on to the first byte of the answer (H12).
    pub first_byte: Duration,
    /// While a body flows: from byte to byte, in either direction (H15).
    pub body_idle: Duration,
    /// The same for upgraded connections, and for the door's streams.
    pub upgraded_idle: Duration,
    /// For what a client still gets that has ended its direction: it may wait for an answer, or
    /// have left altogether, and the two look the same.
    pub half_closed: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            body_idle: Duration::from_secs(55),
            upgraded_idle: Duration::from_secs(3600),
            half_closed: Duration::from_secs(10),
        }
    }
}

/// How long a proxy that stops waits for its last lines to be fetched.
const LAST_LINES: Duration = Duration::from_secs(1);

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
    #[error("the socket {path} cannot be made")]
    ControlSocket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a listener cannot be used")]
    Listener(#[source] io::Error),
    #[error("the place of the proxy that runs cannot be taken")]
    Succession(#[source] Refusal),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Serves until `shutdown` is ready or a successor has taken its place, then drains.
///
/// A snapshot that is missing or damaged means an empty table, never an error.
pub async fn run(
    config: ProxyConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Drained, ProxyError> {
    let tls =
        tls::Tls::open(config.tls_dir.clone(), config.domains.clone(), config.timeouts.handshake)?;
    if let Some(fingerprint) = fingerprint(&config.tls_dir) {
        tracing::info!(fingerprint, "the door's own certificate");
    }
    let shared = Arc::new(Shared::new(&config, tls));
    let control_socket = config.control_socket;
    let no_socket = |source| ProxyError::ControlSocket { path: control_socket.clone(), source };
    let predecessor = match &config.succeeds {
        Some(path) => {
            succession::ask(path, &config.version).await.map_err(ProxyError::Succession)?
        }
        None => None,
    };
    match &predecessor {
        Some(predecessor) => {
            apply::inherit(&shared, &predecessor.estate);
            shared.settled.cancel();
        }
        None => restore(&shared, &config.snapshot),
    }
    let mut socket =
        control::Socket::bind(&control_socket, shared.left.clone()).map_err(no_socket)?;
    let metrics_socket = config.metrics_socket;
    let no_metrics = |source| ProxyError::ControlSocket { path: metrics_socket.clone(), source };
    let mut metrics =
        control::Socket::bind(&metrics_socket, shared.left.clone()).map_err(no_metrics)?;
    let plain = config.listeners.into_iter().map(|socket| Listener { socket, https: false });
    let secure = config.https_listeners.into_iter().map(|socket| Listener { socket, https: true });
    let listeners: Vec<Listener> = plain.chain(secure).collect();
    for listener in &listeners {
        serve::prepare(&listener.socket).map_err(ProxyError::Listener)?;
    }
    // Without this the threads would wait for ever for a proxy that does not open.
    let not_opened = shared.draining.clone().drop_guard();
    let workers = worker::start(&shared, &listeners).map_err(ProxyError::Listener)?;
    drop(listeners);
    // All that may fail is done: from here on the clients are ours.
    let predecessor = match predecessor {
        Some(predecessor) => predecessor.relieve().await.map_err(ProxyError::Succession)?,
        None => None,
    };
    if let Some(predecessor) = predecessor {
        let (changes, told) = mpsc::unbounded_channel();
        shared.comes_after(Predecessor::new(changes));
        // One that drains too waits for it, so that those who come after know what is in flight.
        shared.tasks.spawn(predecessor.follow(Arc::clone(&shared), told));
    }
    socket.publish(&control_socket).map_err(no_socket)?;
    metrics.publish(&metrics_socket).map_err(no_metrics)?;
    shared.open.cancel();
    not_opened.disarm();
    let background = [
        tokio::spawn(control::listen(Arc::clone(&shared), socket, config.allowed_uids)),
        tokio::spawn(snapshot::keep(Arc::clone(&shared), config.snapshot)),
        tokio::spawn(tls::keep(Arc::clone(&shared.tls))),
        tokio::spawn(seen::socket::serve_unix(Arc::clone(&shared), metrics)),
    ]
    .map(AbortOnDropHandle::new);
    let _sweeping = AbortOnDropHandle::new(tokio::spawn(sweep(Arc::clone(&shared))));
    if let Some(told) = config.accepting {
        let _ = told.send(());
    }
    let metrics_port = config.metrics_listen.map(|address| {
        let serve = seen::socket::serve_tcp(Arc::clone(&shared), address);
        AbortOnDropHandle::new(tokio::spawn(serve))
    });

    tokio::select! {
        () = shutdown => {}
        () = shared.left.cancelled() => {
            tracing::info!("a new proxy has the place of this one");
        }
    }
    tracing::info!("draining: no new connections");
    shared.draining.cancel();
    // Socket and snapshot are a successor's.
    let background = (!shared.left.is_cancelled()).then_some(background);
    let drained = drain(&shared, config.drain, workers).await;
    shared.seen.flush(LAST_LINES).await;
    drop((background, metrics_port));
    shared.end();
    Ok(drained)
}

/// Begins with the table that the last proxy wrote down.
fn restore(shared: &Arc<Shared>, path: &Path) {
    match snapshot::read(path) {
        Ok(Some(image)) => {
            let (generation, apps) = (image.generation, image.apps.len());
            apply::restore(shared, image);
            tracing::info!(generation, apps, "the routes come from the snapshot");
        }
        Ok(None) => tracing::info!("there is no snapshot: the table is empty"),
        Err(error) => {
            let path = path.display();
            tracing::error!(%error, %path, "the snapshot is not usable: the table is empty");
        }
    }
}

/// Waits for the connections to end, at most `time`; then cuts what is left.
async fn drain(shared: &Shared, time: Duration, workers: Vec<JoinHandle<()>>) -> Drained {
    shared.tasks.close();
    let ended = tokio::task::spawn_blocking(move || workers.into_iter().all(|w| w.join().is_ok()));
    let mut ended = std::pin::pin!(ended);
    let told = |whole: Result<bool, _>| {
        if !matches!(whole, Ok(true)) {
            tracing::error!("a thread of the proxy panicked");
        }
    };
    if let Ok(whole) = tokio::time::timeout(time, ended.as_mut()).await {
        told(whole);
        return Drained::All;
    }
    let cut = shared.counters.in_flight.load(SeqCst);
    shared.counters.cut.fetch_add(cut, SeqCst);
    shared.cut.cancel();
    told(ended.await);
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
