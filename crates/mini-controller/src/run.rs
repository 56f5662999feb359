//! Opening the data folder, and running on it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mini_core::id::ServerId;
use mini_core::ports::{Builder, Runtime};
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{self, AdminListener};
use crate::clock;
use crate::core::{Config, Core};
use crate::drivers::Drivers;
use crate::link::{self, Link};
use crate::logs::{BUDGET_BYTES, Logs, Pumps};
use crate::sources::Sources;
use crate::store::{self, Store, StoreError, TokenRow};
use crate::vault::{self, Vault, VaultError};
use crate::world::{self, World};
use crate::{deployer, tokens};

const TIDY_EVERY: Duration = Duration::from_secs(3600);
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
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, private).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        let give_up = tokio::time::Instant::now() + LOCK_WAIT;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if tokio::time::Instant::now() >= give_up {
                return Err(StartError::InUse(path.to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let vault = Vault::open(&path.join("secret.key"))?;
        let store = Store::open(&path.join("mini.db"))?;
        let fresh = ServerId::from_random(&vault::random_id()?[..8]);
        let server = store
            .write(move |tx| match store::meta(tx, "server_id")? {
                Some(id) => Ok(id),
                None => {
                    store::set_meta(tx, "server_id", fresh.as_str())?;
                    Ok(fresh.to_string())
                }
            })
            .await?;
        let server = server.parse().map_err(|e: mini_core::id::BadId| StoreError::Corrupt {
            what: "the server's id".into(),
            why: e.to_string(),
        })?;
        Ok(Self { path: path.to_owned(), store, vault, server, _lock: lock })
    }

    pub fn server(&self) -> &ServerId {
        &self.server
    }

    /// Makes an admin token; the secret, which is shown nowhere else.
    pub async fn create_token(&self, name: &str) -> Result<String, StartError> {
        let fresh = tokens::new_secret()?;
        let row = TokenRow {
            id: fresh.id,
            name: name.to_owned(),
            hash: fresh.hash,
            scope: "admin".to_owned(),
            created_at: clock::now(),
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
        };
        self.store.write(move |tx| store::insert_token(tx, &row)).await?;
        Ok(fresh.secret)
    }

    /// The first token, once: on the first start of a folder that never had one.
    pub async fn first_token(&self) -> Result<Option<String>, StartError> {
        let done = self.store.read(|c| store::meta(c, "first_token")).await?;
        if done.is_some() || !self.store.read(store::tokens).await?.is_empty() {
            return Ok(None);
        }
        let secret = self.create_token("first").await?;
        self.store.write(|tx| store::set_meta(tx, "first_token", "made")).await?;
        Ok(Some(secret))
    }

    /// Binds a socket of the folder, in place of one that a dead process left.
    fn bind(&self, name: &str, mode: u32) -> Result<UnixListener, StartError> {
        let path = self.path.join(name);
        let failed = |error| StartError::Folder { path: path.clone(), error };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).map_err(failed)?;
        Ok(listener)
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
    let door = folder.bind("api.sock", 0o660)?;
    let admin = folder.bind("admin.sock", 0o600)?;
    let owner = std::fs::metadata(&path).map_err(failed)?.uid();
    let sources = Sources::open(path.join("sources")).map_err(failed)?;
    let logs = Logs::open(path.join("logs"), BUDGET_BYTES).map_err(failed)?;
    let DataFolder { store, vault, server, _lock, .. } = folder;
    let core = Arc::new(Core {
        link: Link::new(config.control_socket.clone(), server.clone(), config.version.clone()),
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
        drivers: Drivers::default(),
        queue: Notify::new(),
        preparing: deployer::Preparing::default(),
        events: watch::Sender::new(0),
    });
    for app in core.store.read(store::all_apps).await? {
        Drivers::start(&core, &app.name);
    }
    let stop = CancellationToken::new();
    let background = [
        tokio::spawn(world::watch(core.clone())),
        tokio::spawn(link::keep(core.clone())),
        tokio::spawn(deployer::run(core.clone())),
        tokio::spawn(tidy(core.clone())),
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

async fn tidy(core: Arc<Core>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        core.logs.tidy().await;
    }
}
