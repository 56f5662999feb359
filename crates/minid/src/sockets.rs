//! Where the three sockets lie: in the data folder, or, where that is read-only when a process
//! starts, in a folder in memory. Whoever listens chooses; whoever connects tries both.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::output::Fault;

#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    data: PathBuf,
    spare: PathBuf,
}

impl Sockets {
    pub(crate) fn of(data_dir: &Path) -> Self {
        let user = geteuid();
        let name = format!("mini-{}-{:016x}", user.as_raw(), hash(data_dir));
        let runtime = match std::env::var_os("XDG_RUNTIME_DIR") {
            _ if user.is_root() => PathBuf::from("/run"),
            Some(folder) => PathBuf::from(folder),
            None => std::env::temp_dir(),
        };
        Self { data: data_dir.to_owned(), spare: runtime.join(name) }
    }

    /// The folder to listen in, which is there after this.
    pub(crate) fn make_folder(&self) -> Result<PathBuf, Fault> {
        // Only this: a full disk still takes a socket, and other refusals are better said.
        if access(&self.data, Access::WRITE_OK) != Err(Errno::ROFS) {
            return Ok(self.data.clone());
        }
        make_private(&self.spare).map_err(|error| {
            let (data, spare) = (self.data.display(), self.spare.display());
            Fault::new(format!("{data} is read-only, and {spare} cannot be used: {error}"))
                .hint("make the data folder writable (`findmnt -T` names its file system)")
        })?;
        tracing::warn!(
            folder = %self.spare.display(),
            "the data folder is read-only: the sockets are here"
        );
        Ok(self.spare.clone())
    }

    /// Where a socket may be, best first.
    pub(crate) fn all(&self, name: &str) -> Vec<PathBuf> {
        vec![self.data.join(name), self.spare.join(name)]
    }

    /// The one that somebody listens at, else where it should be.
    pub(crate) fn live(&self, name: &str) -> PathBuf {
        let all = self.all(name);
        let live = all.iter().find(|path| UnixStream::connect(path).is_ok());
        live.unwrap_or(&all[0]).clone()
    }
}

/// A folder of ours alone: in a place where others can write, one of theirs is refused.
fn make_private(path: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let there = std::fs::symlink_metadata(path)?;
    if !there.is_dir()
        || there.uid() != geteuid().as_raw()
        || there.permissions().mode() & 0o077 != 0
    {
        return Err(io::Error::other("it is there and not ours alone"));
    }
    Ok(())
}

/// FNV-1a, the same in every version of this program.
fn hash(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_others_may_enter_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sockets");
        make_private(&path).unwrap();
        make_private(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(make_private(&path).is_err());
        let link = place.path().join("link");
        std::os::unix::fs::symlink(place.path(), &link).unwrap();
        assert!(make_private(&link).is_err());
    }

    #[test]
    fn each_data_folder_has_a_spare_of_its_own() {
        let [a, b] = ["/var/lib/mini", "/var/lib/mini2"].map(|p| Sockets::of(Path::new(p)).spare);
        assert_ne!(a, b);
        assert_eq!(a, Sockets::of(Path::new("/var/lib/mini")).spare);
    }
}
