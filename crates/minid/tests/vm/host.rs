//! A host like a cloud VM, and somebody's laptop in front of it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::binaries;
use super::said::Said;

/// On everything that a run makes on the engine.
const LABEL: &str = "mini.vm-test";
const PATIENCE: Duration = Duration::from_secs(90);

/// What systemd and an engine of its own need, and no more: a container with all privileges does not
/// start where the machine itself lacks one.
const CAPABILITIES: [&str; 20] = [
    "SYS_ADMIN",
    "NET_ADMIN",
    "SYS_PTRACE",
    "SYS_CHROOT",
    "MKNOD",
    "SYS_NICE",
    "DAC_READ_SEARCH",
    "NET_RAW",
    "IPC_LOCK",
    "SYSLOG",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "SYS_BOOT",
    "SYS_TIME",
    "LINUX_IMMUTABLE",
    "LEASE",
    "BLOCK_SUSPEND",
    "WAKE_ALARM",
    "NET_BROADCAST",
    "SETPCAP",
];

impl Said {
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.out, self.err);
        self.out
    }
}

fn docker(arguments: &[&str]) -> Said {
    Said::from(Command::new("docker").args(arguments).output().expect("a docker client"))
}

/// Waits until `done` says yes.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The id of the run that is the process `pid`.
pub(crate) fn site_of(pid: u32) -> String {
    format!("mini-vm-{pid}")
}

/// A network of this run's own; hosts and network are gone when this is.
pub(crate) struct Site {
    id: String,
    prefix: String,
    pub(crate) laptop: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let id = site_of(std::process::id());
        let label = format!("{LABEL}={id}");
        let laptop = tempfile::tempdir().unwrap();
        // The first that nobody has.
        let prefix = (0..50).map(|n| format!("10.199.{}", 4 * n + 1)).find(|prefix| {
            let subnet = format!("{prefix}.0/24");
            docker(&["network", "create", "--label", &label, "--subnet", &subnet, &id]).code == 0
        });
        let site = Self { id, prefix: prefix.expect("a free network"), laptop };
        site.prepare_ssh();
        site
    }

    /// A key, and an ssh that knows nothing of this machine's user.
    fn prepare_ssh(&self) {
        let home = self.laptop.path();
        let key = home.join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .stdin(Stdio::null())
            .output();
        Said::from(made.expect("ssh-keygen")).ok();
        let config = format!(
            "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
             StrictHostKeyChecking accept-new\n  BatchMode yes\n",
            key.display(),
            home.join("known_hosts").display()
        );
        std::fs::write(home.join("ssh_config"), config).unwrap();
        // ssh takes its user's home from the password file, so it has to be told.
        let ssh = format!(
            "#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n",
            home.join("ssh_config").display()
        );
        std::fs::create_dir(home.join("bin")).unwrap();
        std::fs::write(home.join("bin/ssh"), ssh).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(home.join("bin/ssh"), std::fs::Permissions::from_mode(0o755))
            .unwrap();
    }

    /// Brings up a bare host, to which the laptop's key opens the door.
    pub(crate) fn host(&self, name: &str, last: u8) -> Host<'_> {
        let image = std::env::var("MINI_VM_IMAGE").expect("scripts/test-vm makes the image");
        let address = format!("{}.{last}", self.prefix);
        let container = format!("{}-{name}", self.id);
        let label = format!("{LABEL}={}", self.id);
        let mut arguments = vec!["run", "--detach", "--name", &container, "--hostname", name];
        arguments.extend(["--label", &label, "--network", &self.id, "--ip", &address]);
        for option in ["seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"] {
            arguments.extend(["--security-opt", option]);
        }
        arguments.extend(["--device-cgroup-rule", "a *:* rwm", "--tmpfs", "/run"]);
        arguments.extend(["--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"]);
        arguments.extend(["--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]);
        for capability in CAPABILITIES {
            arguments.extend(["--cap-add", capability]);
        }
        arguments.push(&image);
        docker(&arguments).ok();
        let key = self.laptop.path().join("key.pub");
        let place = format!("{container}:/root/.ssh/authorized_keys");
        docker(&["cp", key.to_str().unwrap(), &place]).ok();
        let host = Host { site: self, container, address };
        docker(&["exec", &host.container, "chown", "root:root", "/root/.ssh/authorized_keys"]).ok();
        host.await_ssh();
        host
    }

    /// The keys of the hosts that ssh has met, as the pipeline's secret holds them.
    pub(crate) fn known_hosts(&self) -> String {
        std::fs::read_to_string(self.laptop.path().join("known_hosts")).unwrap()
    }

    /// `mini` on the laptop.
    pub(crate) fn mini(&self, arguments: &[&str]) -> Said {
        let home = self.laptop.path();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(binaries().join("mini"));
        command.args(arguments).current_dir(home).stdin(Stdio::null());
        command.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"));
        command.env("PATH", format!("{}:{path}", home.join("bin").display()));
        for name in ["MINI_HOST", "MINI_TOKEN", "MINI_SERVER", "MINI_APP", "MINI_FINGERPRINT"] {
            command.env_remove(name);
        }
        Said::from(command.output().expect("mini runs"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        clear(&self.id);
    }
}

/// Removes all that the run `id` made on the engine.
pub(crate) fn clear(id: &str) {
    let filter = format!("label={LABEL}={id}");
    let all = docker(&["ps", "--all", "--quiet", "--filter", &filter]).out;
    for container in all.split_whitespace() {
        docker(&["rm", "--force", "--volumes", container]);
    }
    docker(&["network", "rm", id]);
}

pub(crate) struct Host<'a> {
    site: &'a Site,
    container: String,
    pub(crate) address: String,
}

impl Host<'_> {
    pub(crate) fn url(&self) -> String {
        format!("ssh://root@{}", self.address)
    }

    /// A command on the host, over ssh, as its operator types it.
    pub(crate) fn ssh(&self, line: &str) -> Said {
        let mut command = Command::new("ssh");
        command.arg("-F").arg(self.site.laptop.path().join("ssh_config"));
        command.args(["-l", "root", &self.address, line]).stdin(Stdio::null());
        Said::from(command.output().expect("an ssh client"))
    }

    fn await_ssh(&self) {
        until("sshd answers", || self.ssh("true").code == 0);
    }

    pub(crate) fn reboot(&self) {
        docker(&["stop", "--time", "60", &self.container]).ok();
        docker(&["start", &self.container]).ok();
    }

    /// As if somebody pulled the plug, and put it in again.
    pub(crate) fn power_cut(&self) {
        docker(&["kill", &self.container]).ok();
        docker(&["start", &self.container]).ok();
    }

    /// Makes a user who may do anything, after `sudo`; where ssh leads to it.
    pub(crate) fn admin(&self) -> String {
        self.ssh(
            "useradd --create-home --shell /bin/bash admin && \
             install -D -m 600 -o admin /root/.ssh/authorized_keys /home/admin/.ssh/authorized_keys && \
             chown admin /home/admin/.ssh && \
             echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin",
        )
        .ok();
        format!("ssh://admin@{}", self.address)
    }

    /// The release that is started.
    pub(crate) fn release(&self) -> String {
        self.ssh("readlink /usr/local/lib/mini/current").ok()
    }

    /// The release that a unit's process is of.
    pub(crate) fn release_of(&self, unit: &str) -> String {
        self.ssh(&format!("readlink /proc/$(systemctl show -P MainPID {unit})/exe")).out
    }

    /// Copies a file from there to here.
    pub(crate) fn fetch(&self, path: &str, to: &Path) {
        let mut command = Command::new(self.site.laptop.path().join("bin/ssh"));
        command.args(["-l", "root", &self.address, &format!("cat {path}")]).stdin(Stdio::null());
        command.stdout(std::fs::File::create(to).unwrap());
        assert!(command.status().unwrap().success(), "{path} cannot be fetched");
    }

    /// Copies a file from here to there.
    pub(crate) fn put(&self, from: &Path, path: &str) {
        let mut command = Command::new(self.site.laptop.path().join("bin/ssh"));
        command.args(["-l", "root", &self.address, &format!("cat >{path}")]);
        command.stdin(std::fs::File::open(from).unwrap());
        assert!(command.status().unwrap().success(), "{path} cannot be written");
    }

    /// What an app answers at `/`, to a client from outside.
    pub(crate) fn get(&self, scheme: &str, app: &str) -> Said {
        self.get_path(scheme, app, "/")
    }

    pub(crate) fn get_path(&self, scheme: &str, app: &str, path: &str) -> Said {
        let name = format!("{app}.{}.nip.io", self.address);
        let port = if scheme == "https" { 443 } else { 80 };
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "20"]);
        command.args(["--noproxy", "*", "--resolve", &format!("{name}:{port}:{}", self.address)]);
        Said::from(command.arg(format!("{scheme}://{name}{path}")).output().expect("curl runs"))
    }

    /// What went wrong there, for a message.
    pub(crate) fn journal(&self) -> String {
        self.ssh("journalctl -u mini-controller -u mini-proxy -n 40 --no-pager").out
    }
}

/// A folder with the three programs as a release has them, without symbols.
pub(crate) fn release(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    for name in ["mini", "minid", "mini-static"] {
        let strip = Command::new("objcopy")
            .arg("--strip-all")
            .args([binaries().join(name), folder.join(name)])
            .output();
        Said::from(strip.expect("binutils are there")).ok();
    }
}

/// A folder with the fixture app.
pub(crate) fn fixture(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    std::fs::copy(binaries().join("mini-fixture"), folder.join("app")).unwrap();
    let dockerfile = "FROM scratch\nCOPY app /app\nEXPOSE 8080\nCMD [\"/app\"]\n";
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
}
