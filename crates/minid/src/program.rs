//! The file of a program that is to be started, held open: the same one even if its path names
//! another by the time of the start.
//!
//! After a crash what has run is started again, so that parent and children stay as they were
//! together. A reload is what brings in a file that was put in its place.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};

const SELF: &str = "/proc/self/exe";
/// What the kernel appends to the name of a program whose file is gone or replaced (proc(5)).
const DELETED: &str = " (deleted)";

pub(crate) struct Program {
    path: PathBuf,
    file: OwnedFd,
}

impl Program {
    /// The program that runs now.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        Ok(Self { path: own_path()?, file: open(SELF.into())? })
    }

    /// What lies now where the program that runs was started from.
    pub(crate) fn on_disk() -> io::Result<Self> {
        let path = own_path()?;
        let file = open(path.clone())?;
        Ok(Self { path, file })
    }

    /// What it is to be called (`argv[0]`), so that it can find what lies in its place later.
    pub(crate) fn name(&self) -> &Path {
        &self.path
    }

    /// A path to start it by, in this process.
    pub(crate) fn path(&self) -> PathBuf {
        let held = fstat(&self.file).ok();
        let there = stat(&self.path).ok();
        let same =
            held.zip(there).is_some_and(|(a, b)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino));
        // The child finds it among the descriptors that it still has until it is another program.
        let by_handle = || format!("/proc/self/fd/{}", self.file.as_raw_fd()).into();
        if same { self.path.clone() } else { by_handle() }
    }
}

fn open(path: PathBuf) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// As this process was called, where that is a whole path: it may lead over a link that an upgrade
/// moves. Else where its file lies.
fn own_path() -> io::Result<PathBuf> {
    let called = std::env::args_os().next().map(PathBuf::from);
    if let Some(called) = called.filter(|path| path.is_absolute() && path.exists()) {
        return Ok(called);
    }
    let path = std::env::current_exe()?;
    let named = path.to_str().and_then(|path| path.strip_suffix(DELETED));
    Ok(named.map_or(path.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_one_after_its_path_names_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::copy("/bin/true", &path).unwrap();
        let program = Program { path: path.clone(), file: open(path.clone()).unwrap() };
        assert_eq!(program.path(), path);
        let other = folder.path().join("other");
        std::fs::copy("/bin/false", &other).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(program.path(), path);
        assert!(std::process::Command::new(program.path()).status().unwrap().success());
        assert!(!std::process::Command::new(&path).status().unwrap().success());
    }
}
