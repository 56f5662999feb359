//! Upgrades over a change of schema, and back: with programs of a release that is not written yet, whose
//! database has one migration more and whose units are called otherwise.

use std::fs;
use std::path::{Path, PathBuf};

use crate::downloads;
use crate::host::{Host, Site, until};
use crate::load::Load;
use crate::pipeline::{package, variant};
use crate::step;
use crate::upgrades::{begin, kill_when};

const HARMLESS: &str = "CREATE TABLE tomorrow (x INTEGER) STRICT;";
/// Opens well, and then nobody can say what should run.
const RUINOUS: &str = "ALTER TABLE releases RENAME TO releases_of_tomorrow;";

/// `minid` with a migration more (`mini-controller/store/schema/tomorrow.rs`), and units that say so.
fn minid(programs: &Path, migration: &str) -> Vec<u8> {
    let mut program = fs::read(programs.join("minid")).unwrap();
    for name in ["proxy", "controller"] {
        let old = format!("Description=mini: {name}\n");
        let new = format!("Description=mini: {}\n", name.to_uppercase());
        let at = program.windows(old.len()).position(|window| window == old.as_bytes()).unwrap();
        program[at..at + new.len()].copy_from_slice(new.as_bytes());
    }
    program.extend(format!("\n-- a migration of tomorrow\n{migration}\n").bytes());
    program
}

fn archive(site: &Site, programs: &Path, name: &str, migration: &str, key: &Path) -> PathBuf {
    let folder = site.laptop.path().join(name);
    let folder = variant(programs, folder, Some(&minid(programs, migration)));
    package(site, &folder, &format!("package-{name}"), key)
}

fn schema(host: &Host<'_>) -> u32 {
    let status = host.ssh("minid status --json").out;
    let line = status.lines().find_map(|line| line.trim().strip_prefix("\"schema\": ")).unwrap();
    line.trim_end_matches(',').parse().unwrap()
}

fn descriptions(host: &Host<'_>) -> String {
    host.ssh("systemctl show -P Description mini-controller mini-proxy").ok()
}

fn under_load<T>(host: &Host<'_>, what: &str, work: impl FnOnce() -> T) -> T {
    let load = Load::start(&host.address, "blue");
    let (done, _) = step(&format!("{what}, under load"), work);
    println!("          {} requests, none failed", load.finish(what));
    done
}

fn has_env(host: &Host<'_>, word: &str) -> bool {
    host.get_path("http", "blue", "/env").ok().contains(word)
}

pub(crate) fn there_and_back(site: &Site, host: &Host<'_>, programs: &Path, key: &Path) {
    let first = host.release();
    let (before, said) = (schema(host), descriptions(host));
    let harmless = archive(site, programs, "harmless", HARMLESS, key);
    let url = downloads::serve(host, &harmless);

    let upgraded = under_load(host, "upgraded from an https address, the schema changes", || {
        host.ssh(&format!("minid upgrade {url}")).ok()
    });
    assert!(upgraded.contains("note: what has changed in mini-proxy.service"), "{upgraded}");
    assert_eq!(schema(host), before + 1);
    assert_eq!(
        descriptions(host),
        said.replace("controller", "CONTROLLER").replace("proxy", "PROXY")
    );
    site.mini(&["env", "set", "SINCE=tomorrow", "--app", "blue"]).ok();
    assert!(has_env(host, "tomorrow"));
    let newer = host.release();

    let (refused, _) = step("back over the change is refused, and nothing is touched", || {
        host.ssh("minid upgrade --back")
    });
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("is of a newer version"), "{refused:?}");
    let id = newer.trim().rsplit('/').next().unwrap();
    let copy = format!("/var/lib/mini/upgrades/before-{id}.db");
    assert!(refused.err.contains(&format!("put {copy} in the place of")), "{refused:?}");
    assert_eq!((host.release(), schema(host)), (newer, before + 1));
    host.ssh("minid status").ok();

    under_load(host, "back as the guide has it", || {
        host.ssh("systemctl stop mini-controller").ok();
        host.ssh("mkdir /root/newer && mv /var/lib/mini/mini.db* /root/newer/").ok();
        host.ssh(&format!("cp {copy} /var/lib/mini/mini.db && minid upgrade --back")).ok()
    });
    let is_as_before = || {
        assert_eq!((host.release(), schema(host)), (first.clone(), before));
        assert_eq!(descriptions(host), said);
        until("the release of before serves", || !has_env(host, "tomorrow"));
        until("all is well", || host.ssh("minid status").code == 0);
    };
    is_as_before();

    let ruinous = archive(site, programs, "ruinous", RUINOUS, key);
    let url = downloads::serve(host, &ruinous);
    let back = under_load(host, "a change that ruins the database: it went back", || {
        host.ssh(&format!("minid upgrade {url} --within-s 6"))
    });
    assert!(back.code == 1 && back.err.contains("serves again"), "{back:?}");
    assert!(
        back.out.contains("what was changed since is in /var/lib/mini/mini.db.of-"),
        "{back:?}"
    );
    is_as_before();

    step("the power is cut in an upgrade that has changed the schema", || {
        power_cut(site, host, &harmless);
    });
    is_as_before();
    assert!(!site.mini(&["apps"]).ok().contains("since-then"));
    host.ssh("grep -q since-then /var/lib/mini/mini.db.of-*").ok();
}

/// When the new release runs already, and somebody has made an app with it.
fn power_cut(site: &Site, host: &Host<'_>, harmless: &Path) {
    let first = host.release();
    begin(host, harmless);
    kill_when(
        host,
        &format!(
            "[ $(readlink /usr/local/lib/mini/current) != {} ] && \
             [ $(readlink /proc/$(systemctl show -P MainPID mini-controller)/exe) = \
               /usr/local/lib/mini/$(readlink /usr/local/lib/mini/current)/minid ]",
            first.trim()
        ),
    );
    until("the new release answers", || site.mini(&["apps", "create", "since-then"]).code == 0);
    step("what a boot does is done by no mistake", || not_at_a_boot(host));
    host.power_cut();
    until("the app is back by itself", || host.get("http", "blue").code == 0);
}

/// Taking back is refused while the new release runs, and where it has worked for long with the database.
fn not_at_a_boot(host: &Host<'_>) {
    let refused = |because: &str| {
        let said = host.ssh("minid upgrade --recover");
        assert!(said.code == 1 && said.err.contains(because), "{said:?}");
    };
    refused("the controller runs");
    let journal = "/var/lib/mini/upgrade.json";
    host.ssh("systemctl stop mini-controller").ok();
    host.ssh(&format!("cp {journal} /root/journal")).ok();
    // As if it had begun ten years ago.
    host.ssh(&format!("sed -i 's/\"at\":\"20../\"at\":\"2016/' {journal}")).ok();
    refused("has worked with the database since");
    host.ssh(&format!("cp /root/journal {journal}")).ok();
}
