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
    assert_eq!((done.code, done.err.as_str()), (0, "Destroying blue-sky... gone\n"));
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
