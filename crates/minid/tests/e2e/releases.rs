//! What a release holds beside code and config vars: its own command, limits, how it comes in; and
//! what keeps its instances well.

use std::path::Path;

use mini_core::ports::Runtime;

use crate::platform::{Platform, block_on, deploy, fixture, until, write_fixture};
use crate::prober::Prober;

fn procfile(folder: &Path, text: &str) {
    std::fs::write(folder.join("Procfile"), text).unwrap();
}

#[test]
fn a_release_command_runs_before_the_release_goes_live_or_it_does_not() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    procfile(folder.path(), "web: /app\nrelease: /app release\n");
    let said = platform.ok(&deploy(folder.path(), "blue"));
    let line = "release command of blue v1";
    assert_eq!(said.err.matches(line).count(), 1, "its output is shown once: {said:?}");
    let log = platform.ok(&["logs", "--app", "blue", "-p", "release"]).out;
    assert!(log.contains(&format!("app[release.1]: {line}")), "and kept: {log}");
    until("nothing of it is left", || {
        let ps = platform.json(&["ps", "--app", "blue"]);
        (ps["instances"].as_array()?.len() == 1).then_some(())
    });

    platform.ok(&["restart", "--app", "blue"]);
    let log = platform.ok(&["logs", "--app", "blue", "-p", "release"]).out;
    assert_eq!(log.matches(line).count(), 1, "once for a release, restarts or not: {log}");

    let prober = Prober::start(platform.port, "blue");
    let said = platform.fails(&["env", "set", "FIXTURE_RELEASE=fail", "--app", "blue"]);
    for part in [
        "error: the release command exited with code 1",
        "fatal: migration failed",
        "hint: ",
        "note: v1 still serves",
    ] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    assert_eq!(said.err.matches("fatal: migration failed").count(), 1, "{said:?}");
    assert_eq!(platform.get("blue", "/").text().trim(), "hello from blue v1");

    // One that hangs ends by its own deadline.
    procfile(folder.path(), "web: /app\nrelease: /app sleep 600000\n");
    std::fs::write(folder.path().join("mini.toml"), "[timing]\nrelease_s = 1\n").unwrap();
    let said = platform.fails(&deploy(folder.path(), "blue"));
    assert!(
        said.err.contains("did not end within 1 s") && said.err.contains("release_s"),
        "{said:?}"
    );

    // Config vars of the failed release are set all the same; unset, the next one goes in.
    platform.ok(&["env", "unset", "FIXTURE_RELEASE", "--app", "blue"]);
    assert_eq!(prober.failures(), Vec::<String>::new());
}

#[test]
fn limits_are_part_of_a_release_and_come_back_with_it() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    platform.ok(&["limits", "set", "web", "memory=64m", "cpu=0.5", "pids=40", "--app", "blue"]);
    let info = platform.json(&["releases", "info", "v2", "--app", "blue"]);
    let wanted = serde_json::json!({"memory_bytes": 64 << 20, "cpu_millis": 500, "pids": 40});
    assert_eq!(info["limits"]["web"], wanted, "{info}");
    // The app cannot have more than it may.
    let _ = platform.try_get("blue", "/alloc?mb=90");
    until("it ran out of memory, and was started again", || {
        let log = platform.ok(&["logs", "--app", "blue", "-n", "50"]).out;
        log.contains("out of memory").then_some(())
    });
    until("it is up again", || {
        platform.try_get("blue", "/").ok().filter(|a| a.status == 200).map(drop)
    });

    let diff = platform.ok(&["diff", "v1", "v2", "--app", "blue"]).out;
    assert!(diff.contains("+ limits of web"), "{diff}");
    platform.ok(&["limits", "unset", "web", "memory", "--app", "blue"]);
    let limits = platform.json(&["limits", "--app", "blue"]);
    assert!(limits["limits"]["web"]["memory_bytes"].is_null(), "{limits}");
    platform.ok(&["rollback", "v2", "--app", "blue"]);
    assert_eq!(platform.json(&["limits", "--app", "blue"])["limits"]["web"], wanted);
    platform.ok(&["rollback", "v1", "--app", "blue"]);
    assert_eq!(platform.json(&["limits", "--app", "blue"])["limits"], serde_json::json!({}));

    for (wish, why) in [
        ("memory=1k", "a memory limit of 1.0 kB cannot be kept"),
        ("memory=9999g", "cannot be kept"),
        ("cpu=1000", "a limit of 1000 processors cannot be kept"),
        ("pids=1", "a limit of 1 processes cannot be kept"),
    ] {
        let said = platform.fails(&["limits", "set", "web", wish, "--app", "blue"]);
        assert!(said.err.contains(why) && said.err.contains("hint: from "), "{wish}: {said:?}");
    }
    let said = platform.fails(&["limits", "set", "wbe", "pids=40", "--app", "blue"]);
    assert!(
        said.err.contains("no process type wbe") && said.err.contains("it has: web"),
        "{said:?}"
    );
    let releases = platform.json(&["releases", "--app", "blue"]);
    assert_eq!(releases["releases"][0]["name"], "v5", "what was refused made no release");
}

#[test]
fn with_recreate_two_releases_never_run_at_once_and_requests_wait() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    let prober = Prober::start(platform.port, "blue");
    write_fixture(folder.path(), &[("ROUND", "2")]);
    let mut arguments = deploy(folder.path(), "blue").to_vec();
    arguments.extend(["--strategy", "recreate"]);
    platform.ok(&arguments);
    assert_eq!(platform.json(&["releases", "info", "v2", "--app", "blue"])["strategy"], "recreate");

    // One that fails makes way again for the old one.
    let said = platform.fails(&["env", "set", "FIXTURE_MODE=exit", "--app", "blue"]);
    assert!(said.err.contains("web.1 exited with code 1"), "{said:?}");
    until("the old release serves", || {
        let answer = platform.try_get("blue", "/").ok()?;
        (answer.text().trim() == "hello from blue v2").then_some(())
    });
    platform.ok(&["env", "unset", "FIXTURE_MODE", "--app", "blue"]);
    let log = platform.ok(&["logs", "--app", "blue", "-n", "1000"]).out;
    prober.pause();
    assert_eq!(prober.failures(), Vec::<String>::new());

    // In the log, the old one has stopped before the new one listens, each time.
    let mut running = 0_i32;
    for line in log.lines().filter(|l| l.contains(" app[web.1]: ")) {
        running += i32::from(line.ends_with("listening on 8080"));
        running -= i32::from(line.ends_with("]: stopped"));
        assert!((0..=1).contains(&running), "{line}\nin {log}");
    }

    let said = platform.fails(&["deploy", ".", "--strategy", "blue-green", "--app", "blue"]);
    assert_eq!(said.code, 2, "{said:?}");
}

#[test]
fn one_instance_is_replaced_without_a_drop() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    let prober = Prober::start(platform.port, "blue");
    let id = |platform: &Platform| {
        let ps = platform.json(&["ps", "--app", "blue"]);
        let up = ps["instances"].as_array().unwrap().iter().find(|i| i["state"] == "up").cloned();
        up.map(|i| i["id"].clone())
    };
    let before = id(&platform);
    platform.ok(&["ps", "restart", "web.1", "--app", "blue"]);
    until("one is left, and another", || {
        let ps = platform.json(&["ps", "--app", "blue"]);
        let alone = ps["instances"].as_array()?.len() == 1;
        (alone && id(&platform).is_some() && id(&platform) != before).then_some(())
    });
    assert_eq!(prober.failures(), Vec::<String>::new());
    let said = platform.fails(&["ps", "restart", "web.7", "--app", "blue"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("it has: web.1"), "{said:?}");
}

#[test]
fn an_instance_that_turns_unhealthy_leaves_the_routes_and_is_replaced() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    std::fs::write(
        folder.path().join("mini.toml"),
        "[health]\npath = \"/up\"\n[timing]\nboot_timeout_s = 5\n",
    )
    .unwrap();
    platform.ok(&deploy(folder.path(), "blue"));
    platform.ok(&["scale", "web=2", "--app", "blue"]);
    let prober = Prober::start(platform.port, "blue");
    assert_eq!(platform.get("blue", "/up?set=500").status, 200);
    let state = |wanted: &str| {
        let ps = platform.json(&["ps", "--app", "blue"]);
        let all = ps["instances"].as_array()?.clone();
        all.into_iter().find(|i| i["state"] == wanted)
    };
    let ill = until("one is found unhealthy", || state("unhealthy"));
    let name = ill["name"].as_str().unwrap().to_owned();
    // It gets no requests now: all go to the other one.
    until("it has left the routes", || {
        let other = |_: u32| {
            let env = platform.try_get("blue", "/env").ok()?.json();
            (env["MINI_PROCESS"] != name.as_str()).then_some(())
        };
        (0..10).all(|n| other(n).is_some()).then_some(())
    });
    until("it is up again", || {
        let ps = platform.json(&["ps", "--app", "blue"]);
        let up = ps["instances"].as_array()?.iter().filter(|i| i["state"] == "up").count();
        (up == 2).then_some(())
    });
    let log = platform.ok(&["logs", "--app", "blue", "-p", &name, "-n", "100"]).out;
    let line = format!("mini[{name}]: State changed from up to unhealthy: GET /up answered 500");
    assert!(log.contains(&line), "{log}");
    assert_eq!(prober.failures(), Vec::<String>::new());
}

#[test]
fn a_rollback_to_an_image_that_is_gone_says_so_and_builds_it_again() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    let image = platform.json(&["releases", "info", "v1", "--app", "blue"])["image_id"].clone();
    write_fixture(folder.path(), &[("ROUND", "2")]);
    platform.ok(&deploy(folder.path(), "blue"));
    let engine = platform.engine(&platform.server_id());
    until("the old instance has gone, and its image can", || {
        let removed = block_on(engine.remove_image(image.as_str()?.to_owned()));
        removed.is_ok().then_some(())
    });
    let said = platform.fails(&["rollback", "v1", "--app", "blue"]);
    assert!(said.err.contains("the image of v1 is gone from the engine"), "{said:?}");
    assert!(
        said.err.contains("hint: its source is kept: `mini rollback v1 --rebuild`"),
        "{said:?}"
    );
    assert_eq!(platform.get("blue", "/").text().trim(), "hello from blue v2");
    let said = platform.ok(&["rollback", "v1", "--rebuild", "--app", "blue"]);
    assert!(said.err.contains("building it again from its source"), "{said:?}");
    assert_eq!(platform.get("blue", "/").text().trim(), "hello from blue v3");
    let said = platform.fails(&["rollback", "v77", "--app", "blue"]);
    assert_eq!(said.code, 4);
    assert!(said.err.contains("blue has no release v77"), "{said:?}");
}
