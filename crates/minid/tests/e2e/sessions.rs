//! `mini run` and `mini exec`: one's own commands beside the app's.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::http;
use crate::platform::{Platform, deploy, fixture, kill, until};
use crate::said::Said;
use crate::terminal::Terminal;

/// A platform with the fixture live as `app`.
fn with_app() -> Platform {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform
}

fn on_app<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--app", "app"], arguments].concat()
}

/// Runs the CLI with that on its standard input.
fn with_input(mut command: Command, input: &[u8]) -> std::process::Output {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    })
}

fn only_the_app_is_left(platform: &Platform) {
    until("the one-off is gone from the engine", || {
        (platform.left_on_engine().0 == 1).then_some(())
    });
}

#[test]
fn a_command_has_its_own_streams_and_exit_code() {
    let platform = with_app();
    for of in [&["run", "--"][..], &["exec", "web.1", "--"]] {
        let call = |words: &[&str]| {
            let arguments = on_app(&[of, words].concat());
            Said::from(platform.mini(&arguments).output().unwrap())
        };
        let said = call(&["/app", "print", "one", "--app", "two words"]);
        assert_eq!((said.code, said.out.as_str()), (0, "one\n--app\ntwo words\n"), "{said:?}");
        assert_eq!(said.err, "");
        assert_eq!(call(&["/app", "exit", "42"]).code, 42);
        let said = call(&["/app", "nonsense"]);
        assert_eq!((said.code, said.out.as_str()), (127, ""), "{said:?}");
        assert!(said.err.contains("no command \"nonsense\""), "stderr is apart: {said:?}");
        let said = call(&["/not-there", "x"]);
        assert_eq!(said.code, 127, "{said:?}");
        assert!(said.err.contains("\"/not-there\" was not found in the image"), "{said:?}");
        let said = call(&["/app", "env"]);
        let who = if of[0] == "run" { "MINI_PROCESS=run." } else { "MINI_PROCESS=web.1" };
        assert!(said.out.contains(who) && said.out.contains("MINI_RELEASE=v1"), "{said:?}");
        let said = call(&["/app", "size"]);
        assert_eq!(said.out, "none\n", "no terminal where there is none: {said:?}");
    }
    only_the_app_is_left(&platform);
    assert_eq!(platform.get("app", "/").status, 200);
}

#[test]
fn a_megabyte_of_anything_goes_in_and_comes_back() {
    let platform = with_app();
    // Every byte there is, and none where the last one lets one expect it.
    let input: Vec<u8> = (0..1_048_576_u32).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect();
    for of in [&["run", "--"][..], &["exec", "web.1", "--"]] {
        let arguments = on_app(&[of, &["/app", "cat"]].concat());
        let output = with_input(platform.mini(&arguments), &input);
        assert!(output.status.success(), "{of:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == input, "{of:?}: {} bytes came back", output.stdout.len());
    }
    let socket = format!("unix:{}", platform.data().join("admin.sock").display());
    let mut command = platform.mini(&on_app(&["run", "/app", "cat"]));
    command.env("MINI_HOST", socket).env_remove("MINI_TOKEN");
    let output = with_input(command, &input);
    assert!(output.stdout == input, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_terminal_is_passed_through_and_given_back() {
    let platform = with_app();
    for of in [&["run", "--"][..], &["exec", "web.1", "--"]] {
        let arguments = on_app(&[of, &["/app", "size"]].concat());
        let mut terminal = Terminal::start(platform.mini(&arguments), 24, 80);
        until("the keys go to the command", || (!terminal.is_cooked()).then_some(()));
        terminal.types("\r");
        terminal.shows("24x80");
        terminal.resize(41, 133);
        until("the new size is seen", || {
            terminal.types("\r");
            terminal.shown().contains("41x133").then_some(())
        });
        // Ctrl-C is the command's.
        terminal.types("\u{3}");
        assert_eq!(terminal.code(), 130, "{of:?}: {}", terminal.shown());
        assert!(terminal.is_cooked(), "the terminal is as it was");
        let arguments = on_app(&[of, &["/app", "sleep", "600000"]].concat());
        let mut terminal = Terminal::start(platform.mini(&arguments), 24, 80);
        until("the keys go to the command", || (!terminal.is_cooked()).then_some(()));
        kill(terminal.child.id(), "TERM");
        assert_eq!(terminal.code(), 143, "{}", terminal.shown());
        assert!(terminal.is_cooked(), "also when a signal ended us");
    }
    let arguments = on_app(&["run", "-T", "--", "/app", "size"]);
    let mut terminal = Terminal::start(platform.mini(&arguments), 24, 80);
    terminal.shows("none");
    terminal.types("\u{4}");
    assert_eq!(terminal.code(), 0);
    only_the_app_is_left(&platform);
}

#[test]
fn a_detached_one_runs_by_itself_and_the_log_has_its_words() {
    let platform = with_app();
    let said = platform.ok(&on_app(&["run", "--detach", "--", "/app", "sleep", "1500"]));
    assert_eq!(said.out, "run.1\n");
    let ps = platform.json(&on_app(&["ps"]));
    let names: Vec<_> = ps["instances"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert_eq!(names, ["run.1", "web.1"]);
    assert_eq!(platform.json(&["apps"])["apps"][0]["state"], "running");
    // A rollout does not touch it.
    platform.ok(&on_app(&["restart"]));
    let second = platform.json(&on_app(&["run", "-d", "--", "/app", "print", "first", "last"]));
    assert_eq!(second["name"], "run.2");
    let begun = std::time::Instant::now();
    let log = until("the log has both ends", || {
        let log = platform.ok(&on_app(&["logs", "-n", "1000"])).out;
        assert!(begun.elapsed().as_secs() < 50, "their ends are not told: {log}");
        let ended =
            |name: &str| log.contains(&format!("mini[{name}]: Process exited with status 0"));
        (ended("run.1") && ended("run.2")).then_some(log)
    });
    only_the_app_is_left(&platform);
    let own = until("its last line is there", || {
        let own = platform.ok(&on_app(&["logs", "-p", "run", "--source", "app"])).out;
        own.contains("app[run.2]: last").then_some(own)
    });
    assert!(own.contains("app[run.2]: first"), "{own}");
    assert!(log.contains("mini[run.1]: Started by test, detached"), "{log}");
    platform.ok(&on_app(&["run", "-d", "--", "/app", "exit", "9"]));
    until("its exit code is told", || {
        let log = platform.ok(&on_app(&["logs"])).out;
        log.contains("mini[run.3]: Process exited with status 9").then_some(())
    });
}

#[test]
fn nobody_attached_leaves_nothing_running() {
    let platform = with_app();
    let begin = || {
        let mut command = platform.mini(&on_app(&["run", "--", "/app", "worker"]));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Its first words are there: it runs.
        let mut first = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        assert_eq!(&first, b"worker");
        assert_eq!(platform.left_on_engine().0, 2);
        child
    };
    let mut child = begin();
    child.kill().unwrap();
    child.wait().unwrap();
    only_the_app_is_left(&platform);

    let child = begin();
    platform.kill_controller();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.err.contains("run.2 is stopped by the server"), "{said:?}");
    only_the_app_is_left(&platform);
    assert_eq!(platform.get("app", "/").status, 200);

    let mut child = begin();
    platform.ok(&["apps", "destroy", "app", "--yes"]);
    assert_eq!(child.wait().unwrap().code(), Some(0), "SIGTERM, and the command ended well");
    until("nothing is left at all", || (platform.left_on_engine().0 == 0).then_some(()));
}

#[test]
fn what_cannot_be_attached_to_is_told_so() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&["apps", "create", "app"]);
    for arguments in [&["run", "--", "/app"][..], &["exec", "web.1", "--", "/app"]] {
        let said = platform.fails(&on_app(arguments));
        assert_eq!(said.code, 5, "{said:?}");
        assert!(said.err.contains("app has no release yet"), "{said:?}");
    }
    platform.ok(&deploy(folder.path(), "app"));
    let said = platform.fails(&on_app(&["exec", "web.7", "--", "/app"]));
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("hint: it has: web.1"), "{said:?}");
    for arguments in [&["run"][..], &["run", "--"], &["exec", "web.1"], &["exec"]] {
        let said = platform.fails(&on_app(arguments));
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains("Usage: mini"), "{said:?}");
    }
    assert!(platform.fails(&on_app(&["run", "--", ""])).err.contains("the command is empty"));
    let body = br#"{"command":["/app"]}"#;
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "mini-session")];
    let call = ("POST", "/v1/apps/app/runs");
    let refused = http::request(platform.port, "localhost", call, &upgrade, body).unwrap();
    assert_eq!(refused.status, 401, "before anything is upgraded: {}", refused.text());
    let refused = platform.api(call, &[], body);
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("Upgrade: mini-session"), "{}", refused.text());
    platform.ok(&on_app(&["stop"]));
    let said = platform.fails(&on_app(&["exec", "web.1", "--", "/app", "print", "x"]));
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("nothing of app runs"), "{said:?}");
    let said = platform.ok(&on_app(&["run", "--", "/app", "print", "works"]));
    assert_eq!(said.out, "works\n");
    until("it is stopped again", || {
        (platform.json(&["apps"])["apps"][0]["state"] == "stopped").then_some(())
    });
    until("nothing is left", || (platform.left_on_engine().0 == 0).then_some(()));
}
