//! The image's HEALTHCHECK decides, too.

use std::path::Path;

use crate::platform::{Platform, deploy, fixture, until, write_fixture};

/// The fixture with a HEALTHCHECK.
fn with_check(folder: &Path, check: &str) {
    write_fixture(folder, &[]);
    let path = folder.join("Dockerfile");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}HEALTHCHECK {check}\n")).unwrap();
}

#[test]
fn a_check_must_pass_before_a_release_is_live_and_says_why_it_does_not() {
    let platform = Platform::start_with(&["--boot-timeout-s", "20"], &[]);
    let folder = fixture(&[]);
    with_check(folder.path(), r#"--interval=1h CMD ["/app", "patient", "2000"]"#);
    let said = platform.ok(&deploy(folder.path(), "app"));
    let log = platform.ok(&["logs", "--app", "app", "-n", "500"]).out;
    // It listened at once: what it waited for is the check.
    let took = log.lines().find_map(|l| l.split_once("Healthy after ")).expect("it is told").1;
    let took: u64 = took.split(' ').next().unwrap().parse().unwrap();
    assert!((2_000..20_000).contains(&took), "{took} ms: {said:?}\n{log}");
    assert_eq!(platform.get("app", "/").text().trim(), "hello from app v1");

    with_check(folder.path(), r#"CMD ["/app", "without", "/app"]"#);
    std::fs::write(folder.path().join("mini.toml"), "[timing]\nboot_timeout_s = 3\n").unwrap();
    let said = platform.fails(&deploy(folder.path(), "app"));
    let words = "the image's HEALTHCHECK did not pass in web.1 within";
    assert!(said.err.contains(words), "{said:?}");
    assert!(said.err.contains("exit code 1: there is /app"), "with its last words: {said:?}");
    let deploys = platform.json(&["deploys", "--app", "app"]);
    assert_eq!(deploys["deployments"][0]["cause"]["code"], "healthcheck_failed", "{deploys}");
    assert_eq!(platform.get("app", "/").text().trim(), "hello from app v1", "it serves on");

    // One that hangs fails at its timeout, and leaves nothing behind.
    with_check(folder.path(), r#"--timeout=1s CMD ["/app", "sleep", "600000"]"#);
    let said = platform.fails(&deploy(folder.path(), "app"));
    assert!(said.err.contains("it did not end within 1 s"), "{said:?}");

    // A path is the app's own word, and the check is off.
    with_check(folder.path(), r#"CMD ["/app", "without", "/app"]"#);
    let manifest = "[health]\npath = \"/up\"\n[timing]\nboot_timeout_s = 20\n";
    std::fs::write(folder.path().join("mini.toml"), manifest).unwrap();
    platform.ok(&deploy(folder.path(), "app"));
    until("only what serves is left", || (platform.left_on_engine().0 == 1).then_some(()));
}

#[test]
fn a_check_that_fails_later_is_seen_and_kept_over_config_changes_and_restarts() {
    let platform = Platform::start_with(&["--boot-timeout-s", "20"], &[]);
    let folder = fixture(&[]);
    let check = r#"--interval=300ms --retries=2 CMD ["/app", "without", "/ill"]"#;
    with_check(folder.path(), check);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&["env", "set", "A=1", "--app", "app"]);
    let state = |wanted: &str| {
        until(&format!("web.1 is {wanted}"), || {
            let ps = platform.json(&["ps", "--app", "app"]);
            (ps["instances"][0]["state"] == wanted).then_some(())
        });
    };
    state("up");
    let app = |word| platform.ok(&["--app", "app", "exec", "web.1", "--", "/app", word, "/ill"]);
    app("touch");
    state("unhealthy");
    assert_eq!(platform.get("app", "/").status, 200, "a lone one keeps its requests");
    app("remove");
    state("up");
    platform.kill_controller();
    for _ in 0..20 {
        assert_eq!(platform.get("app", "/").status, 200, "nothing is taken from what serves");
    }
    state("up");
    app("touch");
    state("unhealthy");
}
