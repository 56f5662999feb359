//! The limit on all builds together. BuildKit takes none with a build and says nothing; so it is
//! set on the control group that all its steps run in, below the engine's own.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::Docker;

pub(super) const ROOT: &str = "/sys/fs/cgroup";
/// Where the engine puts BuildKit's steps: with control groups of its own, and with systemd's.
const GROUPS: [&str; 2] = ["docker/buildkit", "system.slice/buildkit"];
/// The weight of an app is 1024 (CONTRACTS, "Default limits").
const SHARES_V1: u64 = 256;
/// The same share by the scale of version 2, where an app has 100 by default.
const WEIGHT_V2: u64 = 25;

impl Docker {
    /// From now on no builds together take more than `memory_bytes`, and apps' processes come
    /// before theirs. For an engine that is ours alone: the limit holds for everybody's builds.
    pub fn limit_builds(&self, memory_bytes: u64) {
        self.inner.build_memory.store(memory_bytes, std::sync::atomic::Ordering::Relaxed);
    }

    /// What builds may take, in bytes, if there is a limit.
    pub(super) fn build_memory(&self) -> Option<u64> {
        let memory = self.inner.build_memory.load(std::sync::atomic::Ordering::Relaxed);
        (memory > 0).then_some(memory)
    }

    /// Sets the limit where the steps of the next build will run. Why it does not hold, if so.
    pub(super) fn hold_builds(&self, root: &Path) -> Option<String> {
        hold(root, self.build_memory()?).err()
    }
}

/// Writes the limits, and reads back what the kernel made of them.
fn hold(root: &Path, memory_bytes: u64) -> Result<(), String> {
    let unified = root.join("cgroup.controllers").exists();
    let memory_root = if unified { root.to_owned() } else { root.join("memory") };
    let group = GROUPS.iter().find(|group| {
        let parent = Path::new(group).parent();
        parent.is_some_and(|parent| memory_root.join(parent).is_dir())
    });
    let group = group.ok_or("the engine's control group is not to be found on this machine")?;
    let files: Vec<(PathBuf, u64)> = if unified {
        let folder = root.join(group);
        vec![
            (folder.join("memory.max"), memory_bytes),
            (folder.join("memory.swap.max"), 0),
            (folder.join("cpu.weight"), WEIGHT_V2),
        ]
    } else {
        vec![
            (root.join("memory").join(group).join("memory.limit_in_bytes"), memory_bytes),
            (root.join("memory").join(group).join("memory.memsw.limit_in_bytes"), memory_bytes),
            (root.join("cpu").join(group).join("cpu.shares"), SHARES_V1),
        ]
    };
    // Version 1 keeps memory below memory+swap at every moment: raised, the second must go first.
    for last in [false, true] {
        for (file, value) in &files {
            match write(file, *value) {
                Err(why) if last => return Err(why),
                _ => {}
            }
        }
    }
    Ok(())
}

fn write(file: &Path, value: u64) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // Where the kernel does not account swap there is no such file.
    let of_swap = [OsStr::new("memory.memsw.limit_in_bytes"), OsStr::new("memory.swap.max")];
    if !file.exists() && file.file_name().is_some_and(|name| of_swap.contains(&name)) {
        return Ok(());
    }
    std::fs::write(file, value.to_string()).map_err(failed)?;
    // The kernel rounds down to whole pages.
    let text = std::fs::read_to_string(file).map_err(failed)?;
    match text.trim().parse::<u64>() {
        Ok(said) if said <= value && value - said < 65_536 => Ok(()),
        _ => Err(format!("{}: the kernel made {} of {value}", file.display(), text.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_get_the_limit() {
        let root = tempfile::tempdir().unwrap();
        let memory = root.path().join("memory/docker");
        std::fs::create_dir_all(&memory).unwrap();
        assert_eq!(hold(root.path(), 1 << 30), Ok(()));
        let read = |file: &str| std::fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(read("memory/docker/buildkit/memory.limit_in_bytes"), (1u64 << 30).to_string());
        assert_eq!(read("cpu/docker/buildkit/cpu.shares"), "256");

        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("system.slice")).unwrap();
        std::fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
        assert_eq!(hold(root.path(), 1 << 30), Ok(()));
        let file = root.path().join("system.slice/buildkit/memory.max");
        assert_eq!(std::fs::read_to_string(file).unwrap(), (1u64 << 30).to_string());
    }

    #[test]
    fn what_cannot_be_limited_is_said() {
        let root = tempfile::tempdir().unwrap();
        assert!(hold(root.path(), 1 << 30).unwrap_err().contains("not to be found"));
        std::fs::create_dir_all(root.path().join("memory/docker")).unwrap();
        // A file where the group should be.
        std::fs::write(root.path().join("memory/docker/buildkit"), "").unwrap();
        assert!(hold(root.path(), 1 << 30).is_err());
    }
}
