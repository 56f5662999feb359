//! The limit on all builds together. BuildKit takes none with a build and says nothing; so it is set on
//! the control group that all its steps run in.
//!
//! Where that is, is the engine's matter. With control groups of its own, a step runs in
//! `PARENT/buildkit/ID`, and `PARENT/buildkit` gets the limit (PARENT is `docker` unless the engine was
//! told otherwise). With systemd's, each runs in `…/system.slice:docker:ID`, among everything else: while
//! a build of ours runs, such steps are moved as they begin, into a group of ours that has the limit.
//! Which of them it is, is seen with a step of our own: [`super::probe`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mini_core::ports::LimitFound;

use crate::engine::Docker;

const ROOT: &str = "/sys/fs/cgroup";
/// Where steps are moved to that have no group of their own for all of them.
const OURS: &str = "mini-builds";
/// The weight of an app is 1024 (CONTRACTS, "Default limits").
const SHARES_V1: u64 = 256;
/// The same share by the scale of version 2, where an app has 100 by default.
const WEIGHT_V2: u64 = 25;
/// How often new steps are looked for that must be moved.
const GATHER: Duration = Duration::from_millis(50);
/// From a first step that was not seen to the next, which is tried later and later.
const AGAIN: Duration = Duration::from_secs(20);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Where steps of builds are, of each thing that is limited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    memory: Place,
    cpu: Place,
}

/// A place below the root of control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Each in a group of its own in this one.
    Below(PathBuf),
    /// Each in a group in `parent` whose name begins with `prefix`, where others are too.
    Beside { parent: PathBuf, prefix: String },
}

impl Place {
    /// By the group of one step: `/docker/buildkit/ID`, `/system.slice/system.slice:docker:ID`.
    fn of(group: &str) -> Option<Self> {
        let group = Path::new(group.trim_start_matches('/'));
        let (parent, name) = (group.parent()?, group.file_name()?.to_str()?);
        if parent.file_name().is_some_and(|name| name == "buildkit") {
            return Some(Self::Below(parent.to_owned()));
        }
        let (prefix, _) = name.rsplit_once(':')?;
        Some(Self::Beside { parent: parent.to_owned(), prefix: format!("{prefix}:") })
    }

    /// The group that has the limit.
    fn limited(&self) -> &Path {
        match self {
            Self::Below(group) => group,
            Self::Beside { .. } => Path::new(OURS),
        }
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            Place::Below(group) => write!(f, "in {}", group.display()),
            Place::Beside { parent, prefix } => {
                write!(f, "in {}/{prefix}…, moved to {OURS}", parent.display())
            }
        }
    }
}

impl Steps {
    /// By `/proc/PID/cgroup` of one of them (cgroups(7)): `4:memory:/docker/buildkit/ID` of version 1,
    /// `0::/…` of version 2.
    pub(super) fn of(text: &str) -> Option<Self> {
        let group = |wanted: &str| {
            text.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, group) = (parts.next()?, parts.next()?);
                controllers.split(',').any(|name| name == wanted).then_some(group)
            })
        };
        let place = |controller: &str| Place::of(group(controller).or_else(|| group(""))?);
        Some(Self { memory: place("memory")?, cpu: place("cpu")? })
    }

    /// Whether the limit is where they are, and as it should be.
    ///
    /// # Errors
    /// What is otherwise.
    pub fn look(&self, memory_bytes: u64) -> Result<(), String> {
        self.look_in(Path::new(ROOT), memory_bytes)
    }

    fn look_in(&self, root: &Path, memory_bytes: u64) -> Result<(), String> {
        self.files(root, memory_bytes).iter().try_for_each(|(file, value)| is(file, *value))
    }

    /// What must stand where.
    fn files(&self, root: &Path, memory_bytes: u64) -> Vec<(PathBuf, u64)> {
        let memory = base(root, "memory").join(self.memory.limited());
        let cpu = base(root, "cpu").join(self.cpu.limited());
        if is_unified(root) {
            return vec![
                (memory.join("memory.max"), memory_bytes),
                (memory.join("memory.swap.max"), 0),
                (cpu.join("cpu.weight"), WEIGHT_V2),
            ];
        }
        vec![
            (memory.join("memory.limit_in_bytes"), memory_bytes),
            (memory.join("memory.memsw.limit_in_bytes"), memory_bytes),
            (cpu.join("cpu.shares"), SHARES_V1),
        ]
    }

    /// Writes what is not as it should be.
    fn hold(&self, root: &Path, memory_bytes: u64) -> Result<LimitFound, String> {
        if self.look_in(root, memory_bytes).is_ok() {
            return Ok(LimitFound::There);
        }
        if is_unified(root) {
            // A group has the files of a controller only if all above it pass that on.
            let mut above: Vec<&Path> = self.memory.limited().ancestors().skip(1).collect();
            above.reverse();
            for above in above {
                let _ =
                    std::fs::write(root.join(above).join("cgroup.subtree_control"), "+cpu +memory");
            }
        }
        let files = self.files(root, memory_bytes);
        // Version 1 keeps memory below memory+swap at every moment: raised, the second must go first.
        for last in [false, true] {
            for (file, value) in &files {
                match write(file, *value) {
                    Err(why) if last => return Err(why),
                    _ => {}
                }
            }
        }
        Ok(LimitFound::Set)
    }

    /// Moves steps that are not where the limit is. What they took before stays theirs alone; what
    /// they start meanwhile is found the next time.
    fn gather(&self, root: &Path) {
        let mut bases = BTreeSet::new();
        for (controller, place) in [("memory", &self.memory), ("cpu", &self.cpu)] {
            let Place::Beside { parent, prefix } = place else { continue };
            let base = base(root, controller);
            if !bases.insert(base.clone()) {
                continue;
            }
            let to = base.join(OURS).join("cgroup.procs");
            let groups = std::fs::read_dir(base.join(parent)).into_iter().flatten().flatten();
            let of_steps = groups.filter(|group| {
                group.file_name().to_str().is_some_and(|name| name.starts_with(prefix.as_str()))
            });
            for group in of_steps {
                let pids = std::fs::read_to_string(group.path().join("cgroup.procs"));
                for pid in pids.unwrap_or_default().lines() {
                    // It may have ended.
                    if let Err(error) = put(&to, pid) {
                        tracing::debug!(%error, pid, "a step of a build is not moved");
                    }
                }
            }
        }
    }
}

/// What is known of the limit.
#[derive(Default)]
pub(crate) struct Limit {
    /// In bytes, and what can be a step of a build (mini-static); none: there is no limit.
    told: OnceLock<(u64, PathBuf)>,
    found: Mutex<Found>,
    /// Held while a step is looked for.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Found {
    steps: Option<Steps>,
    /// Why none was seen, when, and how long is waited for the next try.
    failed: Option<(String, Instant, Duration)>,
}

impl Limit {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Docker {
    /// From now on all builds together take no more than `memory_bytes`, and apps' processes come
    /// before theirs. For an engine that is ours alone: the limit holds for everybody's builds. Only
    /// the first call counts. `program` as for [`Docker::find_steps`].
    pub fn limit_builds(&self, memory_bytes: u64, program: PathBuf) {
        let _ = self.inner.limit.told.set((memory_bytes, program));
    }

    /// What builds may take, in bytes, if there is a limit.
    pub(super) fn build_memory(&self) -> Option<u64> {
        self.inner.limit.told.get().map(|(memory, _)| *memory)
    }

    /// Where steps run. Nothing is written where none was seen: it may be the place of other builds.
    async fn steps(&self) -> Result<Steps, String> {
        let limit = &self.inner.limit;
        let Some((_, program)) = limit.told.get() else { return Err("there is no limit".into()) };
        let _one_at_a_time = limit.looking.lock().await;
        {
            let found = limit.found();
            match (&found.steps, &found.failed) {
                (Some(steps), _) => return Ok(steps.clone()),
                (None, Some((why, at, pause))) if at.elapsed() < *pause => return Err(why.clone()),
                _ => {}
            }
        }
        let seen = self.find_steps(program).await;
        let seen = seen.map_err(|why| format!("no step of a build was seen: {why}"));
        let mut found = limit.found();
        match &seen {
            Ok(steps) => *found = Found { steps: Some(steps.clone()), failed: None },
            Err(why) => {
                let pause = found.failed.take().map_or(AGAIN, |(.., pause)| pause * 2);
                found.failed = Some((why.clone(), Instant::now(), pause.min(AGAIN_MAX)));
            }
        }
        seen
    }

    /// Sets the limit where the steps of the next build will run; answers with where, if they must be
    /// moved to it ([`gather`]).
    pub(super) async fn hold_builds(&self) -> Result<Option<Steps>, String> {
        let Some(memory) = self.build_memory() else { return Ok(None) };
        let steps = self.steps().await?;
        steps.hold(Path::new(ROOT), memory)?;
        Ok(Some(steps).filter(|steps| matches!(steps.memory, Place::Beside { .. })))
    }

    /// Looks that the limit is where builds' steps are, and sets it if not.
    pub(crate) async fn keep_limit(&self) -> Result<LimitFound, String> {
        let Some(memory) = self.build_memory() else { return Ok(LimitFound::NoLimit) };
        match self.steps().await {
            // The classic builder is told with each build.
            _ if self.has_no_buildkit() => Ok(LimitFound::There),
            Ok(steps) => steps.hold(Path::new(ROOT), memory),
            Err(why) => Err(why),
        }
    }
}

/// Moves steps to the limit, for as long as it is polled.
pub(super) async fn gather(steps: Steps) {
    loop {
        steps.gather(Path::new(ROOT));
        tokio::time::sleep(GATHER).await;
    }
}

fn is_unified(root: &Path) -> bool {
    root.join("cgroup.controllers").exists()
}

/// The root of the hierarchy of a controller.
fn base(root: &Path, controller: &str) -> PathBuf {
    if is_unified(root) { root.to_owned() } else { root.join(controller) }
}

/// Whether a file says that. The kernel rounds down to whole pages, and where it does not account swap
/// there is no such file.
fn is(file: &Path, value: u64) -> Result<(), String> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_of_swap(file) => return Ok(()),
        text => text.map_err(|error| format!("{}: {error}", file.display()))?,
    };
    match text.trim().parse::<u64>() {
        Ok(said) if said <= value && value - said < 65_536 => Ok(()),
        _ => Err(format!("{} is {}, not {value}", file.display(), text.trim())),
    }
}

fn is_of_swap(file: &Path) -> bool {
    let of_swap = [OsStr::new("memory.memsw.limit_in_bytes"), OsStr::new("memory.swap.max")];
    let folder_is_there = file.parent().is_some_and(Path::is_dir);
    folder_is_there && file.file_name().is_some_and(|name| of_swap.contains(&name))
}

/// Writes a value, and reads back what the kernel made of it.
fn write(file: &Path, value: u64) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    if is_of_swap(file) && !file.exists() {
        return Ok(());
    }
    std::fs::write(file, value.to_string()).map_err(failed)?;
    is(file, value)
}

/// Writes into a file of the kernel's, and makes none.
fn put(file: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn read(root: &Path, file: &str) -> String {
        std::fs::read_to_string(root.join(file)).unwrap()
    }

    /// A root of version 1, or of version 2, with these groups.
    fn root(unified: bool, groups: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        if unified {
            std::fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
        }
        for group in groups {
            std::fs::create_dir_all(root.path().join(group)).unwrap();
        }
        root
    }

    /// As an engine does that was told nothing else.
    fn usual() -> Steps {
        Steps::of("0::/docker/buildkit/x\n").unwrap()
    }

    #[test]
    fn where_steps_are_is_read_off_one_of_them() {
        let below = |group: &str| Place::Below(group.into());
        let first = "5:memory:/docker/buildkit/abc\n2:cpu,cpuacct:/x/buildkit/abc\n0::/\n";
        let steps = Steps::of(first).unwrap();
        assert_eq!((&steps.memory, &steps.cpu), (&below("docker/buildkit"), &below("x/buildkit")));
        assert_eq!(steps.to_string(), "in docker/buildkit");
        let second = Steps::of("0::/docker/buildkit/abc\n").unwrap();
        assert_eq!((&second.memory, &second.cpu), (&below("docker/buildkit"), &second.memory));
        let beside = Steps::of("0::/system.slice/system.slice:docker:abc\n").unwrap();
        let prefix = "system.slice:docker:".to_owned();
        assert_eq!(beside.memory, Place::Beside { parent: "system.slice".into(), prefix });
        for none in ["", "0::/\n", "0::/somewhere/else\n", "3:pids:/docker/buildkit/abc\n"] {
            assert_eq!(Steps::of(none), None, "{none:?}");
        }
    }

    #[test]
    fn both_versions_of_control_groups_get_the_limit_and_keep_it() {
        let first = root(false, &["memory/docker", "cpu/docker"]);
        let second = root(true, &["docker"]);
        for (root, memory, share) in [
            (
                first.path(),
                "memory/docker/buildkit/memory.limit_in_bytes",
                "cpu/docker/buildkit/cpu.shares",
            ),
            (second.path(), "docker/buildkit/memory.max", "docker/buildkit/cpu.weight"),
        ] {
            let steps = usual();
            assert!(steps.look_in(root, GIB).is_err(), "nothing is there yet");
            assert_eq!(steps.hold(root, GIB), Ok(LimitFound::Set));
            assert_eq!(read(root, memory), GIB.to_string());
            assert_eq!(read(root, share), if root == first.path() { "256" } else { "25" });
            assert_eq!(steps.hold(root, GIB), Ok(LimitFound::There));
            assert_eq!(steps.look_in(root, GIB), Ok(()));
            // By hand: raised, lifted, and the whole group taken away.
            for changed in ["9999999999999", "max"] {
                std::fs::write(root.join(memory), changed).unwrap();
                assert!(steps.look_in(root, GIB).unwrap_err().contains(changed));
                assert_eq!(steps.hold(root, GIB), Ok(LimitFound::Set));
            }
            std::fs::write(root.join(share), "1024").unwrap();
            assert_eq!(steps.hold(root, GIB), Ok(LimitFound::Set));
            std::fs::remove_dir_all(root.join(memory).parent().unwrap()).unwrap();
            assert_eq!(steps.hold(root, GIB), Ok(LimitFound::Set));
            assert_eq!(read(root, memory), GIB.to_string());
        }
        assert_eq!(read(second.path(), "docker/cgroup.subtree_control"), "+cpu +memory");
        assert_eq!(read(second.path(), "cgroup.subtree_control"), "+cpu +memory");
    }

    #[test]
    fn steps_among_everything_else_are_moved_and_nothing_else_is() {
        for unified in [true, false] {
            let bases: &[&str] = if unified { &["."] } else { &["memory", "cpu"] };
            let root = root(unified, &[]);
            for base in bases {
                let base = root.path().join(base);
                for (group, pid) in [
                    ("system.slice/system.slice:docker:abc", "77"),
                    ("system.slice/docker-123.scope", "88"),
                    ("mini-builds", ""),
                ] {
                    std::fs::create_dir_all(base.join(group)).unwrap();
                    std::fs::write(base.join(group).join("cgroup.procs"), pid).unwrap();
                }
            }
            let steps = Steps::of("0::/system.slice/system.slice:docker:x\n").unwrap();
            assert_eq!(steps.hold(root.path(), GIB), Ok(LimitFound::Set));
            steps.gather(root.path());
            for base in bases {
                let moved = read(&root.path().join(base), "mini-builds/cgroup.procs");
                assert_eq!(moved, "77", "unified: {unified}");
            }
            let limited = if unified {
                "mini-builds/memory.max"
            } else {
                "memory/mini-builds/memory.limit_in_bytes"
            };
            assert_eq!(read(root.path(), limited), GIB.to_string());
        }
    }

    #[test]
    fn what_cannot_be_limited_is_said() {
        let root = root(false, &["memory/docker"]);
        // A file where the group should be.
        std::fs::write(root.path().join("memory/docker/buildkit"), "").unwrap();
        let steps = usual();
        assert!(steps.hold(root.path(), GIB).unwrap_err().contains("docker/buildkit"));
    }
}
