//! What the pipeline does, by its own scripts: package, sign, ship.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::host::{Host, Site};
use super::said::Said;

/// Of the repository.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts");

/// A new key to sign releases with, which the host believes from now on.
pub(crate) fn sign_for(site: &Site, host: &Host<'_>) -> PathBuf {
    let home = site.laptop.path();
    let (key, public) = (home.join("minisign.key"), home.join("minisign.pub"));
    let mut made = Command::new("minisign");
    made.args(["-G", "-W", "-s"]).arg(&key).arg("-p").arg(&public);
    Said::from(made.output().expect("minisign")).ok();
    let line = fs::read_to_string(&public).unwrap();
    host.ssh(&format!("printf '%s' '{line}' >/etc/mini/upgrade.pub")).ok();
    key
}

fn script(site: &Site, name: &str) -> Command {
    let mut command = Command::new(Path::new(SCRIPTS).join(name));
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", site.laptop.path().join("bin").display()));
    command
}

/// An archive of the programs in `from`, signed by `key`.
pub(crate) fn package(site: &Site, from: &Path, name: &str, key: &Path) -> PathBuf {
    let mut command = script(site, "package");
    command.arg("--bin").arg(from).arg("--out").arg(site.laptop.path().join(name));
    let said = Said::from(command.env("MINISIGN_KEY_FILE", key).output().unwrap());
    PathBuf::from(said.ok().trim())
}

/// The same release with one program that differs in a byte that nobody runs, and another `minid` if there
/// is one.
pub(crate) fn variant(programs: &Path, to: PathBuf, minid: Option<&[u8]>) -> PathBuf {
    fs::create_dir(&to).unwrap();
    for name in ["mini", "minid", "mini-static"] {
        fs::copy(programs.join(name), to.join(name)).unwrap();
    }
    let mut program = fs::read(to.join("mini-static")).unwrap();
    program.push(minid.map_or(1, |_| 2));
    fs::write(to.join("mini-static"), program).unwrap();
    if let Some(minid) = minid {
        fs::write(to.join("minid"), minid).unwrap();
    }
    to
}

pub(crate) fn ship(site: &Site, host: &Host<'_>, archive: &Path, known_hosts: &str) -> Said {
    let mut command = script(site, "ship");
    command.arg(archive).arg(format!("root@{}", host.address));
    command.env("MINI_SSH_KEY", fs::read_to_string(site.laptop.path().join("key")).unwrap());
    command.env("MINI_SSH_KNOWN_HOSTS", known_hosts).env("MINI_WITHIN", "20");
    Said::from(command.output().unwrap())
}
