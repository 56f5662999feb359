//! When the machine itself is ill.

use std::path::Path;
use std::process::Command;

use mini_core::ports::Runtime;

use crate::platform::{Platform, block_on, deploy, fixture, until};

/// A small file system of the test's own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "mini-test"])
            .arg(folder.path())
            .output()
            .expect("mount runs");
        assert!(done.status.success(), "needs root: {}", String::from_utf8_lossy(&done.stderr));
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes what is left of it, to the last byte.
    fn fill(&self) {
        // Ends with the error that there is no more.
        let _ = std::fs::write(self.path().join("filler"), vec![1; 30 << 20]);
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }

    fn remount(&self, how: &str) {
        until("the file system is not in use", || {
            let option = format!("remount,{how}");
            let done = Command::new("mount").args(["-o", &option]).arg(self.path()).output();
            done.expect("mount runs").status.success().then_some(())
        });
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

#[test]
fn a_full_data_folder_refuses_changes_in_words_and_serves_on() {
    let disk = SmallDisk::new();
    let data = disk.path().join("data");
    let platform = Platform::start_with(&["--data-dir", data.to_str().unwrap()], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let big = tempfile::tempdir().unwrap();
    std::fs::write(big.path().join("index.html"), "big").unwrap();
    std::fs::write(big.path().join("blob"), vec![7; 40 << 20]).unwrap();
    let said = platform.fails(&deploy(big.path(), "app"));
    assert!(said.err.contains("cannot be written") && said.err.contains("hint: "), "{said:?}");
    assert_eq!(platform.get("app", "/").status, 200);
    disk.fill();
    let said =
        platform.fails(&["env", "set", &format!("A={}", "x".repeat(100_000)), "--app", "app"]);
    assert!(said.err.contains("cannot be written"), "{said:?}");
    assert_eq!(platform.get("app", "/").status, 200);
    disk.free();
    platform.ok(&["env", "set", "A=1", "--app", "app"]);
    assert_eq!(platform.get("app", "/env").json()["A"], "1", "and it is well again");
}

/// A platform on a small disk with two apps that serve, stopped.
fn two_apps_on(disk: &SmallDisk) -> Platform {
    let data = disk.path().join("data");
    let mut platform = Platform::start_with(&["--data-dir", data.to_str().unwrap()], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&deploy(folder.path(), "other"));
    platform.down();
    platform
}

/// What holds while nothing can be written: what ran runs, what dies is started again in its
/// place, reads are answered and changes refused.
fn it_serves_and_refuses_changes(platform: &Platform, fill: impl Fn()) {
    assert_eq!(platform.get("app", "/").status, 200);
    let said = platform.fails(&["env", "set", "A=1", "--app", "app"]);
    assert!(said.err.contains("cannot be written") && said.err.contains("hint: "), "{said:?}");
    let docker = platform.engine(&platform.server_id());
    let found = block_on(docker.observe()).unwrap();
    let own = found.iter().find(|i| i.app.as_str() == "app").unwrap();
    block_on(docker.stop(own.id.clone(), 1000)).unwrap();
    until("the app is back", || platform.try_get("app", "/").ok().filter(|a| a.status == 200));
    let ps = platform.json(&["ps", "--app", "app"]);
    assert_eq!(ps["instances"][0]["id"], own.id.as_str(), "the same one");
    // What little was freed meanwhile may have let it write again for a moment.
    fill();
    until("it says so", || {
        let said = platform.fails(&["env", "set", "A=1", "--app", "app"]);
        assert!(said.err.contains("cannot be written"), "{said:?}");
        let problems = platform.api(("GET", "/v1/server"), &[], b"").json()["problems"].to_string();
        problems.contains("cannot be written").then_some(())
    });
}

/// What holds once there is room again, by itself.
fn it_is_well_again(platform: &Platform) {
    until("changes are taken", || {
        let set = platform.mini(&["env", "set", "A=1", "--app", "app"]).output().unwrap();
        set.status.success().then_some(())
    });
    assert_eq!(platform.get("app", "/env").json()["A"], "1");
}

#[test]
fn a_start_on_a_full_disk_serves_and_ends_what_is_to_end() {
    let disk = SmallDisk::new();
    let mut platform = two_apps_on(&disk);
    disk.fill();
    platform.up();
    it_serves_and_refuses_changes(&platform, || disk.fill());
    // From the reserve.
    platform.ok(&["stop", "--app", "other"]);
    until("the other one is stopped", || (platform.left_on_engine().0 == 1).then_some(()));
    // What the reserve left is gone too; a start anew finds all as it was.
    disk.fill();
    platform.kill_everything();
    platform.up();
    assert_eq!(platform.get("app", "/").status, 200);
    assert_eq!(platform.get("other", "/").status, 503, "stopped is remembered");
    disk.free();
    it_is_well_again(&platform);
}

#[test]
fn a_start_on_a_read_only_disk_serves_and_becomes_writable_by_itself() {
    let disk = SmallDisk::new();
    let mut platform = two_apps_on(&disk);
    disk.remount("ro");
    platform.up();
    it_serves_and_refuses_changes(&platform, || {});
    platform.kill_controller();
    assert_eq!(platform.get("other", "/").status, 200);
    until("the controller is back", || {
        (platform.api(("GET", "/v1/apps"), &[], b"").status == 200).then_some(())
    });
    // A new instance needs a new address, which must be written down.
    let docker = platform.engine(&platform.server_id());
    let found = block_on(docker.observe()).unwrap();
    let lost = found.iter().find(|i| i.app.as_str() == "other").unwrap();
    block_on(docker.remove(lost.id.clone())).unwrap();
    until("the start is tried", || {
        let tries = platform.log();
        (tries.matches("an action failed app=other").count() > 1).then_some(())
    });
    disk.remount("rw");
    until("it goes on", || platform.try_get("other", "/").ok().filter(|a| a.status == 200));
    it_is_well_again(&platform);
}
