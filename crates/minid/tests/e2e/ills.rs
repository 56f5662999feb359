//! When the machine itself is ill.

use std::path::Path;
use std::process::Command;

use crate::platform::{Platform, deploy, fixture};

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
    // Now to the last byte.
    let filler = disk.path().join("filler");
    let _ = std::fs::write(&filler, vec![1; 30 << 20]);
    let said =
        platform.fails(&["env", "set", &format!("A={}", "x".repeat(100_000)), "--app", "app"]);
    assert!(said.err.contains("cannot be written"), "{said:?}");
    assert_eq!(platform.get("app", "/").status, 200);
    std::fs::remove_file(&filler).unwrap();
    platform.ok(&["env", "set", "A=1", "--app", "app"]);
    assert_eq!(platform.get("app", "/env").json()["A"], "1", "and it is well again");
}
