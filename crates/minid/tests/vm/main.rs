//! On a host like a cloud VM: what an operator does, from outside, over ssh and through the door.
//!
//! One test for each story; a story prints how long each of its steps took. What a story makes on the
//! engine carries its label and is gone at its end, also after a failure.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends there")]
#![expect(clippy::print_stdout, reason = "a story tells how long its steps took")]

mod downloads;
mod host;
#[path = "../e2e/http.rs"]
#[expect(dead_code, reason = "of the client of the other tests, only how it reads an answer")]
mod http;
mod load;
mod pipeline;
mod restores;
#[path = "../e2e/said.rs"]
mod said;
mod schemas;
mod upgrades;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::{Host, Site, fixture, release, until};
use load::Load;
use said::Said;

/// From release binaries, on a machine that has Docker.
const INSTALL_WITHIN: Duration = Duration::from_secs(60);

/// Where the binaries under test lie.
fn binaries() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_minid")).parent().unwrap().to_owned()
}

/// Does one step and says how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    println!("{:>6.1} s  {what}", took.as_secs_f64());
    (done, took)
}

fn tokens(host: &Host<'_>) -> String {
    // Without when it was last used.
    let all = host.ssh("minid token list").ok();
    all.lines().map(|line| line.split_once(", ").map_or(line, |(head, _)| head)).collect()
}

#[test]
fn from_nothing_to_an_app_that_survives_a_reboot() {
    let site = Site::new();
    let programs = site.laptop.path().join("release");
    let from = programs.to_str().unwrap().to_owned();
    let app = site.laptop.path().join("app");
    release(&programs);
    fixture(&app);
    let (host, _) = step("a bare host is up", || site.host("a", 10));
    let install = || site.mini(&["server", "install", &host.url(), "--from", &from]);

    step("a port in use is refused, and nothing was changed", || {
        refuses_a_taken_port(&host, &install)
    });
    let (said, took) = step("mini server install", install);
    assert!(said.code == 0, "{said:?}\n{}", host.journal());
    assert!(!said.err.contains("mini_"), "the token is not shown: {said:?}");
    assert!(took < INSTALL_WITHIN, "{took:?}");

    let deploy = || site.mini(&["deploy", app.to_str().unwrap(), "--app", "blue"]);
    let (said, _) = step("mini deploy, over https", deploy);
    assert!(said.code == 0, "{said:?}\n{}", host.journal());
    for scheme in ["http", "https"] {
        host.get(scheme, "blue").ok();
    }

    step("the proxy's user reaches nothing that is not its own", || the_proxy_is_confined(&host));

    step("an app reaches nothing of the host but its front door", || the_app_is_held(&host));

    let before = tokens(&host);
    let load = Load::start(&host.address, "blue");
    let (said, _) = step("installed again, under load", install);
    assert!(said.code == 0, "{said:?}");
    println!("          {} requests, none failed", load.finish("the second installation"));
    assert_eq!(tokens(&host), before, "a second installation makes no token");

    let load = Load::start(&host.address, "blue");
    step("systemctl reload mini-proxy, under load", || {
        host.ssh("systemctl reload mini-proxy").ok();
    });
    println!("          {} requests, none failed", load.finish("the reload"));

    let key = pipeline::sign_for(&site, &host);
    upgrades::upgrades(&site, &host, &programs, &key);
    schemas::there_and_back(&site, &host, &programs, &key);
    let archive = pipeline::package(&site, &programs, "package", &key);
    restores::onto_another(&site, &host, &archive);

    step("rebooted, until the app answers", || {
        host.reboot();
        until("the app is back by itself", || host.get("http", "blue").code == 0);
    });
    site.mini(&["apps"]).ok();
    assert_eq!(tokens(&host), before);

    step("uninstalled, and installed again from an https address: data and app are there", || {
        let script = "bash -s -- uninstall";
        uninstall(&site, &host, script);
        assert_ne!(host.get("http", "blue").code, 0);
        host.ssh("test -f /var/lib/mini/mini.db && test ! -e /usr/local/bin/minid").ok();
        let url = downloads::serve(&host, &archive);
        let said = site.mini(&["server", "install", &host.url(), "--from", &url]);
        assert!(said.code == 0, "{said:?}");
        until("the app is back", || host.get("http", "blue").code == 0);
    });
    assert_eq!(tokens(&host), before);

    step("uninstalled with all its data", || {
        uninstall(&site, &host, "bash -s -- uninstall --purge");
        host.ssh("test ! -e /var/lib/mini && test ! -e /etc/mini && ! id mini-proxy").ok();
        assert_eq!(host.ssh("docker ps -aq").ok().trim(), "");
    });
}

/// Runs the installer's other verb there, its text on standard input.
fn uninstall(site: &Site, host: &Host<'_>, line: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/install.sh");
    let mut command = std::process::Command::new(site.laptop.path().join("bin/ssh"));
    command.args(["-l", "root", &host.address, line]);
    command.stdin(std::fs::File::open(script).unwrap());
    let said = Said::from(command.output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
}

fn refuses_a_taken_port(host: &Host<'_>, install: &dyn Fn() -> Said) {
    host.ssh("systemd-run --quiet --unit squatter systemd-socket-activate -l 80 /bin/true").ok();
    until("the port is taken", || host.ssh("ss -Hltn 'sport = :80'").out.contains("LISTEN"));
    let said = install();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("port 80 is in use by systemd-socket"), "{said:?}");
    assert!(said.err.contains("hint: stop it"), "{said:?}");
    host.ssh("test ! -e /usr/local/lib/mini && test ! -e /etc/docker/daemon.json").ok();
    host.ssh("systemctl stop squatter").ok();
}

/// By the firewall that the hardened controller has loaded.
fn the_app_is_held(host: &Host<'_>) {
    let dial = |to: &str| host.get_path("http", "blue", &format!("/dial?to={to}&ms=800")).ok();
    let at = &host.address;
    assert_eq!(dial(&format!("{at}:443")).trim(), "open", "the front door");
    assert_eq!(dial(&format!("{at}:22")).trim(), "timeout", "the host's sshd");
    assert_eq!(dial("169.254.169.254:80").trim(), "timeout", "the cloud's metadata");
    // The test can fail: without the rules sshd is open to it.
    let rules = host.ssh("minid firewall show").ok();
    let table = rules.split_whitespace().find(|word| word.starts_with("mini-")).unwrap();
    host.ssh(&format!("nft delete table inet {table}")).ok();
    assert_eq!(dial(&format!("{at}:22")).trim(), "open");
    until("the rules are back", || host.ssh("minid firewall show").code == 0);
    assert_eq!(dial(&format!("{at}:22")).trim(), "timeout");
    let said = host.ssh("minid doctor").out;
    assert!(said.contains("the firewall is in place"), "{said}");
    assert!(
        said.contains("ok    tried from inside a container, not reached: another service"),
        "{said}"
    );
}

fn the_proxy_is_confined(host: &Host<'_>) {
    let as_proxy = |words: &str| host.ssh(&format!("runuser -u mini-proxy -- {words}")).code;
    assert_eq!(as_proxy("cat /var/lib/mini-proxy/routes.snapshot"), 0, "its own it reads");
    for file in ["mini.db", "secret.key"] {
        host.ssh(&format!("test -f /var/lib/mini/{file}")).ok();
        assert_ne!(as_proxy(&format!("cat /var/lib/mini/{file}")), 0, "{file}");
    }
    let ask = |socket: &str| format!("curl -fsS -m 5 --unix-socket {socket} http://x/v1/health");
    assert_eq!(as_proxy(&ask("/run/mini/api.sock")), 0, "the door has to lead somewhere");
    assert_ne!(as_proxy(&ask("/var/lib/mini/admin.sock")), 0);
    assert_ne!(as_proxy("curl -fsS -m 5 --unix-socket /run/docker.sock http://x/_ping"), 0);
    let status = host.ssh("cat /proc/$(systemctl show -P MainPID mini-proxy)/status").ok();
    for line in
        ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
}
