//! A source as a stream of `.tar.gz` chunks, never whole in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::Stream;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::Packed;
use super::walk::{Item, ItemKind};

const CHUNK: usize = 64 << 10;
/// Chunks that may wait for the connection: 1 MiB.
const QUEUE: usize = 16;

/// A file is not what it was when it was hashed. `Display` names it.
#[derive(Debug)]
pub(crate) struct Changed(pub(crate) String);

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} changed while it was packed", self.0)
    }
}

impl std::error::Error for Changed {}

/// Packs on a thread of its own, as fast as the stream is read; the counter says how many bytes of
/// files went in. Dropping the stream ends the thread.
pub(crate) fn stream(
    packed: Arc<Packed>,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + use<>, Arc<AtomicU64>) {
    let (sender, mut receiver) = mpsc::channel(QUEUE);
    let done = Arc::new(AtomicU64::new(0));
    let counter = done.clone();
    std::thread::spawn(move || {
        let chunks = Chunks { sender: sender.clone(), chunk: Vec::with_capacity(CHUNK) };
        if let Err(e) = write(&packed, chunks, &counter) {
            // Nobody listens any more after the upload ended by itself.
            let _ = sender.blocking_send(Err(e));
        }
    });
    (futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx)), done)
}

/// Writes the archive to `out` and returns it.
pub(crate) fn write<W: Write>(packed: &Packed, out: W, done: &AtomicU64) -> io::Result<W> {
    // Level 1: faster than most networks, and most of what there is to gain.
    let mut tar = Builder::new(GzEncoder::new(out, Compression::fast()));
    for (item, hash) in packed.entries() {
        append(&mut tar, item, hash, done)?;
    }
    let mut out = tar.into_inner()?.finish()?;
    out.flush()?;
    Ok(out)
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    item: &Item,
    hash: Option<&[u8; 32]>,
    done: &AtomicU64,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(item.mtime);
    header.set_size(0);
    match &item.kind {
        ItemKind::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, &item.path, io::empty())
        }
        ItemKind::Link { to } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            link_name(tar, &mut header, to.as_bytes())?;
            tar.append_data(&mut header, &item.path, io::empty())
        }
        ItemKind::File { executable, size } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            let file = File::open(&item.full).map_err(|e| {
                io::Error::new(e.kind(), format!("cannot read {:?}: {e}", item.path))
            })?;
            let mut content =
                Content { file, left: *size, hasher: blake3::Hasher::new(), item, done };
            tar.append_data(&mut header, &item.path, &mut content)?;
            content.check(hash)
        }
    }
}

/// Sets the target as it is: the tar crate would tidy it, and the digest is over what is sent.
/// Over 100 bytes it goes into an entry of its own before the link's (GNU tar manual, "Basic Tar
/// Format").
fn link_name<W: Write>(tar: &mut Builder<W>, header: &mut Header, to: &[u8]) -> io::Result<()> {
    if to.len() > 100 {
        let mut long = Header::new_gnu();
        long.set_entry_type(EntryType::GNULongLink);
        long.set_size(to.len() as u64 + 1);
        long.set_path("././@LongLink")?;
        long.set_mode(0o644);
        long.set_cksum();
        tar.append(&long, to.chain(&b"\0"[..]))?;
    }
    header.set_link_name_literal(&to[..to.len().min(100)])
}

/// A file's content: as long as it was, and the same as it was.
struct Content<'a> {
    file: File,
    left: u64,
    hasher: blake3::Hasher,
    item: &'a Item,
    done: &'a AtomicU64,
}

impl Content<'_> {
    fn changed(&self) -> io::Error {
        io::Error::other(Changed(self.item.path.clone()))
    }

    fn check(mut self, hash: Option<&[u8; 32]>) -> io::Result<()> {
        let grown = self.file.read(&mut [0])? != 0;
        if grown || hash != Some(self.hasher.finalize().as_bytes()) {
            return Err(self.changed());
        }
        Ok(())
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if limit == 0 {
            return Ok(0);
        }
        let n = self.file.read(&mut buffer[..limit])?;
        if n == 0 {
            return Err(self.changed());
        }
        self.hasher.update(&buffer[..n]);
        self.left -= n as u64;
        self.done.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Collects what is written into chunks for the connection.
struct Chunks {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let sent = self.sender.blocking_send(Ok(chunk.into()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
