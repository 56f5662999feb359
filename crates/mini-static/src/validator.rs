//! Entity tags and dates that say which version of a file a client has.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::body::PIECE;

/// Up to this many bytes a file's tag is the hash of its content, read once. A larger one would
/// keep its first reader waiting.
const HASHED_BYTES: u64 = 16 << 20;

/// What identifies one version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validators {
    /// A strong entity tag, with its quotes.
    pub(crate) etag: String,
    /// When the file was last changed, in whole seconds; none if the file has no real date.
    pub(crate) modified: Option<SystemTime>,
}

/// The parts of a file's metadata that change when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The content hashes found so far, one per file of the site at most.
#[derive(Debug, Default)]
pub(crate) struct Tags(Mutex<HashMap<PathBuf, (Stamp, String)>>);

impl Tags {
    /// The validators of an open file.
    ///
    /// Dates alone would not do: builds set them to whatever they like, so that two releases may
    /// have files of the same size and date with different content. A file too large to hash
    /// is told apart by the time the kernel noted for it (ctime), which no tool can set; that
    /// differs between machines, and then only costs a download.
    pub(crate) fn of(&self, path: &Path, file: &File, meta: &Metadata) -> io::Result<Validators> {
        let stamp = Stamp {
            length: meta.len(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        let known = {
            let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tags.get(path).filter(|(then, _)| *then == stamp).map(|(_, etag)| etag.clone())
        };
        let etag = match known {
            Some(etag) => etag,
            None if stamp.length > HASHED_BYTES => stamp.tag(),
            None => {
                let etag = hash(file)?;
                let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                tags.insert(path.to_owned(), (stamp, etag.clone()));
                etag
            }
        };
        Ok(Validators { etag, modified: modified(stamp.modified.0) })
    }
}

impl Stamp {
    fn tag(&self) -> String {
        let Self { length, inode, modified, changed } = self;
        format!(
            "\"{length:x}-{inode:x}-{:x}.{:x}-{:x}.{:x}\"",
            modified.0, modified.1, changed.0, changed.1
        )
    }
}

/// The tag of a content, read from the start in pieces.
fn hash(mut file: &File) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE];
    file.rewind()?;
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => hasher.update(&piece[..count]),
        };
    }
    let hex = hasher.finalize().to_hex();
    // 128 bits are enough to tell versions of one file apart.
    Ok(format!("\"{}\"", &hex[..32]))
}

/// A date worth sending. Reproducible builds set the epoch or a date near it: that says nothing.
fn modified(seconds: i64) -> Option<SystemTime> {
    const YEAR: u64 = 365 * 86_400;
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > YEAR)?;
    // A date in the future must not be sent (RFC 9110 section 8.8.2.1).
    let date = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    (date <= SystemTime::now()).then_some(date)
}
