//! The limit on all builds together, on an engine of the test's own whose control groups are apart from
//! those of everybody else's builds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::engine::beside::Beside;
use crate::platform::{Platform, binaries, deploy, fixture, until};

const MEMORY_MB: u64 = 64;

/// The control groups below one of this test's, in every hierarchy of version 1.
struct Groups(String);

impl Groups {
    fn new(name: &str) -> Self {
        assert!(
            Path::new("/sys/fs/cgroup/memory").is_dir(),
            "this test reads control groups of version 1"
        );
        let groups = Self(format!("{name}-{}", std::process::id()));
        // One processor for all of them, so that they contend for it.
        let cpuset = groups.of("cpuset", "");
        std::fs::create_dir_all(&cpuset).unwrap();
        std::fs::write(cpuset.join("cpuset.cpus"), "0").unwrap();
        std::fs::write(cpuset.join("cpuset.mems"), "0").unwrap();
        groups
    }

    fn of(&self, controller: &str, group: &str) -> PathBuf {
        Path::new("/sys/fs/cgroup").join(controller).join(&self.0).join(group)
    }

    fn read(&self, controller: &str, file: &str) -> u64 {
        let text = std::fs::read_to_string(self.of(controller, file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Time on the processor, in nanoseconds: of builds, and of everything else.
    fn spent(&self) -> (u64, u64) {
        let (all, builds) = ("cpuacct.usage", "buildkit/cpuacct.usage");
        let builds = self.read("cpuacct", builds);
        (builds, self.read("cpuacct", all) - builds)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            remove(&hierarchy.path().join(&self.0));
        }
    }
}

/// A group with all below it.
fn remove(group: &Path) {
    let below = std::fs::read_dir(group).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove(&entry.path()));
    let _ = std::fs::remove_dir(group);
}

/// A folder whose build runs the fixture with these words.
fn builds_with(words: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(binaries().join("mini-fixture"), folder.path().join("app")).unwrap();
    let run = words.split(' ').map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
    let text = format!("FROM scratch\nCOPY app /app\nRUN [\"/app\", {run}]\nCMD [\"/app\"]\n");
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    folder
}

fn start(engine: &Beside) -> Platform {
    let memory = MEMORY_MB.to_string();
    let flags = ["--engine", "dedicated", "--firewall", "off", "--build-memory-mb", &memory];
    Platform::start_beside(engine, &flags)
}

#[test]
fn a_build_takes_no_more_than_its_share_and_apps_do_not_notice() {
    let groups = Groups::new("mini-test-builds");
    let engine = Beside::start_with(false, &["--cgroup-parent", &format!("/{}", groups.0)]);
    let platform = start(&engine);
    let limit = groups.of("memory", "buildkit/memory.limit_in_bytes");
    let held = || {
        let shares = groups.read("cpu", "buildkit/cpu.shares");
        let memory = groups.read("memory", "buildkit/memory.limit_in_bytes");
        (memory == MEMORY_MB << 20 && shares == 256).then_some(())
    };
    until("the limit is where steps run, by a step that was seen there", held);

    // Memory: the build dies of it, and the app, which has more than that, runs on.
    let folder = fixture(&[]);
    std::fs::write(folder.path().join("Procfile"), "web: /app\nworker: /app spin 600000\n")
        .unwrap();
    platform.ok(&deploy(folder.path(), "app"));
    let eats = builds_with("eat 256");
    let failed = platform.fails(&deploy(eats.path(), "eats"));
    assert!(failed.err.contains("137") || failed.err.contains("out of memory"), "{failed:?}");
    let most = groups.read("memory", "buildkit/memory.max_usage_in_bytes");
    assert!(most <= MEMORY_MB << 20 && most > MEMORY_MB << 19, "{most}");
    platform.ok(&deploy(builds_with("eat 16").path(), "fits"));
    let ps = platform.json(&["ps", "--app", "app"])["instances"].clone();
    assert_eq!(
        (ps[0]["state"].as_str(), ps[0]["restarts"].as_u64()),
        (Some("up"), Some(0)),
        "{ps}"
    );

    // Processors: a build and an app want all of one, and the app gets four times as much.
    platform.ok(&["scale", "worker=1", "--app", "app"]);
    let spins = builds_with("spin 60000");
    let words = deploy(spins.path(), "spins");
    let mut build = platform.mini(&words);
    let mut build = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let second = Duration::from_secs(1).as_nanos() as u64;
    let before = until("the build's step runs", || {
        let before = groups.spent();
        std::thread::sleep(Duration::from_millis(200));
        (groups.spent().0 - before.0 > second / 100).then(|| groups.spent())
    });
    let begun = Instant::now();
    let (builds, apps) = until("they have had some seconds", || {
        let now = groups.spent();
        let spent = (now.0 - before.0, now.1 - before.1);
        (spent.0 + spent.1 > 4 * second).then_some(spent)
    });
    let share = apps as f64 / builds as f64;
    crate::crash::tell(&format!(
        "of one processor for {:.1} s: apps {:.2} s, a build {:.2} s",
        begun.elapsed().as_secs_f64(),
        apps as f64 / 1e9,
        builds as f64 / 1e9
    ));
    assert!((2.5..8.0).contains(&share), "an app got {share:.2} times what the build did");
    platform.ok(&["apps", "destroy", "spins", "--yes"]);
    build.wait().unwrap();

    // Changed by hand, and removed: it is put back, and meanwhile the doctor says what is wrong.
    let doctor = || {
        let said = platform.minid(&[
            "doctor",
            "--engine",
            "dedicated",
            "--firewall",
            "off",
            "--build-memory-mb",
            "64",
        ]);
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let place = format!("in {}/buildkit", groups.0);
    let said = doctor();
    assert!(
        said.contains("ok    all builds together are held to 67 MB") && said.contains(&place),
        "{said}"
    );
    std::fs::write(groups.of("cpu", "buildkit/cpu.shares"), "1024").unwrap();
    std::fs::write(groups.of("memory", "buildkit/memory.memsw.limit_in_bytes"), "-1").unwrap();
    std::fs::write(&limit, "-1").unwrap();
    let said = doctor();
    assert!(
        said.contains("FAULT builds are not held") && said.contains("memory.limit_in_bytes"),
        "{said}"
    );
    until("the limit is set again", held);
    assert!(platform.log().contains("the limit on builds was changed or removed"));
    until("the group is empty and goes", || {
        remove(&groups.of("memory", "buildkit"));
        (!limit.exists()).then_some(())
    });
    until("the group is back, with the limit", held);
    drop(platform);
    drop(engine);
}

#[test]
fn where_steps_are_among_everything_else_they_are_moved_to_the_limit() {
    // As the engine does under systemd; it need not be there for builds.
    let engine = Beside::start_with(false, &["--exec-opt", "native.cgroupdriver=systemd"]);
    let platform = start(&engine);
    let ours = Path::new("/sys/fs/cgroup/memory/mini-builds");
    let read = |file: &str| -> u64 {
        let text = std::fs::read_to_string(ours.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    until("there is a group with the limit", || {
        (read("memory.limit_in_bytes") == MEMORY_MB << 20).then_some(())
    });
    let failed = platform.fails(&deploy(builds_with("eat 256").path(), "eats"));
    assert!(failed.err.contains("137") || failed.err.contains("out of memory"), "{failed:?}");
    let most = read("memory.max_usage_in_bytes");
    assert!(most <= MEMORY_MB << 20 && most > MEMORY_MB << 19, "{most}: {failed:?}");
    drop(platform);
    drop(engine);
    for controller in ["memory", "cpu"] {
        remove(&Path::new("/sys/fs/cgroup").join(controller).join("mini-builds"));
    }
}
