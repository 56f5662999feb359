//! `minid status`, whatever is dead.

use std::process::Command;

use mini_core::ports::Runtime;
use serde_json::Value;

use crate::platform::{Platform, block_on, deploy, fixture, kill, until};

/// Waits until nothing is wrong.
fn until_well(platform: &Platform) {
    until("all is well", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minid"));
        let said = command.arg("status").env("MINID_DATA_DIR", platform.data()).output().unwrap();
        said.status.success().then_some(())
    });
}

/// The exit code, and what was found, at a time when nothing changes.
fn status(platform: &Platform, environment: &[(&str, &str)]) -> (i32, Value) {
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minid"));
        command.arg("status").args(arguments).env("MINID_DATA_DIR", platform.data());
        command.envs(environment.iter().copied()).output().unwrap()
    };
    let said = ask(&["--json"]);
    let text = String::from_utf8(said.stdout).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    // The same for people.
    let plain = ask(&[]);
    let words = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(plain.status.code(), said.status.code(), "{words}\n{text}");
    for fault in found["faults"].as_array().unwrap() {
        assert!(words.contains("FAULT "), "{fault}: {words}");
    }
    assert_eq!(words.contains("all is well"), found["well"] == true, "{words}");
    (said.status.code().unwrap(), found)
}

fn state_of<'a>(found: &'a Value, process: &str) -> &'a Value {
    let all = found["processes"].as_array().unwrap().iter();
    all.into_iter().find(|p| p["name"] == process).map_or(&Value::Null, |p| &p["state"])
}

#[test]
fn status_tells_what_is_well_and_what_is_down_whatever_is_dead() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&["apps", "create", "empty"]);
    until_well(&platform);
    let (code, well) = status(&platform, &[]);
    assert_eq!((code, &well["well"]), (0, &Value::Bool(true)), "{well:#}");
    for process in ["run", "controller", "proxy"] {
        assert_eq!(state_of(&well, process), "up", "{well:#}");
    }
    assert_eq!(well["processes"][1]["pid"], platform.pid_of("controller"));
    assert_eq!(well["proxy"]["apps"], 2, "{well:#}");
    assert_eq!((&well["apps"]["all"], &well["apps"]["wanted"]), (&2.into(), &1.into()));
    assert_eq!((&well["engine"]["running"], &well["store"]["writable"]), (&1.into(), &true.into()));
    assert!(!platform.log().contains("the proxy is away"), "the controller was disturbed");
    // `mini ps` beside it: the figures of the same instance.
    let ps = platform.json(&["ps", "--app", "app"]);
    let instance = &ps["instances"][0];
    assert!(instance["memory_bytes"].as_u64().unwrap() > 100_000, "{ps}");
    assert!(instance["cpu_percent"].as_f64().is_some(), "{ps}");

    // The controller hangs, and the app dies meanwhile.
    let controller = platform.pid_of("controller");
    kill(controller, "STOP");
    let docker = platform.engine(&platform.server_id());
    let own = block_on(docker.observe()).unwrap().remove(0);
    block_on(docker.stop(own.id, 1000)).unwrap();
    let (code, ill) = status(&platform, &[]);
    kill(controller, "CONT");
    assert_eq!((code, state_of(&ill, "controller")), (1, &"silent".into()), "{ill:#}");
    assert_eq!(state_of(&ill, "proxy"), "up");
    let down = &ill["apps"]["down"][0];
    assert_eq!(down["app"], "app", "{ill:#}");
    assert!(down["why"].as_str().unwrap().starts_with("web.1 exited with status"), "{ill:#}");
    until_well(&platform);

    // The proxy hangs.
    let proxy = platform.pid_of("proxy");
    kill(proxy, "STOP");
    let (code, ill) = status(&platform, &[]);
    kill(proxy, "CONT");
    assert_eq!((code, state_of(&ill, "proxy")), (1, &"silent".into()), "{ill:#}");
    assert_eq!(ill["apps"]["down"].as_array().unwrap().len(), 0, "its instance is well");

    // The engine cannot be reached: nothing is said of apps, and nothing is called down.
    let (code, ill) = status(&platform, &[("DOCKER_HOST", "unix:///nonexistent/docker.sock")]);
    assert_eq!((code, &ill["engine"]["reachable"]), (1, &false.into()), "{ill:#}");
    assert_eq!((&ill["apps"]["unknown"], &ill["apps"]["wanted"]), (&1.into(), &1.into()));
}

#[test]
fn status_with_everything_dead_says_so_and_what_was_last_wrong() {
    let mut platform = Platform::start();
    kill(platform.pid_of("controller"), "KILL");
    until("it is back", || platform.log().contains("controller ended").then_some(()));
    until_well(&platform);
    platform.kill_everything();
    let (code, dead) = status(&platform, &[]);
    assert_eq!(code, 1);
    assert_eq!(state_of(&dead, "controller"), "down", "{dead:#}");
    assert_eq!(state_of(&dead, "proxy"), "down", "{dead:#}");
    assert_eq!(dead["store"]["readable"], true, "{dead:#}");
    assert!(dead["last_errors"].to_string().contains("controller ended"), "{dead:#}");
    platform.up();
}
