//! One backup of a server at a time: two would take each other's helpers away on the engine.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::BackupError;

/// Whoever has it may back the folder's server up, or replace the folder.
#[derive(Debug)]
pub struct BackupLock(
    #[expect(dead_code, reason = "the lock is held for as long as it is open")] File,
);

impl BackupLock {
    /// Takes it, if nobody has it. The folder itself is locked, so that nothing has to be written to a disk
    /// that takes nothing any more.
    ///
    /// # Errors
    /// If the folder is not there or cannot be read.
    pub fn take(data_dir: &Path) -> Result<Option<Self>, BackupError> {
        let folder = match File::open(data_dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoServer(data_dir.to_owned()));
            }
            opened => opened.map_err(|e| BackupError::file(data_dir, e))?,
        };
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(folder))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(BackupError::file(data_dir, e.into())),
        }
    }
}
