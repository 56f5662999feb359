//! The steps of `action.yml`, as a runner starts them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::fake::Fake;
use super::platform::Platform;
use super::{Machine, Ran, assert_in};

const STEPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/action");
/// Stands for the place where releases lie: the last argument is an address, and a file of its last part is
/// there or not.
const CURL: &str = "#!/bin/sh\nfor url; do :; done\necho \"$url\" >>\"$RELEASE/asked\"\n\
                    cp \"$RELEASE/${url##*/}\" . || exit 22\n";

/// A runner's folder, with a release of one archive.
struct Runner {
    machine: Machine,
    root: PathBuf,
}

impl Runner {
    fn new(fake: &Fake) -> Self {
        let machine = Machine::of(fake);
        let root = machine.work.parent().unwrap().to_owned();
        for folder in ["bin", "temp", "release", "release/mini-0.1.0-linux-x86_64"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        fs::write(root.join("bin/curl"), CURL).unwrap();
        fs::set_permissions(root.join("bin/curl"), fs::Permissions::from_mode(0o755)).unwrap();
        let release = root.join("release");
        let folder = "mini-0.1.0-linux-x86_64";
        fs::copy(env!("CARGO_BIN_EXE_mini"), release.join(folder).join("mini")).unwrap();
        let archive = format!("{folder}.tar.gz");
        run(&release, "tar", &["-I", "gzip -1", "-cf", &archive, folder]);
        let sums = run(&release, "sha256sum", &[&archive]);
        fs::write(release.join("SHA256SUMS"), format!("{:064} *other.tar.gz\n{sums}", 0)).unwrap();
        Self { machine, root }
    }

    fn step(&self, step: &str, more: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(STEPS);
        let path = fs::read_to_string(self.root.join("path")).unwrap_or_default();
        let path = format!("{}:{}/bin:/usr/bin:/bin", path.trim(), self.root.display());
        command.arg(step).current_dir(&self.machine.work).env_clear().stdin(Stdio::null());
        command.env("PATH", path).env("GITHUB_PATH", self.root.join("path"));
        command.env("HOME", &self.root);
        command
            .env("RUNNER_TEMP", self.root.join("temp"))
            .env("RELEASE", self.root.join("release"));
        command.envs([("RUNNER_OS", "Linux"), ("RUNNER_ARCH", "X64")]);
        command.envs([("MINI_ACTION_REPOSITORY", "owner/mini"), ("MINI_ACTION_VERSION", "")]);
        command.env("GITHUB_ACTIONS", "true").env("GITHUB_OUTPUT", self.root.join("outputs"));
        command.envs(more.iter().copied()).output().unwrap().into()
    }
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_action_gets_the_release_and_deploys_with_it() {
    let fake = Platform::good().with_app("blue-sky").start();
    let runner = Runner::new(&fake);
    let ran = runner.step("get", &[]);
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    let asked = fs::read_to_string(runner.root.join("release/asked")).unwrap();
    assert_in(&asked, "https://github.com/owner/mini/releases/latest/download/SHA256SUMS\n");
    assert_in(&asked, "latest/download/mini-0.1.0-linux-x86_64.tar.gz\n");

    // A folder whose name looks like an option is a folder.
    runner.machine.file("--help/index.html", "hi");
    let inputs = [
        ("MINI_HOST", fake.url.as_str()),
        ("MINI_TOKEN", "mini_good"),
        ("MINI_APP", "blue-sky"),
        ("MINI_FINGERPRINT", ""),
        ("MINI_ACTION_PATH", "--help"),
        ("MINI_ACTION_IMAGE", ""),
    ];
    let ran = runner.step("deploy", &inputs);
    assert_eq!(ran.code, 0, "{} {}", ran.out, ran.err);
    let outputs = fs::read_to_string(runner.root.join("outputs")).unwrap();
    assert_in(&outputs, "url=http://blue-sky.localhost:8080\n");

    // One that is on the path already is used.
    fs::remove_file(runner.root.join("release/asked")).unwrap();
    assert_eq!(runner.step("get", &[("MINI_ACTION_VERSION", "v0.1.0")]).code, 0);
    assert!(!runner.root.join("release/asked").exists());
}

#[test]
fn the_action_uses_nothing_that_was_not_released() {
    let fake = Platform::good().start();
    let runner = Runner::new(&fake);
    let version = [("MINI_ACTION_VERSION", "v0.1.0")];
    let archive = runner.root.join("release/mini-0.1.0-linux-x86_64.tar.gz");
    let mut bytes = fs::read(&archive).unwrap();
    bytes.push(0);
    fs::write(&archive, bytes).unwrap();
    let ran = runner.step("get", &version);
    assert_ne!(ran.code, 0);
    assert_in(
        &ran.out,
        "::error title=mini::mini-0.1.0-linux-x86_64.tar.gz is not what was released",
    );
    let asked = fs::read_to_string(runner.root.join("release/asked")).unwrap();
    assert_in(&asked, "/releases/download/v0.1.0/SHA256SUMS\n");
    assert!(!runner.root.join("path").exists(), "later steps find no mini");

    let ran = runner.step("get", &[("RUNNER_ARCH", "ARM")]);
    assert_in(&ran.out, "there is no mini for Linux on ARM");
    fs::write(runner.root.join("release/SHA256SUMS"), "").unwrap();
    let ran = runner.step("get", &version);
    assert_in(&ran.out, "has no archive for this runner");
    fs::remove_file(runner.root.join("release/SHA256SUMS")).unwrap();
    let ran = runner.step("get", &version);
    assert_ne!(ran.code, 0);
    assert_in(&ran.out, "::error title=mini::no release at https://github.com/owner/mini");
}
