//! Nothing is dropped: load of every kind runs through a day's worth of changes and crashes.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mini_core::ports::Runtime;

use crate::crash::tell;
use crate::load::{Done, Load};
use crate::platform::{Platform, block_on, deploy, fixture, kill, soak, until, write_fixture};
use crate::said::Said;

const DEPLOYS: u32 = 20;
/// Of rollbacks, scalings, config changes, controllers that are stopped, and that are killed.
const OF_EACH: u32 = 5;

/// Answers of 300 ms are stretched beyond a drain time of a second where the machine stands still
/// for that long, as it does now and then with the other tests of engines and crashes beside this
/// one: then all those under way are, not one in so many.
const MAY_OUTLAST: u64 = 40;

/// Waits for a command that was begun; it must end well.
fn finish(platform: &Platform, child: Child, what: &str) {
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.code, 0, "{what}: {said:?}\n{}", platform.log());
}

fn begin(platform: &Platform, arguments: &[&str]) -> Child {
    platform.mini(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn no_request_is_dropped_by_deploys_rollbacks_scalings_config_changes_and_crashes() {
    let seconds = if soak() { 30 } else { 1 };
    let times = &seconds.to_string();
    let platform = Platform::start_with(&["--drain-s", times, "--grace-s", times], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&["scale", "web=2", "--app", "app"]);
    let begun = Instant::now();
    let load = Load::start(platform.port, "app", Duration::from_secs(seconds));
    let good = |what: &str| {
        let failures = load.failures();
        assert!(failures.is_empty(), "{what}: {}\n{}", failures.join("\n"), platform.log());
    };
    let (mut stopped, mut killed) = (0, 0);
    for round in 0..DEPLOYS {
        write_fixture(folder.path(), &[("ROUND", &round.to_string())]);
        let child = begin(&platform, &deploy(folder.path(), "app"));
        // In every second deploy the controller goes, somewhere in the middle.
        if round % 2 == 1 {
            std::thread::sleep(Duration::from_millis(u64::from(round) * 60));
            if round % 4 == 1 {
                kill(platform.pid_of("controller"), "TERM");
                stopped += 1;
            } else {
                platform.kill_controller();
                killed += 1;
            }
        }
        finish(&platform, child, &format!("deploy {round}"));
        good(&format!("deploy {round}"));
        assert_eq!(platform.get("app", "/env").json()["ROUND"], round.to_string());
        let number = round / 4;
        match round % 4 {
            0 => {
                platform.ok(&["rollback", "--app", "app"]);
                good(&format!("rollback {number}"));
            }
            1 => {
                let count = if number % 2 == 0 { "web=1" } else { "web=2" };
                platform.ok(&["scale", count, "--app", "app"]);
                good(&format!("scaling {number}"));
            }
            2 => {
                platform.ok(&["env", "set", &format!("NUMBER={number}"), "--app", "app"]);
                good(&format!("config change {number}"));
            }
            _ => {}
        }
    }
    assert_eq!((stopped, killed), (OF_EACH, OF_EACH));
    // What drains still is part of it.
    let docker = platform.engine(&platform.server_id());
    until("the last old instance is gone", || {
        (block_on(docker.observe()).unwrap().len() == 1).then_some(())
    });
    good("the end");
    let took = begun.elapsed().as_secs();
    let Done { lines, reopened, outlasted } = load.stop();
    tell(&format!(
        "\n{}\n{DEPLOYS} deploys, {OF_EACH} rollbacks, {OF_EACH} scalings, {OF_EACH} config changes, \
         {stopped} controllers stopped and {killed} killed, drain and grace {times} s: no failure \
         in {took} s",
        lines.join("\n")
    ));
    // A WebSocket is closed at most once by each change that replaces its instance.
    let changes = u64::from(DEPLOYS + 3 * OF_EACH);
    assert!(reopened <= changes * Load::websockets(), "{reopened} WebSockets were closed");
    assert!(outlasted <= MAY_OUTLAST, "{outlasted} answers were cut");
    assert!(reopened > 0, "no WebSocket outlived a drain time: nothing was tried");
}
