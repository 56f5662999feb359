//! Backup and restore: the whole platform in one file.
//!
//! A backup is a gzipped tar. Its first entry, `format.json`, says what it is and who made it, so
//! that a newer one is refused before anything of it is read; its last, `manifest.json`, lists
//! every entry between them with its size and digest. Between them: `mini.db`, `secret.key`,
//! `tls/`, `sources/`, `logs/` and the volumes, each a tar cut into parts (`volumes/NAME/000000`),
//! since a tar wants to know sizes before and a volume does not tell.
//!
//! What is consistent with what: the database is one moment's (SQLite's online backup, beside a
//! controller that goes on writing). The key, certificates and sources that this moment names are
//! read after it; none of them ever changes under its name. Volumes are read after that, while
//! their apps run: a file that is written meanwhile may be half old and half new, as after a power
//! cut. Databases with a journal come through that; for others, stop the app first.
//!
//! The file holds the key beside what it seals: whoever has it has every secret.

use std::io;
use std::path::{Path, PathBuf};

use mini_core::ports::{RuntimeError, RuntimeErrorKind};
use serde::{Deserialize, Serialize};

use crate::store::StoreError;
use crate::vault::VaultError;

mod check;
mod gently;
mod lock;
mod read;
mod rebuild;
mod restore;
#[cfg(test)]
mod tests;
mod write;

pub use gently::step_back;
pub use lock::BackupLock;
pub(crate) use rebuild::rebuild_missing;
pub use restore::{Restored, restore};
pub use write::{Options, backup, copy_of_database};

/// Raised whenever an older reader could not read what is written.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format.json";
const MANIFEST: &str = "manifest.json";
const DATABASE: &str = "mini.db";
const KEY: &str = "secret.key";
/// The row of the store that says that images may have to be made again.
const RESTORED: &str = "restored_at";

/// What a backup is of, and who made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub format: u32,
    /// The server's id, which its objects on the engine carry.
    pub server: String,
    /// The schema of its database.
    pub schema: i64,
    /// The version of the minid that made it.
    pub version: String,
    pub made_at: jiff::Timestamp,
}

/// One file inside the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    pub bytes: u64,
    /// SHA-256, in hex.
    pub sha256: String,
}

/// A volume in the backup: its tar is the parts `volumes/ENGINE_NAME/…`, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub engine_name: String,
    pub app: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    #[serde(flatten)]
    pub origin: Origin,
    pub apps: u64,
    pub volumes: Vec<Volume>,
    /// Whether the live releases' images are in it.
    pub images: bool,
    pub entries: Vec<Entry>,
}

impl Manifest {
    /// How much there is below a folder of the backup: files and bytes.
    fn below(&self, folder: &str) -> (usize, u64) {
        let found = self.entries.iter().filter(|entry| entry.path.starts_with(folder));
        found.fold((0, 0), |(files, bytes), entry| (files + 1, bytes + entry.bytes))
    }

    /// What is in it, in lines for people.
    pub fn lines(&self) -> Vec<String> {
        let (from, size) = (&self.origin, mini_core::cause::size);
        let mut lines = vec![
            format!(
                "made {} by minid {} (schema {}) of server {}",
                from.made_at.strftime("%Y-%m-%d %H:%M:%SZ"),
                from.version,
                from.schema,
                from.server
            ),
            format!("database    {} apps, {}", self.apps, size(self.below(DATABASE).1)),
        ];
        let mut add = |name: &str, folder: &str, what: &str| {
            let (files, bytes) = self.below(folder);
            if files > 0 {
                lines.push(format!("{name:<12}{files} {what}, {}", size(bytes)));
            }
        };
        add("sources", "sources/", "archives");
        add("tls", "tls/", "files");
        add("logs", "logs/", "files");
        for volume in &self.volumes {
            let bytes = self.below(&format!("volumes/{}/", volume.engine_name)).1;
            let (name, app) = (&volume.engine_name, &volume.app);
            lines.push(format!("volume      {name} of {app}, {}", size(bytes)));
        }
        lines.push(match self.images {
            true => format!("images      {}", size(self.below("images/").1)),
            false => "images      none: they are built or pulled again".to_owned(),
        });
        lines
    }
}

/// Why a backup could not be made, read or restored. Nothing half done is left.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("the disk of {path} is full: {error}")]
    Full { path: PathBuf, error: io::Error },
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("there is no server's data in {0}")]
    NoServer(PathBuf),
    #[error("this is no backup of mini, or a damaged one: {0}")]
    Damaged(String),
    #[error("made by a newer minid ({version}): its {what} is {found}, and this one knows {known}")]
    Newer { version: String, what: &'static str, found: i64, known: i64 },
    /// It can be read, and would not bring the platform back.
    #[error("it would not bring everything back: {0}")]
    Incomplete(String),
    #[error("{0} holds data already, and is left as it is")]
    NotEmpty(PathBuf),
    #[error("on this engine {0} instances of this very server run: another controller has them")]
    Alive(usize),
    #[error("the volume {0} is on this engine already, and is left as it is")]
    VolumeThere(String),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Vault(#[from] VaultError),
    #[error("the engine: {0}")]
    Engine(#[from] RuntimeError),
}

impl BackupError {
    fn file(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, error },
            _ => Self::File { path, error },
        }
    }

    /// The way out.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Full { .. } => "free some space, or name a file on another disk".into(),
            Self::File { .. } => "run it as the server's user, with a path that can be used".into(),
            Self::NoServer(_) => "name the server's folder with --data-dir".into(),
            Self::Damaged(_) => "take another copy of it, or an older backup".into(),
            Self::Newer { version, .. } => format!("restore it with minid {version} or newer"),
            Self::Incomplete(_) => "take another backup".into(),
            Self::NotEmpty(_) => {
                "name an empty folder with --data-dir, or move this one away".into()
            }
            Self::Alive(_) => {
                "stop that server and remove its containers first; --force removes them".into()
            }
            Self::VolumeThere(_) => {
                "--force removes it with all that is in it, and fills it from the backup".into()
            }
            Self::Engine(error) if error.kind == RuntimeErrorKind::NoSpace => {
                "free some space on the engine's disk".into()
            }
            Self::Engine(error) => return error.hint.clone(),
            Self::Store(StoreError::Full(_)) => "free some space".into(),
            Self::Store(_) | Self::Vault(_) => return None,
        })
    }
}

/// Restores a backup into a scratch folder below `scratch`, looks at all of it, and removes it
/// again; the engine is not asked. Answers with what is in it.
///
/// # Errors
/// If it is damaged, cut short, newer than this program, or would not bring everything back.
pub async fn verify(file: PathBuf, scratch: PathBuf) -> Result<Manifest, BackupError> {
    gently::gently(move || {
        let folder =
            read::Scratch::make(&scratch.join(format!("mini-verify-{}", std::process::id())))?;
        let manifest = read::unpack(&file, folder.path())?;
        check::folder(folder.path(), &manifest)?;
        Ok(manifest)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(BackupError::Store(StoreError::Sqlite(error.to_string()))),
    }
}
