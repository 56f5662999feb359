//! Space that is kept for the moment when there is none left.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// What is kept where there is room for it.
const MOST_BYTES: u64 = 16 << 20;
/// Less is not worth a file.
const LEAST_BYTES: u64 = 256 << 10;
/// The part of the free space that is taken at most.
const PART: u64 = 16;

/// A file of nothing in the data folder. It is given up when a write that must go through finds
/// the disk full (a stop, an app's end, how a deployment ended), and made again once there is room.
pub(super) struct Reserve(PathBuf);

impl Reserve {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Gives the space up; false when there was none to give.
    pub(super) fn give_up(&self) -> bool {
        match std::fs::remove_file(&self.0) {
            Ok(()) => {
                tracing::warn!(
                    "the disk is full: the reserve is given up for what must be written"
                );
                true
            }
            Err(_) => false,
        }
    }

    /// Makes the file if it is not there and there is room.
    pub(super) fn make(&self) {
        if self.0.exists() {
            return;
        }
        let Some(bytes) = self.size() else { return };
        if let Err(error) = self.fill(bytes) {
            tracing::debug!(%error, "no reserve could be made");
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn size(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(self.0.parent()?).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Some((free / PART).min(MOST_BYTES)).filter(|bytes| *bytes >= LEAST_BYTES)
    }

    fn fill(&self, bytes: u64) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.0)?;
        let flags = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(&file, flags, 0, bytes).is_err() {
            // Not every file system knows it.
            zeros(&mut file, bytes)?;
        }
        Ok(())
    }
}

fn zeros(file: &mut File, bytes: u64) -> io::Result<()> {
    let block = vec![0; 64 << 10];
    for _ in 0..bytes / (64 << 10) {
        file.write_all(&block)?;
    }
    Ok(())
}
