//! Deploying.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::platform::{Platform, deployment, event, good_events, status};
use super::{Machine, assert_in};

#[test]
fn a_first_deploy_makes_a_name_remembers_it_and_goes_live() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    machine.file("Dockerfile", "FROM scratch\nCOPY . /\n");
    machine.file("src/.hidden", "x");
    let ran = machine.mini(&["deploy", "."]);
    assert_eq!(
        ran.err,
        "Created app blue-sky; ./mini.toml remembers it\n\
         [1/3] Packing source code... 3 files, 40 B\n\
         [2/3] Building image \"app-blue-sky\"...\n\
         \x20 Step 1/2 : FROM scratch\n\
         \x20 Step 2/2 : COPY . /\n\
         [3/3] Starting container... healthy in 0.4 s\n\
         \n"
    );
    assert_eq!(ran.out, "Your app is live at: http://blue-sky.localhost:8080\n");
    assert_eq!(ran.code, 0);
    assert_eq!(fs::read_to_string(machine.work.join("mini.toml")).unwrap(), "app = \"blue-sky\"\n");

    let asked = fake.asked();
    let upload = asked.iter().find(|a| a.line() == "POST /v1/apps/blue-sky/sources").unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(upload.body.as_slice()));
    let paths = tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
    assert_eq!(paths.collect::<Vec<_>>(), ["Dockerfile", "mini.toml", "src", "src/.hidden"]);
    let deploy = asked.iter().find(|a| a.line() == "POST /v1/apps/blue-sky/deployments").unwrap();
    assert_eq!(deploy.key.as_ref().unwrap().len(), 32);

    let again = machine.mini(&["deploy", "."]);
    assert_in(&again.err, "[1/3] Packing source code... 3 files, 40 B (unchanged, not sent)\n");
    assert_eq!(fake.lines().iter().filter(|l| l.ends_with("/sources")).count(), 1);
}

#[test]
fn json_is_one_document_on_stdout() {
    let fake = Platform::good().with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "--app", "blue-sky", "--json"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &document["status"]), (0, &json!("live")));
    assert_in(&ran.err, "[3/3] Starting container... healthy in 0.4 s\n");
}

#[test]
fn an_event_stream_that_breaks_goes_on_where_it_was() {
    let times = AtomicUsize::new(0);
    let platform = Platform::ending(deployment("blue-sky", "deploy", "live"), move |asked| {
        let events = good_events();
        match times.fetch_add(1, Ordering::SeqCst) {
            // Lost in the middle of a line.
            0 => {
                let mut lines = events[..3].to_vec();
                lines.push(json!("torn"));
                Reply::lines(&lines[..3]).cut()
            }
            1 => Reply::error(503, "controller_unavailable", "the controller is away"),
            2 => {
                assert!(asked.path.contains("after=3"), "{}", asked.path);
                // A controller that stops ends its streams in order.
                Reply::lines(&events[3..5])
            }
            _ => {
                assert!(asked.path.contains("after=5"), "{}", asked.path);
                Reply::lines(&events[5..])
            }
        }
    });
    let fake = platform.with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "-a", "blue-sky"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err.matches("Step 1/2").count(), 1, "{}", ran.err);
    assert_eq!(ran.err.matches("Step 2/2").count(), 1, "{}", ran.err);
    assert_eq!(ran.out, "Your app is live at: http://blue-sky.localhost:8080\n");
    assert_in(&ran.err, "trying again for up to 30 s");
}

#[test]
fn a_failed_deploy_says_why_and_what_still_serves() {
    let mut end = deployment("blue-sky", "deploy", "failed");
    end["cause"] = json!({
        "code": "exited", "message": "web.1 exited with code 1",
        "hint": "the reason should be in its last log lines", "log_tail": ["boom", "\u{1b}[2Jbang"]
    });
    let events = [
        status(1, "building"),
        status(2, "starting"),
        event(3, json!({ "type": "failed", "cause": end["cause"] })),
        status(4, "failed"),
    ];
    let fake = Platform::ending(end, move |_| Reply::lines(&events)).with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "-a", "blue-sky"]);
    assert_in(
        &ran.err,
        "[3/3] Starting container...\n  boom\n  bang\n\
         error: web.1 exited with code 1\n\
         hint: the reason should be in its last log lines\n\
         note: v3 still serves http://blue-sky.localhost:8080\n",
    );
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
}

#[test]
fn superseded_is_5_and_cancelled_is_1() {
    for (end, code) in [("superseded", 5), ("cancelled", 1)] {
        let events = [status(1, "queued"), status(2, end)];
        let platform =
            Platform::ending(deployment("blue-sky", "deploy", end), move |_| Reply::lines(&events));
        let fake = platform.with_app("blue-sky").start();
        let machine = Machine::of(&fake);
        machine.file("index.html", "hi");
        assert_eq!(machine.mini(&["deploy", "-a", "blue-sky"]).code, code, "{end}");
    }
}

#[test]
fn ctrl_c_leaves_the_deploy_running_and_says_so() {
    let events = good_events()[..5].to_vec();
    let platform = Platform::ending(deployment("blue-sky", "deploy", "starting"), move |_| {
        Reply::lines(&events).hang()
    });
    let fake = platform.with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let mut command = machine.command(&["deploy", "-a", "blue-sky"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("Step 2/2") {
        assert_ne!(stderr.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    stderr.read_to_string(&mut seen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_in(&seen, "error: interrupted; the deployment d1 goes on\n");
    assert_in(&seen, "`mini deploys follow d1`");
    assert_in(&seen, "`mini deploys cancel d1`");
}

#[test]
fn no_wait_prints_the_id_and_the_key_is_the_users() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let args = ["deploy", "-a", "new-app", "--no-wait", "--idempotency-key", "build-7"];
    let ran = machine.mini(&args);
    assert_eq!((ran.code, ran.out.as_str()), (0, "d1\n"));
    assert_in(&ran.err, "Created app new-app\n");
    assert_eq!(fake.asked().last().unwrap().key.as_deref(), Some("build-7"));
    assert!(!machine.work.join("mini.toml").exists(), "a name that was given is not written down");
}

#[test]
fn an_image_is_deployed_without_packing() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    let ran = machine.mini(&["deploy", "--image", "nginx:1.29"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.err, "[1/2] Getting the image");
    assert_in(&ran.err, "[2/2] Starting container... healthy in 0.4 s\n");
    assert!(fake.lines().iter().all(|l| !l.contains("/sources")));
    let deploy = fake.asked().into_iter().find(|a| a.path.ends_with("/deployments")).unwrap();
    let body: Value = serde_json::from_slice(&deploy.body).unwrap();
    assert_eq!(body["image"], "nginx:1.29");
    assert_eq!(fs::read_to_string(machine.work.join("mini.toml")).unwrap(), "app = \"blue-sky\"\n");
}

#[test]
fn a_refusal_during_the_upload_is_told_as_it_is() {
    let platform = Platform::good().with_app("blue-sky");
    let fake = Fake::start_unread(move |asked| {
        if asked.method == "POST" {
            Reply::error(413, "too_large", "the source is larger than 2.0 GB")
                .header("connection", "close")
        } else {
            platform.answer(asked)
        }
    });
    let machine = Machine::of(&fake);
    // Random enough not to shrink, and more than all buffers between hold.
    let noise: String = (0..8_000_000u64)
        .map(|i| char::from(b' ' + (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as u8))
        .collect();
    machine.file("noise", &noise);
    let ran = machine.mini(&["deploy", "-a", "blue-sky"]);
    assert_in(&ran.err, "error: the source is larger than 2.0 GB\n");
    assert_eq!(ran.code, 1);
}

#[test]
fn folders_that_cannot_be_deployed_are_told() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    let empty = machine.mini(&["deploy", "."]);
    assert_eq!(empty.code, 1);
    assert_in(&empty.err, "error: . holds nothing to deploy\n");
    assert_eq!(machine.mini(&["deploy", "nowhere"]).code, 2);
    machine.file("file", "x");
    assert_in(&machine.mini(&["deploy", "file"]).err, "file is not a folder");
    assert!(fake.lines().is_empty(), "no app is made for what cannot be deployed");
}
