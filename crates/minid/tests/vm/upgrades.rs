//! Upgrades as the pipeline makes them: an archive that is signed, shipped over ssh with a pinned host key,
//! under load. One of the releases is broken on purpose, and the host goes back by itself.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{Host, Site, until};
use crate::load::Load;
use crate::pipeline::{package, ship, sign_for, variant};
use crate::said::Said;
use crate::step;

/// From the first change to a host that is well, in seconds.
const UPGRADE_WITHIN: f64 = 10.0;
/// An archive is checked and unpacked before the link is moved.
const MOVED_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// A release that starts to be asked for its version, and for nothing else.
const BROKEN: &str = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo minid 9.9.9\n\
                      echo 'error: broken on purpose' >&2\nexit 1\n";

fn release_of(host: &Host<'_>) -> String {
    host.ssh("readlink /usr/local/lib/mini/current").ok()
}

pub(crate) fn upgrades(site: &Site, host: &Host<'_>, programs: &Path) {
    let home = site.laptop.path();
    let key = sign_for(site, host);
    let known = site.known_hosts();
    let good = variant(programs, home.join("good"), None);
    let good = package(site, &good, "package-good", &key);
    let broken = variant(programs, home.join("broken"), Some(BROKEN));
    // It is not what this machine makes packages of: its version is asked of it all the same.
    let broken = package(site, &broken, "package-broken", &key);
    let first = release_of(host);
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
    let second = release_of(host);
    assert_ne!(second, first);
    for unit in ["mini-controller", "mini-proxy"] {
        let program = format!("readlink /proc/$(systemctl show -P MainPID {unit})/exe");
        let program = host.ssh(&program).ok();
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
    assert_eq!(release_of(host), second);
    host.ssh("minid status").ok();
    site.mini(&["apps"]).ok();

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
    assert_eq!(release_of(host), second, "back where it was, and no further");
    host.ssh("minid status").ok();

    let load = Load::start(&host.address, "blue");
    step("minid upgrade --back, under load", || host.ssh("minid upgrade --back").ok());
    println!("          {} requests, none failed", load.finish("going back"));
    assert_eq!(release_of(host), first);
}

/// The link leads to a release that does not run, and whoever would have moved it back is gone.
fn cut_off(host: &Host<'_>, broken: &Path) {
    host.put(broken, "/root/broken.tar.gz");
    host.put(
        &broken
            .with_file_name(format!("{}.minisig", broken.file_name().unwrap().to_str().unwrap())),
        "/root/broken.tar.gz.minisig",
    );
    host.ssh("systemd-run --quiet --unit cut /usr/local/bin/minid upgrade /root/broken.tar.gz")
        .ok();
    let begun = Instant::now();
    while !release_of(host).contains("9.9.9") {
        let said = || host.ssh("journalctl -u cut -o cat --no-pager").out;
        assert!(begun.elapsed() < MOVED_WITHIN, "the link is not moved: {}", said());
        std::thread::sleep(LOOK);
    }
    host.ssh("systemctl kill --signal KILL cut").ok();
    until("it is gone", || host.ssh("systemctl is-active cut").code != 0);
    assert!(release_of(host).contains("9.9.9"));
}
