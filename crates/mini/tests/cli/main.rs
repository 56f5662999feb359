//! The binary, driven as a user drives it, against a fake server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod action;
mod certs;
mod ci;
mod deploys;
mod fake;
mod platform;
mod servers;
mod tls;
mod verbs;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use fake::Fake;

/// A user's machine: a home with a config file, and a folder to work in.
struct Machine {
    _root: tempfile::TempDir,
    config: PathBuf,
    work: PathBuf,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        fs::create_dir(&work).unwrap();
        Self { config: root.path().join("mini/config.toml"), work, _root: root }
    }

    /// One that uses `fake`, with the token `mini_good`.
    fn of(fake: &Fake) -> Self {
        let machine = Self::new();
        machine.configure(&format!(
            "current = \"local\"\n[servers.local]\nhost = \"{}\"\ntoken = \"mini_good\"\n",
            fake.url
        ));
        machine
    }

    fn configure(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(self.config.parent().unwrap()).unwrap();
        fs::write(&self.config, text).unwrap();
        fs::set_permissions(&self.config, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.work.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mini"));
        command.args(args).current_dir(&self.work).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("MINI_CONFIG", &self.config);
        // No server of this machine may be found instead of the fake.
        command.env("MINID_DATA_DIR", self.work.join("no-server"));
        command
    }

    fn mini(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    fn mini_with_stdin(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }
}

fn assert_in(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is missing in:\n{text}");
}
