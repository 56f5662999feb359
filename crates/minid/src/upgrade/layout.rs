//! Where releases of mini itself lie, as `packaging/install.sh` lays them out:
//!
//! ```text
//! /usr/local/lib/mini/releases/ID/{mini,minid,mini-static}
//! /usr/local/lib/mini/current  -> releases/ID     what the units start
//! /usr/local/lib/mini/previous -> releases/ID     what it was before
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::output::Fault;

const RELEASES: &str = "releases";
const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";

pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The one that the program which runs is part of.
    pub(crate) fn of_this_program() -> Result<Self, Fault> {
        let program = fs::canonicalize("/proc/self/exe")
            .map_err(|error| Fault::new(format!("this program's own file: {error}")))?;
        Self::around(&program).ok_or_else(|| {
            Fault::new(format!("{} was not put there by the installer", program.display())).hint(
                "packaging/install.sh lays mini out so that it can be upgraded; without it, put \
                 the new programs in the old ones' place and restart",
            )
        })
    }

    /// `ROOT/releases/ID/minid` with `ROOT/current`.
    fn around(program: &Path) -> Option<Self> {
        let releases = program.parent()?.parent()?;
        let this = Self { root: releases.parent()?.to_owned() };
        (releases.file_name()? == RELEASES && this.current().is_ok()).then_some(this)
    }

    /// The id of the release that is started.
    pub(crate) fn current(&self) -> io::Result<String> {
        self.linked(CURRENT)
    }

    pub(crate) fn previous(&self) -> io::Result<String> {
        self.linked(PREVIOUS)
    }

    fn linked(&self, link: &str) -> io::Result<String> {
        let target = fs::read_link(self.root.join(link))?;
        let name = target.file_name().and_then(|name| name.to_str());
        name.map(str::to_owned).ok_or_else(|| io::Error::other("the link names no release"))
    }

    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.root.join(RELEASES).join(id)
    }

    /// Where a release is unpacked before it is one.
    pub(crate) fn new_folder(&self) -> io::Result<PathBuf> {
        let folder = self.root.join(RELEASES).join(format!(".new-{}", std::process::id()));
        remove(&folder)?;
        Ok(folder)
    }

    /// Makes a release of what was unpacked. The same one once more takes its old self's place.
    pub(crate) fn keep(&self, unpacked: &Path, id: &str) -> io::Result<()> {
        let folder = self.folder(id);
        if !folder.exists() {
            fs::rename(unpacked, &folder)?;
        } else if self.current().is_ok_and(|current| current == id) {
            remove(unpacked)?;
        } else {
            remove(&folder)?;
            fs::rename(unpacked, &folder)?;
        }
        File::open(self.root.join(RELEASES))?.sync_all()
    }

    /// From here on `id` is started; durable when this returns.
    pub(crate) fn switch(&self, id: &str) -> io::Result<()> {
        self.link(CURRENT, id)
    }

    /// From here on `previous` leads to this release, or to none.
    pub(crate) fn remember(&self, previous: Option<&str>) -> io::Result<()> {
        match previous {
            Some(id) => self.link(PREVIOUS, id),
            None => match fs::remove_file(self.root.join(PREVIOUS)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    fn link(&self, link: &str, id: &str) -> io::Result<()> {
        let new = self.root.join(format!(".{link}-{}", std::process::id()));
        let _ = fs::remove_file(&new);
        symlink(Path::new(RELEASES).join(id), &new)?;
        fs::rename(&new, self.root.join(link))?;
        File::open(&self.root)?.sync_all()
    }

    /// Removes all releases but the current one and the one before.
    pub(crate) fn prune(&self) -> io::Result<()> {
        let kept = [self.current()?, self.previous().unwrap_or_default()];
        for entry in fs::read_dir(self.root.join(RELEASES))? {
            let entry = entry?;
            if !kept.iter().any(|id| entry.file_name() == id.as_str()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(root: &Path) -> Layout {
        for id in ["a", "b", "c"] {
            fs::create_dir_all(root.join(RELEASES).join(id)).unwrap();
        }
        let layout = Layout { root: root.to_owned() };
        layout.switch("a").unwrap();
        layout
    }

    #[test]
    fn a_switch_moves_one_link_and_the_one_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        layout.switch("b").unwrap();
        layout.remember(Some("a")).unwrap();
        layout.prune().unwrap();
        assert_eq!(
            (layout.current().unwrap(), layout.previous().unwrap()),
            ("b".into(), "a".into())
        );
        assert!(layout.folder("a").exists());
        assert!(layout.folder("b").exists());
        assert!(!layout.folder("c").exists());
        layout.remember(None).unwrap();
        layout.remember(None).unwrap();
        assert!(layout.previous().is_err());
    }

    #[test]
    fn only_what_the_installer_laid_out_is_upgraded() {
        let folder = tempfile::tempdir().unwrap();
        layout(folder.path());
        let program = folder.path().join("releases/a/minid");
        assert!(Layout::around(&program).is_some());
        assert!(Layout::around(Path::new("/usr/bin/minid")).is_none());
        fs::remove_file(folder.path().join(CURRENT)).unwrap();
        assert!(Layout::around(&program).is_none());
    }

    #[test]
    fn a_release_is_kept_under_its_id_also_a_second_time() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(folder.path());
        for id in ["a", "b", "d"] {
            let unpacked = layout.new_folder().unwrap();
            fs::create_dir(&unpacked).unwrap();
            fs::write(unpacked.join("minid"), id).unwrap();
            layout.keep(&unpacked, id).unwrap();
            assert!(!unpacked.exists());
            // What runs is not touched.
            assert_eq!(layout.folder(id).join("minid").exists(), id != "a");
        }
    }
}
