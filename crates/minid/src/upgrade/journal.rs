//! What an upgrade has begun, in the data folder until it is over: one that was cut off by a crash
//! or a reboot is found by the next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::output::Fault;

const NAME: &str = "upgrade.json";
const LOCK: &str = "upgrade.lock";
/// How often a lock that is taken is tried, and the pause between.
const LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_millis(50);

/// An upgrade that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) from: String,
    pub(crate) to: String,
    /// The release before `from`.
    pub(crate) previous: Option<String>,
    pub(crate) at: Timestamp,
    /// The database's schema before.
    pub(crate) schema: i64,
    /// Units that `to` has and `from` has not.
    #[serde(default)]
    pub(crate) added_units: Vec<String>,
}

/// An upgrade that was cut off and not taken back yet: its journal is there, and nobody is at it.
pub(crate) fn cut_off(data_dir: &Path) -> Option<Begun> {
    let begun = serde_json::from_slice(&fs::read(data_dir.join(NAME)).ok()?).ok()?;
    let is_held = |lock: File| flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
    let somebody = File::open(data_dir.join(LOCK)).is_ok_and(is_held);
    (!somebody).then_some(begun)
}

/// Held for as long as an upgrade takes: there is one at a time.
pub(crate) struct Journal {
    path: PathBuf,
    _lock: File,
}

impl Journal {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Fault> {
        let path = data_dir.join(LOCK);
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(|error| {
            Fault::new(format!("{}: {error}", path.display()))
                .hint("do it as root; --data-dir names another folder")
        })?;
        // Whoever only looks has it for a moment.
        for _ in 0..LOOKS {
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(Self { path: data_dir.join(NAME), _lock: lock });
            }
            std::thread::sleep(LOOK);
        }
        Err(Fault::new("another upgrade is under way").hint("wait for it to end"))
    }

    /// The one that was cut off.
    pub(crate) fn begun(&self) -> Result<Option<Begun>, Fault> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::new(format!("{}: {error}", self.path.display()))),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Fault::new(format!("{} cannot be read: {error}", self.path.display()))
                .hint("`minid status` says what runs; remove that file if all is well")
        })
    }

    /// On the disk when this returns.
    pub(crate) fn begin(&self, begun: &Begun) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(begun)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.sync()
    }

    pub(crate) fn end(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_found_until_it_ended_and_only_one_is_at_it() {
        let folder = tempfile::tempdir().unwrap();
        let begun = Begun {
            from: "a".into(),
            to: "b".into(),
            previous: None,
            at: Timestamp::UNIX_EPOCH,
            schema: 6,
            added_units: Vec::from(["mini-new.service".to_owned()]),
        };
        let journal = Journal::open(folder.path()).unwrap();
        assert!(Journal::open(folder.path()).is_err());
        assert_eq!(journal.begun().unwrap(), None);
        journal.begin(&begun).unwrap();
        assert_eq!(cut_off(folder.path()), None, "somebody is at it");
        drop(journal);
        assert_eq!(cut_off(folder.path()).as_ref(), Some(&begun));
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(journal.begun().unwrap(), Some(begun));
        journal.end().unwrap();
        journal.end().unwrap();
        assert_eq!(journal.begun().unwrap(), None);
        assert_eq!(cut_off(folder.path()), None);
        fs::write(folder.path().join(NAME), "{").unwrap();
        assert!(journal.begun().is_err());
    }
}
