//! The engine stops, or is killed, and comes back: every app serves again, nothing twice, each at
//! its own address.

pub(crate) mod beside;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Instant;

use mini_core::id::InstanceId;
use mini_core::ports::Runtime;

use self::beside::Beside;
use crate::crash::tell;
use crate::platform::{Platform, block_on, deploy, fixture, until};
use crate::prober::Prober;
use crate::said::Said;

const APPS: [&str; 3] = ["one", "two", "three"];

/// Which instances there are, and where.
fn instances(platform: &Platform) -> BTreeMap<InstanceId, (String, Option<Ipv4Addr>)> {
    let docker = platform.engine(&platform.server_id());
    let seen = block_on(docker.observe()).unwrap_or_default();
    let running = seen.into_iter().filter(|i| i.state.is_running());
    running.map(|i| (i.id.clone(), (format!("{}.{}", i.app, i.label()), i.address))).collect()
}

fn health(platform: &Platform) -> String {
    let health = platform.api(("GET", "/v1/health"), &[], b"").json();
    health["status"].as_str().unwrap_or_default().to_owned()
}

fn comes_back(live_restore: bool, signal: &str) {
    let mut engine = Beside::start(live_restore);
    let platform = Platform::start_beside(&engine, &["--drain-s", "1", "--grace-s", "1"]);
    let folder = fixture(&[]);
    for app in APPS {
        platform.ok(&deploy(folder.path(), app));
    }
    platform.ok(&["scale", "web=2", "--app", APPS[0]]);
    until("all are up", || (instances(&platform).len() == APPS.len() + 1).then_some(()));
    let before = instances(&platform);
    let probers = APPS.map(|app| Prober::start(platform.port, app));
    let answered = |more: u64| {
        let asked = probers.each_ref().map(|p| p.asked() + more);
        until("requests are answered", || {
            probers.iter().zip(asked).all(|(p, n)| p.asked() >= n).then_some(())
        });
    };
    answered(20);
    engine.down(signal);
    until("its absence is seen", || (health(&platform) == "degraded").then_some(()));
    if live_restore {
        answered(50);
    }
    engine.up();
    let begun = Instant::now();
    until("the engine is seen", || (health(&platform) == "ok").then_some(()));
    until("every instance runs again, and no other", || {
        (instances(&platform) == before).then_some(())
    });
    for app in APPS {
        let hello = format!("hello from {app} v1\n");
        until("the app serves", || {
            platform.try_get(app, "/").ok().filter(|a| a.status == 200 && a.text() == hello)
        });
    }
    let seconds = begun.elapsed().as_secs_f64();
    let failed: Vec<String> = probers.iter().flat_map(Prober::failures).collect();
    let wrong: Vec<&String> = failed.iter().filter(|f| f.contains("WRONG")).collect();
    assert!(wrong.is_empty(), "a request reached the wrong app: {wrong:?}");
    if live_restore {
        assert!(failed.is_empty(), "{failed:?}");
    }
    let asked: u64 = probers.iter().map(Prober::asked).sum();
    // And it goes on from there.
    platform.ok(&["restart", "--app", APPS[0]]);
    until("the old instances are gone", || {
        (instances(&platform).len() == APPS.len() + 1).then_some(())
    });
    let late: Vec<String> = probers.iter().flat_map(Prober::failures).collect();
    assert!(late.iter().all(|f| !f.contains("WRONG")), "{late:?}");
    let live = if live_restore { "with" } else { "without" };
    tell(&format!(
        "engine back after {signal}, {live} live-restore: {} instances at their addresses in \
         {seconds:.1} s; {asked} requests, {} failed, none at the wrong app",
        before.len(),
        failed.len(),
    ));
}

/// A deployment that is that far when the engine goes away, for a moment; how it ended.
fn deployed_over(platform: &Platform, engine: &mut Beside, when: &str, signal: &str) -> Said {
    let folder = fixture(&[("FIXTURE_MODE", "slow"), ("FIXTURE_DELAY_MS", "2000"), ("W", when)]);
    let child = platform
        .mini(&deploy(folder.path(), APPS[0]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the deployment is that far", || {
        let deploys = platform.json(&["deploys", "--app", APPS[0]]);
        let status = deploys["deployments"][0]["status"].as_str()?.to_owned();
        (status == when || status == "starting").then_some(())
    });
    engine.down(signal);
    until("its absence is seen", || (health(platform) == "degraded").then_some(()));
    engine.up();
    Said::from(child.wait_with_output().unwrap())
}

#[test]
fn a_deploy_goes_on_over_an_engine_that_restarts_or_says_why_not() {
    let mut engine = Beside::start(true);
    let platform = Platform::start_beside(&engine, &["--drain-s", "1", "--grace-s", "1"]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), APPS[0]));
    let prober = Prober::start(platform.port, APPS[0]);
    let said = deployed_over(&platform, &mut engine, "starting", "TERM");
    assert!(said.code == 0 && said.out.contains("Your app is live at"), "{said:?}");
    assert_eq!(platform.get(APPS[0], "/env").json()["W"], "starting");
    // A build is the engine's, and ends with it.
    let said = deployed_over(&platform, &mut engine, "building", "KILL");
    let serves = platform.get(APPS[0], "/env").json()["W"].clone();
    if said.code == 0 {
        assert_eq!(serves, "building");
    } else {
        let told = said.err.contains("error: ") && said.err.contains("hint: ");
        assert!(told && said.err.contains("ngine"), "{said:?}");
        assert_eq!(serves, "starting", "the old release serves");
    }
    until("one instance is left", || (instances(&platform).len() == 1).then_some(()));
    let failures = prober.failures();
    assert!(failures.is_empty(), "{failures:?}");
    let built = if said.code == 0 { "went on" } else { "failed and said why" };
    tell(&format!("engine restarted in a rollout: it went on; killed in a build: it {built}"));
}

#[test]
fn an_engine_that_stopped_brings_every_app_back() {
    comes_back(false, "TERM");
}

#[test]
fn an_engine_that_was_killed_brings_every_app_back() {
    comes_back(false, "KILL");
}

#[test]
fn an_engine_that_stopped_with_live_restore_drops_no_request() {
    comes_back(true, "TERM");
}

#[test]
fn an_engine_that_was_killed_with_live_restore_drops_no_request() {
    comes_back(true, "KILL");
}
