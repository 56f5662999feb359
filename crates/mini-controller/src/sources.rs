//! What was sent, by digest: archives are read under our rules and written again as one clean tar.
//!
//! A client's bytes never reach the engine. The archive is read as it arrives (gzip or plain tar);
//! each entry is checked before its content is taken, and the clean tar holds plain headers that
//! we made: owner 0, permission bits of a file or a program, no setuid, no sparse files, no
//! extensions of anybody's.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mini_core::fault;
use mini_core::source::{Entry, MAX_PATH, Refused, SourceDigest, Tree, clean_path};
use tar::{Archive, Builder, EntryType, Header};

/// What may stand between the contents of two entries: headers, and extensions (long names, pax
/// records), which the archive's reader takes into memory whole.
const MAX_BETWEEN: u64 = 256 << 10;

/// Why an upload was not taken. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("the archive is damaged or cut short: {0}")]
    Damaged(String),
    #[error("the archive holds no files")]
    Empty,
    #[error("the source could not be written: {0}")]
    Disk(std::io::Error),
    /// The client went away, or said something else than it sent.
    #[error("the upload ended early: {0}")]
    Upload(String),
}

/// A source that was taken.
pub(crate) struct Taken {
    pub(crate) digest: SourceDigest,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The folder of clean tars.
#[derive(Clone)]
pub(crate) struct Sources {
    folder: PathBuf,
}

impl Sources {
    /// Opens the folder, and clears what an interrupted upload left.
    pub(crate) fn open(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        for entry in std::fs::read_dir(&folder)?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".part") {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, digest: &SourceDigest) -> PathBuf {
        self.folder.join(format!("{digest}.tar"))
    }

    pub(crate) fn has(&self, digest: &SourceDigest) -> bool {
        self.path(digest).is_file()
    }

    pub(crate) fn remove(&self, digest: &SourceDigest) -> std::io::Result<()> {
        match std::fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Reads an archive to its end. Blocking; `name` tells uploads of this moment apart.
    pub(crate) fn take(&self, archive: impl Read, name: &str) -> Result<Taken, SourceError> {
        let part = self.folder.join(format!("{name}.part"));
        let taken = self.write_clean(archive, &part);
        if taken.is_err() {
            // The error that matters is the first one.
            let _ = std::fs::remove_file(&part);
        }
        taken
    }

    fn write_clean(&self, archive: impl Read, part: &Path) -> Result<Taken, SourceError> {
        let file = File::create(part).map_err(SourceError::Disk)?;
        let mut clean = Builder::new(BufWriter::with_capacity(256 << 10, file));
        let left = Rc::new(Cell::new(MAX_BETWEEN));
        let metered = Metered { inner: decompressed(archive)?, left: left.clone() };
        let mut archive = Archive::new(metered);
        let mut tree = Tree::default();
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            // Content is measured by the tree.
            left.set(u64::MAX);
            copy_entry(&mut entry, &mut tree, &mut clean)?;
            left.set(MAX_BETWEEN);
        }
        drain(archive.into_inner().inner)?;
        if tree.files() == 0 {
            return Err(SourceError::Empty);
        }
        let mut out = clean.into_inner().map_err(SourceError::Disk)?;
        out.flush().map_err(SourceError::Disk)?;
        let file = out.into_inner().map_err(|e| SourceError::Disk(e.into_error()))?;
        file.sync_all().map_err(SourceError::Disk)?;
        let digest = tree.digest();
        fault::point("source.written");
        std::fs::rename(part, self.path(&digest)).map_err(SourceError::Disk)?;
        let folder = File::open(&self.folder).map_err(SourceError::Disk)?;
        folder.sync_all().map_err(SourceError::Disk)?;
        Ok(Taken { digest, files: tree.files(), bytes: tree.bytes() })
    }
}

/// Behind the end of the tar there may be padding, and the checksum of the gzip: both must be
/// read, since an archive that was cut there is cut.
fn drain(mut rest: impl Read) -> Result<(), SourceError> {
    const MAX_PADDING: u64 = 1 << 20;
    let read = std::io::copy(&mut rest.by_ref().take(MAX_PADDING + 1), &mut std::io::sink());
    if read.map_err(damaged)? > MAX_PADDING {
        return Err(SourceError::Damaged("there is something behind its end".into()));
    }
    Ok(())
}

/// Unpacks gzip; a plain tar passes as it is.
fn decompressed<'a>(archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>, SourceError> {
    let mut reader = BufReader::with_capacity(64 << 10, archive);
    let start = std::io::BufRead::fill_buf(&mut reader).map_err(damaged)?;
    if start.is_empty() {
        return Err(SourceError::Empty);
    }
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else {
        Box::new(reader)
    })
}

/// Reading failed: the client's upload, or the archive itself.
fn damaged(error: std::io::Error) -> SourceError {
    match error.kind() {
        std::io::ErrorKind::ConnectionAborted => SourceError::Upload(error.to_string()),
        _ => SourceError::Damaged(error.to_string()),
    }
}

/// Reads on until `left` is used up.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => return Err(std::io::Error::other("the description of an entry is too long")),
        }
        Ok(n)
    }
}

/// Checks one entry and writes it anew.
fn copy_entry(
    entry: &mut tar::Entry<'_, impl Read>,
    tree: &mut Tree,
    clean: &mut Builder<impl Write>,
) -> Result<(), SourceError> {
    let path = clean_path(&entry.path_bytes())?;
    let kind = entry.header().entry_type();
    if path.is_empty() {
        return if kind.is_dir() { Ok(()) } else { Err(Refused::NotAPath(path).into()) };
    }
    let mtime = entry.header().mtime().unwrap_or(0);
    let mode = entry.header().mode().unwrap_or(0o644);
    match kind {
        EntryType::Directory => {
            tree.add(&path, Entry::Folder)?;
            let mut header = plain_header(EntryType::Directory, 0o755, 0, mtime);
            clean.append_data(&mut header, &path, std::io::empty()).map_err(SourceError::Disk)
        }
        EntryType::Regular | EntryType::Continuous => {
            let size = entry.size();
            tree.may_add(&path, false, size)?;
            let executable = mode & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            let mut header = plain_header(EntryType::Regular, mode, size, mtime);
            let mut content =
                Hashing { inner: entry, hasher: blake3::Hasher::new(), read: 0, failed: None };
            let written = clean.append_data(&mut header, &path, &mut content);
            if let Some(error) = content.failed.take() {
                return Err(damaged(error));
            }
            written.map_err(SourceError::Disk)?;
            if content.read != size {
                return Err(SourceError::Damaged(format!("{path:?} is cut short")));
            }
            let hash = *content.hasher.finalize().as_bytes();
            Ok(tree.add(&path, Entry::File { executable, size, hash })?)
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            let to = String::from_utf8(target.into_owned())
                .ok()
                .filter(|t| !t.is_empty() && t.len() <= MAX_PATH && !t.contains('\0'))
                .ok_or_else(|| Refused::NotAPath(path.clone()))?;
            tree.add(&path, Entry::Link { to: to.clone() })?;
            let mut header = plain_header(EntryType::Symlink, 0o777, 0, mtime);
            clean.append_link(&mut header, &path, &to).map_err(SourceError::Disk)
        }
        // An archive-wide pax header says nothing that is kept.
        EntryType::XGlobalHeader => Ok(()),
        other => Err(Refused::Kind(path, kind_name(other)).into()),
    }
}

fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "hard link (pack with --hard-dereference)",
        EntryType::Char | EntryType::Block => "device",
        EntryType::Fifo => "FIFO",
        EntryType::GNUSparse => "sparse file (pack without --sparse)",
        _ => "special entry",
    }
}

fn plain_header(kind: EntryType, mode: u32, size: u64, mtime: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(mtime);
    header
}

/// Hashes what passes, and keeps a read error apart from write errors.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
    read: u64,
    failed: Option<std::io::Error>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(n) => {
                self.hasher.update(&buffer[..n]);
                self.read += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                let told = std::io::Error::new(e.kind(), e.to_string());
                self.failed = Some(e);
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests;
