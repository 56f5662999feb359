//! Upgrades as the pipeline makes them: an archive that is signed, shipped over ssh with a pinned host key,
//! under load. One of the releases is broken on purpose, and the host goes back by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::{Host, Site, until};
use crate::load::Load;
use crate::pipeline::{package, ship, variant};
use crate::said::Said;
use crate::step;

/// From the first change to a host that is well, in seconds.
const UPGRADE_WITHIN: f64 = 10.0;

/// A release that answers whatever it is asked before it is started, and does not start. Of its units one
/// differs and one is new.
const BROKEN: &str = r#"#!/bin/sh
case $1 in
  --version) exec echo minid 9.9.9 ;;
  token) exit 0 ;;
  units)
    /usr/local/lib/mini/current/minid units "$2" >/dev/null
    echo '# of 9.9.9' >>"$2/mini-controller.service"
    printf '[Service]\nExecStart=true\n[Install]\nWantedBy=multi-user.target\n' >"$2/mini-of-9.service"
    exit 0 ;;
esac
echo 'error: broken on purpose' >&2
exit 1
"#;

pub(crate) fn upgrades(site: &Site, host: &Host<'_>, programs: &Path, key: &Path) {
    let home = site.laptop.path();
    let known = site.known_hosts();
    let good = variant(programs, home.join("good"), None);
    let good = package(site, &good, "package-good", key);
    let broken = variant(programs, home.join("broken"), Some(BROKEN.as_bytes()));
    // It is not what this machine makes packages of: its version is asked of it all the same.
    let broken = package(site, &broken, "package-broken", key);
    let first = host.release();
    let units = units(host);
    // As on a host that was made careful: what is installed is for the proxy's user all the same.
    host.ssh("echo 'umask 077' >>/root/.bashrc").ok();
    assert_eq!(host.ssh("umask").ok().trim(), "0077");

    let load = Load::start(&host.address, "blue");
    let (said, _) = step("shipped and upgraded, under load", || ship(site, host, &good, &known));
    assert_eq!(said.code, 0, "{said:?}\n{}", host.journal());
    println!("          {} requests, none failed", load.finish("the upgrade"));
    let line = said.out.lines().find(|l| l.starts_with("upgraded to")).unwrap();
    println!("          {line}");
    let seconds: f64 = line.rsplit(' ').nth(1).unwrap().parse().unwrap();
    assert!(seconds < UPGRADE_WITHIN, "{said:?}");
    let second = host.release();
    assert_ne!(second, first);
    for unit in ["mini-controller", "mini-proxy"] {
        let program = host.release_of(unit);
        assert!(program.contains(second.trim()), "{unit}: {program}");
    }
    site.mini(&["apps"]).ok();

    let load = Load::start(&host.address, "blue");
    let (said, _) =
        step("a broken one, under load: it went back", || ship(site, host, &broken, &known));
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.out.contains("9.9.9") && said.out.contains("is no good"), "{said:?}");
    assert!(said.out.contains("broken on purpose"), "why is not said: {said:?}");
    assert!(said.err.contains("serves again"), "{said:?}");
    println!("          {} requests, none failed", load.finish("the broken upgrade"));
    let is_back = || {
        assert_eq!(host.release(), second);
        assert_eq!(self::units(host), units, "its units went with it");
        host.ssh("minid status").ok();
        site.mini(&["apps"]).ok();
    };
    is_back();

    step("what is not signed so, or not that host, is refused", || {
        let mut bytes = fs::read(&good).unwrap();
        bytes.push(0);
        fs::write(&good, bytes).unwrap();
        let said = ship(site, host, &good, &known);
        assert!(said.code != 0 && said.err.contains("not signed by that key"), "{said:?}");
        let other = Said::from(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(home.join("other"))
                .output()
                .unwrap(),
        );
        other.ok();
        let other = fs::read_to_string(home.join("other.pub")).unwrap();
        let said = ship(site, host, &good, &format!("{} {other}", host.address));
        assert!(said.code != 0 && said.err.contains("cannot log in"), "{said:?}");
    });

    let load = Load::start(&host.address, "blue");
    step("an upgrade that is killed half way, under load", || cut_off(host, &broken));
    println!("          {} requests, none failed", load.finish("an upgrade that was cut off"));

    let load = Load::start(&host.address, "blue");
    let (said, _) = step("what was cut off is taken back, under load", || {
        // The program that the link leads to does not run: the one before it does.
        assert_ne!(host.ssh("minid upgrade --back").code, 0);
        host.ssh("/usr/local/lib/mini/previous/minid upgrade --back").ok()
    });
    println!("          {} requests, none failed", load.finish("what was cut off"));
    let cut = "an upgrade to 9.9.9-";
    assert!(said.starts_with(cut) && said.contains("was cut off: going back first"), "{said}");
    is_back();

    step("the same with the power cut: until the app answers", || {
        cut_off(host, &broken);
        host.power_cut();
        until("the app is back by itself", || host.get("http", "blue").code == 0);
    });
    until("all is well", || host.ssh("minid status").code == 0);
    is_back();
    let said = host.ssh("journalctl -u mini-recover -o cat --no-pager").out;
    assert!(said.contains(cut) && said.contains("back at"), "{said}");

    let load = Load::start(&host.address, "blue");
    step("minid upgrade --back, under load", || host.ssh("minid upgrade --back").ok());
    println!("          {} requests, none failed", load.finish("going back"));
    assert_eq!(host.release(), first);
    assert_eq!(self::units(host), units);
}

/// The units that are installed, with their text.
fn units(host: &Host<'_>) -> String {
    host.ssh("cd /etc/systemd/system && head -n 999 mini-* multi-user.target.wants/mini-*").ok()
}

/// The link leads to a release that does not run, and whoever would have moved it back is gone.
fn cut_off(host: &Host<'_>, broken: &Path) {
    begin(host, broken);
    kill_when(
        host,
        "readlink /usr/local/lib/mini/current | grep -q 9.9.9 && \
         grep -q 'of 9.9.9' /etc/systemd/system/mini-controller.service",
    );
    assert!(host.release().contains("9.9.9"));
    let said = host.ssh("/usr/local/lib/mini/previous/minid status");
    assert!(said.code == 1 && said.out.contains("FAULT an upgrade to 9.9.9-"), "{said:?}");
}

/// Begins an upgrade that nobody on the host waits for.
pub(crate) fn begin(host: &Host<'_>, archive: &Path) {
    for ending in ["", ".minisig"] {
        let from = PathBuf::from(format!("{}{ending}", archive.display()));
        host.put(&from, &format!("/root/next.tar.gz{ending}"));
    }
    host.ssh("systemd-run --quiet --unit cut /usr/local/bin/minid upgrade /root/next.tar.gz").ok();
}

/// Kills it as soon as a condition of the host's shell holds.
pub(crate) fn kill_when(host: &Host<'_>, holds: &str) {
    let said = host.ssh(&format!(
        "for _ in $(seq 600); do \
           if {holds}; then exec systemctl kill --signal KILL cut; fi; sleep 0.05; \
         done; journalctl -u cut -o cat --no-pager; exit 1"
    ));
    assert_eq!(said.code, 0, "{said:?}");
    until("it is gone", || host.ssh("systemctl is-active cut").code != 0);
    // Of a failed one the name stays taken.
    host.ssh("systemctl reset-failed cut").ok();
    host.ssh("test -f /var/lib/mini/upgrade.json").ok();
}
