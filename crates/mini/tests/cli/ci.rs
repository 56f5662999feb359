//! `mini deploy --ci`, as a pipeline starts it.

use std::fs;

use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::platform::{Platform, app, deployment, event, status};
use super::{Machine, Ran, assert_in};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// In GitHub Actions, for the second try of run 77.
fn in_actions(machine: &Machine) -> Ran {
    let mut command = machine.command(&["deploy", "--ci", "-a", "blue-sky"]);
    command.envs([
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_SHA", SHA),
        ("GITHUB_REF_NAME", "main"),
        ("GITHUB_RUN_ID", "77"),
        ("GITHUB_RUN_ATTEMPT", "2"),
    ]);
    command.env("GITHUB_OUTPUT", machine.work.parent().unwrap().join("outputs"));
    command.env("GITHUB_STEP_SUMMARY", machine.work.parent().unwrap().join("summary"));
    command.output().unwrap().into()
}

fn keys(fake: &Fake) -> Vec<String> {
    let deploys = fake.asked().into_iter().filter(|a| a.path.ends_with("/deployments"));
    deploys.map(|a| a.key.unwrap()).collect()
}

#[test]
fn a_pipeline_gets_a_group_outputs_and_a_key_of_the_commit() {
    let fake = Platform::good().with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = in_actions(&machine);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out, "Your app is live at: http://blue-sky.localhost:8080\n");

    let word = ran.err.strip_prefix("::stop-commands::").unwrap().lines().next().unwrap();
    assert_eq!(word.len(), 32);
    let shown = ran.err.replace(word, "WORD");
    assert_in(
        &shown,
        "::WORD::\n::group::[2/3] Building image \"app-blue-sky\"\n::stop-commands::WORD\n  Step 1/2 : FROM scratch\n",
    );
    assert_in(&shown, "::WORD::\n::endgroup::\n::stop-commands::WORD\n[3/3] Starting container...");

    let outputs = fs::read_to_string(machine.work.parent().unwrap().join("outputs")).unwrap();
    assert_eq!(
        outputs,
        "url=http://blue-sky.localhost:8080\napp=blue-sky\nrelease=v4\ndeployment=d1\n"
    );
    let summary = fs::read_to_string(machine.work.parent().unwrap().join("summary")).unwrap();
    assert_eq!(summary, "**blue-sky** v4 is live at <http://blue-sky.localhost:8080>\n");

    let [key] = &keys(&fake)[..] else { panic!("one deployment") };
    assert!(key.starts_with(&format!("{SHA}.")), "{key}");
    let deploy = fake.asked().into_iter().find(|a| a.path.ends_with("/deployments")).unwrap();
    let body: Value = serde_json::from_slice(&deploy.body).unwrap();
    assert_eq!(body["description"], "commit 0123456789ab (main)");
}

#[test]
fn what_a_build_prints_is_never_a_command() {
    let events = vec![
        status(1, "building"),
        event(2, json!({ "type": "output", "line": "::add-mask::e" })),
        event(3, json!({ "type": "output", "line": "::error::\u{1b}[31mred" })),
        status(4, "failed"),
    ];
    let mut end = deployment("blue-sky", "deploy", "failed");
    end["cause"] = json!({ "code": "build_failed", "message": "no\n::warning::x", "log_tail": [] });
    let platform = Platform::ending(end, move |_| Reply::lines(&events));
    let fake = platform.with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = in_actions(&machine);
    assert_eq!(ran.code, 1);

    let word = ran.err.strip_prefix("::stop-commands::").unwrap().lines().next().unwrap();
    let (mut off, mut obeyed) = (false, Vec::new());
    for line in ran.err.lines().map(str::trim_start).filter(|l| l.starts_with("::")) {
        if line == format!("::{word}::") {
            off = false;
        } else if !off {
            off = line == format!("::stop-commands::{word}");
            obeyed.push(line.split("::").nth(1).unwrap());
        }
    }
    obeyed.retain(|command| *command != "stop-commands");
    assert_eq!(obeyed, ["group", "endgroup", "error title=mini deploy"]);
    assert!(off, "what comes after mini is another step's");
    assert!(!machine.work.parent().unwrap().join("outputs").exists());
}

/// A server where the commit's key was used already, by a deployment of v`release` that ended so.
fn used(end: &'static str, release: &'static str) -> Fake {
    let platform = Platform::good().with_app("blue-sky");
    let asked_before = std::sync::atomic::AtomicBool::new(false);
    Fake::start(move |asked| match (asked.method.as_str(), asked.path.as_str()) {
        ("GET", "/v1/apps/blue-sky") => Reply::json(200, &app("blue-sky", Some("v9"))),
        ("POST", path)
            if path.ends_with("/deployments")
                && !asked_before.swap(true, std::sync::atomic::Ordering::SeqCst) =>
        {
            let mut before = deployment("blue-sky", "deploy", end);
            before["release"] = json!(release);
            Reply::json(202, &before)
        }
        _ => platform.answer(asked),
    })
}

#[test]
fn a_job_that_is_run_again_does_not_deploy_what_is_live() {
    let fake = used("live", "v9");
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = in_actions(&machine);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.err, "This commit is deployed already.\n");
    assert_eq!(keys(&fake).len(), 1);
    let outputs = fs::read_to_string(machine.work.parent().unwrap().join("outputs")).unwrap();
    assert_in(&outputs, "release=v9\n");
}

#[test]
fn a_job_that_is_run_again_deploys_what_failed_or_was_passed() {
    for (end, release) in [("failed", "v9"), ("live", "v8"), ("superseded", "v9")] {
        let fake = used(end, release);
        let machine = Machine::of(&fake);
        machine.file("index.html", "hi");
        let ran = in_actions(&machine);
        assert_eq!(ran.code, 0, "{end}: {}", ran.err);
        assert_in(&ran.err, "This commit's deployment d1 is past: once more.\n");
        let [first, second] = &keys(&fake)[..] else { panic!("{end}: two deployments") };
        assert_eq!(*second, format!("77.2.{first}"));
    }
}

#[test]
fn a_pipeline_without_a_commit_deploys_and_says_so() {
    let fake = Platform::good().with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "--ci", "-a", "blue-sky"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.err, "warning: no variable names the commit");
    assert_in(&ran.err, "[2/3] Building image \"app-blue-sky\"...\n");
    assert!(!ran.err.contains("::"), "{}", ran.err);
}
