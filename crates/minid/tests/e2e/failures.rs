//! A deploy that fails says why, and what served before goes on serving.

use crate::http;
use crate::platform::{Platform, deploy, fixture, until, write_fixture};

#[test]
fn every_cause_has_its_own_words_and_the_old_release_serves_on() {
    let platform = Platform::start_with(&["--boot-timeout-s", "3"], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[("FIXTURE_MODE", "exit"), ("FIXTURE_CODE", "3")], "web.1 exited with code 3"),
        (&[("FIXTURE_MODE", "never")], "web.1 runs, but listens on no TCP port after"),
        (&[("FIXTURE_MODE", "loopback")], "web.1 listens on 127.0.0.1:8080 only"),
        (&[("FIXTURE_MODE", "port")], "web.1 listens on port 9999, not on 8080"),
        (&[("FIXTURE_MODE", "oom")], "web.1 ran out of memory"),
        (
            &[("FIXTURE_MODE", "slow"), ("FIXTURE_DELAY_MS", "20000")],
            "web.1 runs, but listens on no TCP port after",
        ),
        (&[("FIXTURE_MODE", "exit"), ("FIXTURE_CODE", "0")], "web.1 exited with code 0"),
    ];
    for (environment, words) in cases {
        write_fixture(folder.path(), environment);
        let said = platform.fails(&deploy(folder.path(), "app"));
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains(&format!("error: {words}")), "{words}\n{said:?}");
        assert!(said.err.contains("hint: "), "{said:?}");
        assert!(said.err.contains("v1"), "it says what still serves: {said:?}");
        if environment[0].1 == "exit" {
            assert!(said.err.contains("fatal: no database"), "with its last log lines: {said:?}");
        }
        assert_eq!(platform.get("app", "/").text().trim(), "hello from app v1", "{words}");
    }
    until("only what serves is left on the engine", || {
        (platform.left_on_engine().0 == 1).then_some(())
    });
}

#[test]
fn builds_that_fail_show_the_end_of_their_output() {
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    let fails = |dockerfile: &str| {
        std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
        platform.fails(&deploy(folder.path(), "app"))
    };
    let said = fails("FROM scratch\nCOPY missing /there\nCMD [\"/there\"]\n");
    assert!(said.err.contains("missing") && said.err.contains("error: "), "{said:?}");
    let said = fails("FROM no-such-image-anywhere:9\nCMD [\"/x\"]\n");
    assert!(said.err.contains("no-such-image-anywhere:9"), "{said:?}");
    assert!(said.err.contains("hint: "), "{said:?}");
    let said = fails("FORM scratch\n");
    assert!(said.err.to_lowercase().contains("form"), "{said:?}");
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let said = platform.fails(&deploy(folder.path(), "app"));
    assert!(said.err.contains("nothing to run"), "{said:?}");
}

#[test]
fn a_folder_with_nothing_to_run_or_serve_is_told_so() {
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "hi").unwrap();
    let said = platform.fails(&deploy(folder.path(), "app"));
    assert!(said.err.contains("no Dockerfile and no index.html"), "{said:?}");
    std::fs::write(folder.path().join("package.json"), "{}").unwrap();
    let said = platform.fails(&deploy(folder.path(), "app"));
    assert!(said.err.contains("package.json"), "{said:?}");
    let empty = tempfile::tempdir().unwrap();
    assert_ne!(platform.fails(&deploy(empty.path(), "app")).code, 0);
    let said = platform.fails(&["deploy", "/no/such/folder", "--app", "app"]);
    assert!(said.err.contains("/no/such/folder"), "{said:?}");
    let said = platform.fails(&deploy(folder.path(), "Not-A-Name"));
    assert!(said.err.contains("not allowed"), "{said:?}");
    platform.ok(&["apps", "create", "taken"]);
    let said = platform.fails(&["apps", "create", "taken"]);
    assert_eq!(said.code, 5, "{said:?}");
}

#[test]
fn a_crashing_app_is_restarted_with_pauses_and_seen_to_be_crashed() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "frail"));
    // A POST, since a GET that got no answer may be sent once more.
    let exit = || {
        let _ = http::request(platform.port, "frail.localhost", ("POST", "/exit?code=7"), &[], b"");
    };
    // The first time it is back at once.
    exit();
    until("it is back", || platform.try_get("frail", "/").ok().filter(|a| a.status == 200));
    let instances = platform.json(&["ps", "--app", "frail"]);
    assert_eq!(instances["instances"][0]["restarts"], 1, "{instances}");
    for _ in 0..2 {
        exit();
        let crashed = until("it is seen to be crashed, or back", || {
            let ps = platform.json(&["ps", "--app", "frail"]);
            let state = ps["instances"][0]["state"].as_str()?.to_owned();
            (state != "up").then_some(ps)
        });
        println!("{crashed}");
        until("it is back", || platform.try_get("frail", "/").ok().filter(|a| a.status == 200));
    }
    let log = platform.ok(&["logs", "--app", "frail"]).out;
    assert!(log.contains("mini[web.1]: Process exited with status 7"), "{log}");
}

#[test]
fn a_health_path_decides_and_its_answer_is_told() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    let manifest = |path: &str| {
        let text = format!("[health]\npath = \"{path}\"\n[timing]\nboot_timeout_s = 3\n");
        std::fs::write(folder.path().join("mini.toml"), text).unwrap();
    };
    manifest("/up");
    platform.ok(&deploy(folder.path(), "app"));
    write_fixture(folder.path(), &[("FIXTURE_MODE", "unhealthy")]);
    let said = platform.fails(&deploy(folder.path(), "app"));
    assert!(said.err.contains("the last try: GET /up answered 500"), "{said:?}");
    assert_eq!(platform.get("app", "/").text().trim(), "hello from app v1");
    manifest("no-path");
    let said = platform.fails(&deploy(folder.path(), "app"));
    assert!(said.err.contains("mini.toml: [health] path"), "{said:?}");
}
