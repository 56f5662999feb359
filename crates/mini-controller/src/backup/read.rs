//! Reading a backup: every entry is checked against the manifest that closes it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use super::write::Digesting;
use super::{BackupError, Entry, FORMAT, FORMAT_FILE, MANIFEST, Manifest, Origin};

/// The longest document that is read whole.
const DOCUMENT: u64 = 64 << 20;

/// A folder (0700) that goes when this does.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Made anew: what an interrupted one left goes.
    pub(super) fn make(path: &Path) -> Result<Self, BackupError> {
        let failed = |e| BackupError::file(path, e);
        match std::fs::remove_dir_all(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        std::fs::DirBuilder::new().mode(0o700).create(path).map_err(failed)?;
        Ok(Self(path.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn damaged(error: io::Error) -> BackupError {
    BackupError::Damaged(match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut short".to_owned(),
        _ => error.to_string(),
    })
}

/// Whether a path leads to somewhere below the folder, by plain names alone.
fn is_plain(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// What is done with an entry: its path, and its content, which need not be read to its end.
type Visit<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<(), BackupError> + 'a;

/// Goes through a backup from beginning to end; its manifest, which all of it agrees with.
pub(super) fn each(file: &Path, visit: &mut Visit<'_>) -> Result<Manifest, BackupError> {
    let opened = File::open(file).map_err(|e| BackupError::file(file, e))?;
    let unzipped = GzDecoder::new(BufReader::with_capacity(1 << 20, opened));
    let mut archive = tar::Archive::new(unzipped);
    let (mut origin, mut manifest) = (None::<Origin>, None::<Manifest>);
    let mut found: Vec<Entry> = Vec::new();
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let name = path.to_string_lossy().into_owned();
        if !is_plain(&path) || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(BackupError::Damaged(format!("it holds {name:?}")));
        }
        if manifest.is_some() {
            return Err(BackupError::Damaged("it goes on behind its manifest".into()));
        }
        let Some(origin) = &origin else {
            if name != FORMAT_FILE {
                return Err(BackupError::Damaged(format!("it begins with {name:?}")));
            }
            origin = Some(check(document(entry)?)?);
            continue;
        };
        if name == MANIFEST {
            let read: Manifest = document(entry)?;
            if read.origin != *origin {
                return Err(BackupError::Damaged("its manifest is another one's".into()));
            }
            manifest = Some(read);
            continue;
        }
        let mut content = Digesting { inner: entry, digest: Sha256::new(), read: 0 };
        visit(&name, &mut content)?;
        io::copy(&mut content, &mut io::sink()).map_err(damaged)?;
        let sha256 = hex::encode(content.digest.finalize());
        found.push(Entry { path: name, bytes: content.read, sha256 });
    }
    // The checksum of the gzip comes last.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(damaged)?;
    let manifest = manifest.ok_or_else(|| {
        BackupError::Damaged("it is cut short: its manifest is missing".to_owned())
    })?;
    if let Some((said, is)) = manifest.entries.iter().zip(&found).find(|(said, is)| said != is) {
        let message = format!("{} is not what its manifest says of {}", is.path, said.path);
        return Err(BackupError::Damaged(message));
    }
    if manifest.entries.len() != found.len() {
        let (said, is) = (manifest.entries.len(), found.len());
        return Err(BackupError::Damaged(format!("it holds {is} entries of {said}")));
    }
    Ok(manifest)
}

fn document<T: serde::de::DeserializeOwned>(entry: impl Read) -> Result<T, BackupError> {
    let mut text = Vec::new();
    entry.take(DOCUMENT).read_to_end(&mut text).map_err(damaged)?;
    serde_json::from_slice(&text).map_err(|e| BackupError::Damaged(e.to_string()))
}

/// Whether this program can read what `origin` made.
fn check(origin: Origin) -> Result<Origin, BackupError> {
    let newer = |what, found: i64, known: i64| BackupError::Newer {
        version: origin.version.clone(),
        what,
        found,
        known,
    };
    if origin.format > FORMAT {
        return Err(newer("format", origin.format.into(), FORMAT.into()));
    }
    let known = crate::store::known_schema();
    if origin.schema > known {
        return Err(newer("schema", origin.schema, known));
    }
    Ok(origin)
}

/// Unpacks what belongs into a data folder; volumes and images are only looked at.
pub(super) fn unpack(file: &Path, folder: &Path) -> Result<Manifest, BackupError> {
    each(file, &mut |name, content| {
        if name.starts_with("volumes/") || name.starts_with("images/") {
            return Ok(());
        }
        let path = folder.join(name);
        let failed = |e| BackupError::file(&path, e);
        if let Some(parent) = path.parent() {
            let mut make = std::fs::DirBuilder::new();
            make.recursive(true).mode(0o700).create(parent).map_err(failed)?;
        }
        let mut new = std::fs::OpenOptions::new();
        let mut out = new.write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        copy(content, &mut out, &path)?;
        out.sync_all().map_err(failed)
    })
}

/// As `io::copy`, and knows which of the two failed.
fn copy(from: &mut dyn Read, to: &mut impl io::Write, path: &Path) -> Result<(), BackupError> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(damaged(e)),
        };
        to.write_all(&buffer[..read]).map_err(|e| BackupError::file(path, e))?;
    }
}
