//! Making a backup.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use mini_core::ports::{Archive, Archives, RuntimeErrorKind};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::blocking;
use super::gently::gently;
use super::{
    BackupError, BackupLock, DATABASE, Entry, FORMAT, FORMAT_FILE, KEY, MANIFEST, Manifest, Origin,
    Volume,
};
use crate::store::{self, StoreError};

/// The longest part of a stream whose length is not known before; one is in memory at a time.
const PART: usize = 4 << 20;
/// How often a database that is locked is tried, and the pause between.
const TRIES: u32 = 100;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// What goes into a backup beside the database, the key, certificates and sources.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub logs: bool,
    pub images: bool,
    pub volumes: bool,
}

/// Writes a backup of a data folder, and of the folder that the proxy has its certificates in, to
/// `file`, whether the controller runs or not. It is there
/// whole (0600, on the disk), in place of one that was there before, or not at all.
///
/// # Errors
/// If there is no server's data, something cannot be read, or the disk of `file` is full.
pub async fn backup(
    data_dir: PathBuf,
    tls_dir: PathBuf,
    file: PathBuf,
    options: Options,
    engine: Arc<dyn Archives>,
    version: String,
    lock: BackupLock,
) -> Result<Manifest, BackupError> {
    let handle = Handle::current();
    gently(move || {
        let _lock = lock;
        let partial = Scrap(with_suffix(&file, ".partial"));
        let folders = Folders { data: &data_dir, tls: &tls_dir };
        let written = write(&folders, &partial.0, options, &engine, version, &handle)?;
        std::fs::rename(&partial.0, &file).map_err(|e| BackupError::file(&file, e))?;
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|e| BackupError::file(folder, e))?;
        Ok(written)
    })
    .await
}

/// A file that goes when this does.
struct Scrap(PathBuf);

impl Drop for Scrap {
    fn drop(&mut self) {
        // Most often it was renamed by now.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Made anew, for us alone.
fn create(path: &Path) -> Result<File, BackupError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(BackupError::file(path, e)),
        _ => {}
    }
    let mut new = std::fs::OpenOptions::new();
    new.write(true).create_new(true).mode(0o600).open(path).map_err(|e| BackupError::file(path, e))
}

/// Where it is that what goes into a backup lies.
struct Folders<'a> {
    data: &'a Path,
    tls: &'a Path,
}

fn write(
    folders: &Folders<'_>,
    partial: &Path,
    options: Options,
    engine: &Arc<dyn Archives>,
    version: String,
    handle: &Handle,
) -> Result<Manifest, BackupError> {
    let data_dir = folders.data;
    if !data_dir.join(DATABASE).is_file() {
        return Err(BackupError::NoServer(data_dir.to_owned()));
    }
    let file = create(partial)?;
    let copy = Scrap(with_suffix(partial, ".db"));
    let snapshot = copy_database(&data_dir.join(DATABASE), &copy.0)?;
    let c = &snapshot;
    let origin = Origin {
        format: FORMAT,
        server: store::meta(c, "server_id")?.unwrap_or_default(),
        schema: store::schema_of(c)?,
        version,
        made_at: jiff::Timestamp::now(),
    };
    let (apps, kept) = (store::all_apps(c)?, store::kept_volumes(c)?);
    let (sources, needed) = (store::referred_sources(c)?, store::needed_releases(c)?);
    drop(snapshot);

    let mut out = Out::new(file, partial);
    out.document(FORMAT_FILE, &origin)?;
    out.entries.clear();
    out.file(DATABASE, &copy.0)?;
    out.file(KEY, &data_dir.join(KEY))?;
    out.folder("tls", folders.tls)?;
    for digest in sources {
        let name = format!("sources/{digest}.tar");
        let path = data_dir.join(&name);
        // Of a release that is too old to be kept the source is gone.
        if path.is_file() {
            out.file(&name, &path)?;
        }
    }
    if options.logs {
        out.folder("logs", &data_dir.join("logs"))?;
    }
    let mut volumes = Vec::new();
    for (engine_name, app) in kept.into_iter().filter(|_| options.volumes) {
        let archive = engine.read_volume(engine_name.clone());
        match out.stream(&format!("volumes/{engine_name}"), archive, handle) {
            Ok(()) => volumes.push(Volume { engine_name, app: app.to_string() }),
            // It is made when a release first wants it.
            Err(BackupError::Engine(e)) if e.kind == RuntimeErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut images: Vec<String> = needed.into_iter().map(|n| n.release.spec.image).collect();
    images.sort();
    images.dedup();
    let with_images = options.images && !images.is_empty();
    if with_images {
        out.stream("images", engine.save_images(images), handle)?;
    }
    let entries = std::mem::take(&mut out.entries);
    let manifest =
        Manifest { origin, apps: apps.len() as u64, volumes, images: with_images, entries };
    out.document(MANIFEST, &manifest)?;
    out.finish()?;
    Ok(manifest)
}

/// A copy of a data folder's database as it is now, in one file (0600, on the disk), beside a
/// controller that goes on writing.
///
/// # Errors
/// If it cannot be read, or the disk of `to` is full; then there is none.
pub async fn copy_of_database(data_dir: PathBuf, to: PathBuf) -> Result<(), BackupError> {
    blocking(move || {
        let new = Scrap(with_suffix(&to, ".partial"));
        drop(copy_database(&data_dir.join(DATABASE), &new.0)?);
        let synced = File::open(&new.0).and_then(|file| file.sync_all());
        synced.and_then(|()| std::fs::rename(&new.0, &to)).map_err(|e| BackupError::file(&to, e))
    })
    .await
}

/// One moment of the database, as one file without a log beside it.
fn copy_database(from: &Path, to: &Path) -> Result<Connection, BackupError> {
    create(to)?;
    let sqlite = |error: rusqlite::Error| match StoreError::from(error) {
        StoreError::Full(why) => {
            BackupError::Full { path: to.to_owned(), error: io::Error::other(why) }
        }
        other => BackupError::Store(other),
    };
    let (source, _) = store::look(from)?;
    let mut copy = Connection::open(to).map_err(sqlite)?;
    {
        let backup = Backup::new(&source, &mut copy).map_err(sqlite)?;
        let mut tries = 0;
        // All pages in one step: then it is one moment's, however busy the writer is.
        while backup.step(-1).map_err(sqlite)? != StepResult::Done {
            tries += 1;
            if tries > TRIES {
                return Err(StoreError::Sqlite("it stays locked".into()).into());
            }
            std::thread::sleep(PAUSE);
        }
    }
    copy.pragma_update(None, "journal_mode", "DELETE").map_err(sqlite)?;
    Ok(copy)
}

/// The archive that is being written, and what is in it so far.
struct Out<'a> {
    tar: tar::Builder<GzEncoder<BufWriter<File>>>,
    entries: Vec<Entry>,
    path: &'a Path,
}

impl<'a> Out<'a> {
    fn new(file: File, path: &'a Path) -> Self {
        let file = BufWriter::with_capacity(1 << 20, file);
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        Self { tar, entries: Vec::new(), path }
    }

    fn put(&mut self, name: &str, bytes: u64, content: impl Read) -> Result<(), BackupError> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(0);
        let mut digest = Digesting { inner: content.take(bytes), digest: Sha256::new(), read: 0 };
        let put = self.tar.append_data(&mut header, name, &mut digest);
        put.map_err(|e| BackupError::file(self.path, e))?;
        if digest.read != bytes {
            let error = io::Error::other("it became shorter while it was read");
            return Err(BackupError::file(Path::new(name), error));
        }
        let sha256 = hex::encode(digest.digest.finalize());
        self.entries.push(Entry { path: name.to_owned(), bytes, sha256 });
        Ok(())
    }

    fn document(&mut self, name: &str, value: &impl serde::Serialize) -> Result<(), BackupError> {
        let text = serde_json::to_vec_pretty(value)
            .map_err(|e| BackupError::file(Path::new(name), e.into()))?;
        self.put(name, text.len() as u64, text.as_slice())
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<(), BackupError> {
        let failed = |e| BackupError::file(path, e);
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        self.put(name, bytes, file)
    }

    /// Every file in a folder and its folders; a folder that is not there is empty.
    fn folder(&mut self, name: &str, path: &Path) -> Result<(), BackupError> {
        let failed = |e| BackupError::file(path, e);
        let listed = match std::fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed.map_err(failed)?,
        };
        let mut found = Vec::new();
        for entry in listed {
            let entry = entry.map_err(failed)?;
            found.push((entry.file_name(), entry.file_type().map_err(failed)?, entry.path()));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        for (file_name, kind, path) in found {
            let name = format!("{name}/{}", file_name.to_string_lossy());
            if kind.is_dir() {
                self.folder(&name, &path)?;
            } else if kind.is_file() {
                match self.file(&name, &path) {
                    // Segments of logs are removed when they are old.
                    Err(BackupError::File { error, .. })
                        if error.kind() == io::ErrorKind::NotFound => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// A stream of unknown length, in parts.
    fn stream(
        &mut self,
        name: &str,
        mut archive: Archive,
        handle: &Handle,
    ) -> Result<(), BackupError> {
        let (mut part, mut number) = (Vec::with_capacity(PART), 0);
        loop {
            let chunk = handle.block_on(archive.next()).transpose()?;
            if let Some(chunk) = &chunk {
                part.extend_from_slice(chunk);
            }
            if part.len() >= PART || (chunk.is_none() && !part.is_empty()) {
                let name = format!("{name}/{number:06}");
                self.put(&name, part.len() as u64, part.as_slice())?;
                number += 1;
                part.clear();
            }
            if chunk.is_none() {
                return Ok(());
            }
        }
    }

    fn finish(self) -> Result<(), BackupError> {
        let finished = (|| {
            let mut file = self.tar.into_inner()?.finish()?;
            file.flush()?;
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
        })();
        finished.map_err(|e| BackupError::file(self.path, e))
    }
}

/// Passes bytes through, and knows their digest.
pub(super) struct Digesting<R> {
    pub(super) inner: R,
    pub(super) digest: Sha256,
    pub(super) read: u64,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}
