//! The other verbs.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::platform::{Platform, deployment, event, status};
use super::{Machine, assert_in};

#[test]
fn destroying_asks_and_without_a_terminal_refuses() {
    let fake = Platform::good().with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    let refused = machine.mini(&["apps", "destroy", "blue-sky"]);
    assert_eq!(refused.code, 2);
    assert_in(&refused.err, "hint: pass --yes if you mean it");
    assert!(fake.lines().iter().all(|l| !l.starts_with("DELETE")));
    let done = machine.mini(&["apps", "destroy", "blue-sky", "--yes"]);
    assert_eq!(done.code, 0, "{}", done.err);
    assert_in(&done.err, "Destroying blue-sky... gone\n");
    assert_in(&done.err, "Kept: the volume data;");
    assert_eq!(machine.mini(&["apps", "destroy", "blue-sky", "--yes"]).code, 4);
}

#[test]
fn env_set_sends_files_and_words_and_tells_the_release() {
    let events = [
        status(1, "starting"),
        event(2, json!({ "type": "healthy", "after_ms": 90 })),
        status(3, "live"),
    ];
    let end = deployment("blue-sky", "config", "live");
    let fake = Platform::ending(end, move |_| Reply::lines(&events)).with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("mini.toml", "app = 'blue-sky'\n");
    machine.file(".env", "export A=1 # one\nB=\"two\nlines\"\nGREETING=old\n");
    let ran = machine.mini(&["env", "set", "GREETING=hello = world", "--file", ".env"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(
        ran.err,
        "Set A, B, GREETING in v4\nStarting container... healthy in 0.1 s\n\
         v4 is live at http://blue-sky.localhost:8080\n"
    );
    let sent = fake.asked().into_iter().find(|a| a.method == "PATCH").unwrap();
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body["vars"], json!({ "A": "1", "B": "two\nlines", "GREETING": "hello = world" }));
    assert_eq!(machine.mini(&["env", "set", "1BAD=x"]).code, 2);
    machine.mini(&["env", "unset", "A", "--no-wait"]);
    let body: Value = serde_json::from_slice(&fake.asked().last().unwrap().body).unwrap();
    assert_eq!(body["vars"], json!({ "A": null }));
}

#[test]
fn logs_are_data_and_resume_behind_the_last_line() {
    let line = |number: u64, text: &str| {
        json!({
            "type": "line", "number": number, "at": "2026-11-23T09:30:00.123456Z",
            "source": "app", "process": "web.1", "text": text
        })
    };
    let fake = Fake::start(move |asked| {
        if asked.path.contains("after=10") {
            Reply::lines(&[json!({ "type": "heartbeat" }), line(20, "second")])
        } else {
            Reply::lines(&[line(10, "first"), json!({ "type": "missed", "bytes": 2000 })]).cut()
        }
    });
    let machine = Machine::of(&fake);
    let ran = machine.mini(&["logs", "-a", "blue-sky", "-n", "5", "-p", "web.1", "--since", "1h"]);
    assert_eq!(
        ran.out,
        "2026-11-23T09:30:00.123456+00:00 app[web.1]: first\n\
         2026-11-23T09:30:00.123456+00:00 app[web.1]: second\n"
    );
    assert_eq!(ran.code, 0);
    assert_in(&fake.lines()[0], "?n=5&since=");
    assert_in(&fake.lines()[0], "&process=web.1");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let line = json!({
        "type": "line", "number": 1, "at": "2026-11-23T09:30:00Z",
        "source": "app", "process": "web.1", "text": "x".repeat(1000)
    });
    let fake = Fake::start(move |_| Reply::lines(&vec![line.clone(); 1000]));
    let machine = Machine::of(&fake);
    let mut command = machine.command(&["logs", "-a", "blue-sky"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn a_domain_is_added_with_a_word_on_its_dns() {
    let dns = |state: &str, records: Value| {
        json!({
            "state": state, "addresses": ["198.51.100.1"], "why": "not known", "records": records
        })
    };
    let record = |kind: &str, value: &str| json!({"type": kind, "name": "w.org", "value": value});
    let both = json!([record("CNAME", "apps.example.com"), record("A", "203.0.113.7")]);
    let fake = Fake::start(move |asked| {
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let (dns, routed) = match body["name"].as_str() {
            Some("here.org") => (dns("here", json!([])), true),
            Some("else.org") => (dns("elsewhere", both.clone()), true),
            Some("none.org") => (dns("unresolved", json!([])), false),
            _ => return Reply::error(409, "name_taken", "x.org belongs to the app red"),
        };
        let domain =
            json!({ "name": body["name"], "created_at": "2026-11-23T09:00:00Z", "dns": dns });
        Reply::json(200, &json!({ "domain": domain, "changed": true, "routed": routed }))
    });
    let machine = Machine::of(&fake);
    let add = |name: &str| machine.mini(&["domains", "add", name, "-a", "blue"]);
    assert_eq!(
        add("here.org").err,
        "Added here.org: requests for it reach blue\nDNS: here.org leads to this server.\n"
    );
    let elsewhere = add("else.org").err;
    assert_in(&elsewhere, "leads to 198.51.100.1, which is not this server as far as it knows");
    assert_in(&elsewhere, "Make the first of these records, or the others in its place:\n");
    assert_in(&elsewhere, "  w.org CNAME apps.example.com\n  w.org A 203.0.113.7\n");
    let nowhere = add("none.org");
    assert_in(&nowhere.err, "warning: the proxy does not answer: it takes effect as soon as");
    assert_in(&nowhere.err, "DNS: none.org leads to nothing yet (not known).");
    assert_in(&nowhere.err, "with this server's public address");
    assert_eq!((nowhere.code, add("x.org").code), (0, 5));
    assert!(fake.asked()[0].key.is_some(), "it may be repeated");
}

#[test]
fn a_page_that_is_too_large_is_not_sent() {
    let fake = Fake::start(|_| Reply::json(200, &json!({ "changed": true, "routed": true })));
    let machine = Machine::of(&fake);
    machine.file("page.html", &"x".repeat(65_536));
    let ran = machine.mini(&["pages", "set", "*", "page.html", "-a", "blue"]);
    assert_eq!((ran.code, fake.lines()), (0, vec!["PUT /v1/apps/blue/pages/%2A".to_owned()]));
    assert_in(&ran.err, "blue answers every code that has no page with page.html");
    machine.file("page.html", &"x".repeat(65_537));
    let ran = machine.mini(&["pages", "set", "*", "page.html", "-a", "blue"]);
    assert_eq!((ran.code, fake.lines().len()), (1, 1), "{}", ran.err);
    assert_in(&ran.err, "page.html is larger than 64 KiB");
    let ran = machine.mini(&["maintenance", "on", "-a", "blue"]);
    assert_in(&ran.err, "Maintenance is on: blue answers every request with 503 (H80)");
    assert_eq!(fake.lines()[1], "PUT /v1/apps/blue/maintenance");
}

#[test]
fn every_verb_has_help_with_an_example() {
    let machine = Machine::new();
    let help = machine.mini(&["--help"]).out;
    let verbs = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    let verbs: Vec<&str> =
        verbs.take_while(|l| !l.is_empty()).filter_map(|l| l.split_whitespace().next()).collect();
    assert!(verbs.len() >= 16, "{verbs:?}");
    for verb in verbs {
        let help = machine.mini(&[verb, "--help"]);
        assert_eq!(help.code, 0);
        assert_in(&help.out, "Examples:\n  mini");
    }
    assert_in(&machine.mini(&["completions", "bash"]).out, "_mini()");
    let version = machine.mini(&["version"]);
    assert_eq!(version.code, 0);
    assert_in(&version.out, concat!("client  ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_git_remote_names_the_app_but_the_folder_does_not() {
    let fake = Platform::good().with_app("of-remote").start();
    let machine = Machine::of(&fake);
    let git = |args: &[&str]| {
        let done = Command::new("git").args(args).current_dir(&machine.work).output().unwrap();
        assert!(done.status.success(), "git {args:?}");
    };
    git(&["init", "-q"]);
    git(&["remote", "add", "mini", "http://mini.example.com/of-remote.git"]);
    let ran = machine.mini(&["apps", "info"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.out, "app       of-remote\n");
    assert!(!Path::new(&machine.work).join("mini.toml").exists());
}
