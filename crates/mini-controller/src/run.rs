//! Opening the data folder, and running on it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mini_api::NewToken;
use mini_core::fault;
use mini_core::id::ServerId;
use mini_core::ports::{Builder, Runtime};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{self, AdminListener};
use crate::certs::{self, Certs};
use crate::checks::Checks;
use crate::clock;
use crate::core::{Config, Core};
use crate::dns::Resolver;
use crate::drivers::Drivers;
use crate::gate::Gate;
use crate::link::{self, Link};
use crate::logs::{BUDGET_BYTES, Logs, Pumps};
use crate::recovery::Recoveries;
use crate::release_command::Telling;
use crate::router_lines::RouterLines;
use crate::sources::Sources;
use crate::store::{self, AuditRow, Store, StoreError};
use crate::traffic::{self, Traffic};
use crate::usage::Usage;
use crate::vault::{self, Vault, VaultError};
use crate::world::{self, World};
use crate::{backup, builds, deployer, firewall, orphans, tokens};

const TIDY_EVERY: Duration = Duration::from_secs(3600);
/// How often a store that cannot be written is tried, and a missing reserve.
const LOOK_AFTER_EVERY: Duration = Duration::from_secs(2);
/// How long a controller waits for the one before it to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Why the controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{path}: {error}")]
    Folder { path: PathBuf, error: io::Error },
    #[error("the data folder {0} is in use by another controller")]
    InUse(PathBuf),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Vault(#[from] VaultError),
    #[error("the token was not made: {0}")]
    Token(String),
}

/// An opened data folder: ours alone while this value lives.
pub struct DataFolder {
    path: PathBuf,
    store: Store,
    vault: Vault,
    server: ServerId,
    _lock: File,
}

impl DataFolder {
    /// Opens the folder (0700, made if missing), takes its lock, opens the store and the key.
    pub async fn open(path: &Path) -> Result<Self, StartError> {
        let failed = |error| StartError::Folder { path: path.to_owned(), error };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        // A folder that was there before may be open to others.
        if std::fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777 != 0o700 {
            let private = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(path, private).map_err(failed)?;
        }
        let lock = lock_file(&path.join("lock")).map_err(failed)?;
        let give_up = tokio::time::Instant::now() + LOCK_WAIT;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if tokio::time::Instant::now() >= give_up {
                return Err(StartError::InUse(path.to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let vault = Vault::open(&path.join("secret.key"))?;
        let store = Store::open(&path.join("mini.db"))?;
        let server = match store.read(|c| store::meta(c, "server_id")).await? {
            Some(id) => id,
            None => {
                let fresh = ServerId::from_random(&vault::random_id()?[..8]).to_string();
                let id = fresh.clone();
                store.write(move |tx| store::set_meta(tx, "server_id", &id)).await?;
                fresh
            }
        };
        let server = server.parse().map_err(|e: mini_core::id::BadId| StoreError::Corrupt {
            what: "the server's id".into(),
            why: e.to_string(),
        })?;
        Ok(Self { path: path.to_owned(), store, vault, server, _lock: lock })
    }

    pub fn server(&self) -> &ServerId {
        &self.server
    }

    /// Every token that was not revoked, oldest first.
    pub async fn tokens(&self) -> Result<Vec<mini_api::Token>, StartError> {
        let rows = self.store.read(store::tokens).await?;
        Ok(rows.into_iter().map(|row| api::shown_token(row, false)).collect())
    }

    /// Makes a token; the secret, which is shown nowhere else.
    pub async fn create_token(&self, new: &NewToken) -> Result<String, StartError> {
        let made = tokens::make(new, clock::now());
        let (row, secret) = made.map_err(|why| StartError::Token(why.to_string()))?;
        let entry = AuditRow {
            at: row.created_at,
            // By whoever owns the folder, without a controller to ask.
            actor: Some(format!("data folder (uid {})", rustix::process::geteuid().as_raw())),
            token_id: None,
            action: "tokens.create".to_owned(),
            app: None,
            target: Some(format!("{} {}", row.id, row.name)),
            status: 201,
            request_id: "none".to_owned(),
            source: None,
        };
        let stored = self.store.write(move |tx| {
            let stored = store::insert_token(tx, &row)?;
            if stored.is_ok() {
                store::add_audit(tx, &entry)?;
            }
            Ok(stored)
        });
        let stored = stored.await?;
        stored.map_err(|app| StartError::Token(format!("there is no app named {app}")))?;
        Ok(secret)
    }

    /// The first token, once: on the first start of a folder that never had one.
    pub async fn first_token(&self) -> Result<Option<String>, StartError> {
        let done = self.store.read(|c| store::meta(c, "first_token")).await?;
        if done.is_some() || !self.store.read(store::tokens).await?.is_empty() {
            return Ok(None);
        }
        let secret =
            self.create_token(&NewToken { name: "first".into(), ..NewToken::default() }).await?;
        self.store.write(|tx| store::set_meta(tx, "first_token", "made")).await?;
        Ok(Some(secret))
    }
}

/// Binds a socket, in place of one that a dead process left.
fn bind(path: &Path, mode: u32) -> Result<UnixListener, StartError> {
    let failed = |error| StartError::Folder { path: path.to_owned(), error };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, mode).map_err(failed)?;
    Ok(listener)
}

/// The file whose lock says whose the folder is; it holds nothing. A file that is there can be
/// locked where nothing can be written.
fn lock_file(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::create(path),
        opened => opened,
    }
}

/// Runs the controller on an opened folder until `shutdown`. Apps keep running.
pub async fn run(
    folder: DataFolder,
    config: Config,
    runtime: Arc<dyn Runtime>,
    builder: Arc<dyn Builder>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), StartError> {
    let path = folder.path.clone();
    let failed = |error| StartError::Folder { path: path.clone(), error };
    let api_socket = config.api_socket.clone();
    let door = bind(&api_socket.unwrap_or_else(|| config.socket_dir.join("api.sock")), 0o660)?;
    let admin = bind(&config.socket_dir.join("admin.sock"), 0o600)?;
    let owner = std::fs::metadata(&path).map_err(failed)?.uid();
    let sources = Sources::open(path.join("sources")).map_err(failed)?;
    let logs = Logs::open(path.join("logs"), BUDGET_BYTES).map_err(failed)?;
    let DataFolder { store, vault, server, _lock, .. } = folder;
    let core = Arc::new(Core {
        link: Link::new(config.control_sockets.clone(), server.clone(), config.version.clone()),
        pumps: Pumps::new(runtime.clone(), logs.clone()),
        config,
        server,
        store,
        vault,
        sources,
        logs,
        runtime,
        builder,
        world: World::default(),
        checks: Checks::default(),
        certs: Certs::default(),
        firewall: firewall::Kept::default(),
        builds: builds::Kept::default(),
        drivers: Drivers::default(),
        usage: Usage::default(),
        resolver: Resolver::default(),
        traffic: Traffic::default(),
        router_lines: RouterLines::default(),
        telling: Telling::default(),
        gate: Gate::for_this_machine(),
        recoveries: Recoveries::default(),
        queue: Notify::new(),
        preparing: deployer::Preparing::default(),
        events: watch::Sender::new(0),
    });
    // Before the first app starts.
    firewall::make_true(&core).await;
    for app in core.store.read(store::all_apps).await? {
        Drivers::start(&core, &app.name);
    }
    fault::point("run.opened");
    // What a controller before this one did not get to.
    orphans::collect_later(&core);
    let stop = CancellationToken::new();
    let background = [
        tokio::spawn(world::watch(core.clone())),
        tokio::spawn(link::keep(core.clone())),
        tokio::spawn(certs::keep(core.clone())),
        tokio::spawn(firewall::keep(core.clone())),
        tokio::spawn(builds::keep(core.clone())),
        tokio::spawn(deployer::run(core.clone())),
        tokio::spawn(tidy(core.clone())),
        tokio::spawn(traffic::sample(core.clone())),
        tokio::spawn(look_after(core.clone())),
        tokio::spawn(backup::rebuild_missing(core.clone())),
    ];
    let stopping = stop.clone();
    tokio::spawn(async move {
        shutdown.await;
        stopping.cancel();
    });
    let served = api::serve(core.clone(), door, AdminListener::new(admin, owner), stop).await;
    for task in background {
        task.abort();
    }
    core.logs.flush().await;
    served.map_err(failed)
}

/// Says once that the store cannot be written, and notices by itself when it can be again.
async fn look_after(core: Arc<Core>) {
    let mut told = false;
    loop {
        let trouble = core.store.trouble();
        if let Some(why) = trouble.as_ref().filter(|_| !told) {
            tracing::error!(
                %why,
                "the data folder cannot be written: apps run on, changes are refused"
            );
            told = true;
        }
        let well = core.store.look_after().await || trouble.is_none();
        if well && std::mem::take(&mut told) {
            tracing::info!("the data folder can be written again");
            core.drivers.wake_all();
            core.queue.notify_one();
        }
        tokio::time::sleep(LOOK_AFTER_EVERY).await;
    }
}

async fn tidy(core: Arc<Core>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        core.logs.tidy().await;
        orphans::collect_later(&core);
        let now = clock::now();
        if let Err(error) = core.store.write(move |tx| store::prune_audit(tx, now)).await {
            tracing::warn!(%error, "the audit trail is not shortened");
        }
    }
}
