//! `kill -9` of the proxy: its parent holds the listening socket, so that connections wait for the
//! next one. What was in flight is lost with the process, and nothing else is.

use std::process::Stdio;

use mini_core::ports::Runtime;

use super::tell;
use crate::platform::{Platform, block_on, deploy, fixture, kill, until, write_fixture};
use crate::prober::Prober;
use crate::said::Said;

/// Each has one request in flight at most.
const CLIENTS: usize = 4;

struct Load {
    probers: Vec<Prober>,
    lost: usize,
}

impl Load {
    fn start(platform: &Platform) -> Self {
        let probers = (0..CLIENTS).map(|_| Prober::start(platform.port, "app"));
        Self { probers: probers.collect(), lost: 0 }
    }

    fn asked(&self) -> u64 {
        self.probers.iter().map(Prober::asked).sum()
    }

    /// Every client got answers again, and lost what it had in flight at the most.
    fn goes_on(&mut self, kills: usize) {
        for prober in &self.probers {
            let before = prober.asked();
            until("requests are answered again", || (prober.asked() > before + 5).then_some(()));
            let failures = prober.failures();
            assert!(failures.len() <= kills, "{failures:?}");
            for failure in &failures {
                let broke = ["closed without an answer", "closed within", "reset by peer"];
                assert!(broke.iter().any(|how| failure.contains(how)), "{failures:?}");
            }
            self.lost += failures.len();
        }
    }
}

fn kill_proxy(platform: &Platform) {
    let pid = platform.pid_of("proxy");
    kill(pid, "KILL");
    until("another proxy is there", || (platform.pid_of("proxy") != pid).then_some(()));
}

#[test]
fn a_proxy_that_is_killed_under_load_loses_what_was_in_flight_and_nothing_else() {
    let platform = Platform::start_with(&["--drain-s", "1", "--grace-s", "1"], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let mut load = Load::start(&platform);
    for _ in 0..3 {
        kill_proxy(&platform);
        load.goes_on(1);
    }
    let steady = (load.asked(), load.lost);
    // During a rollout: while it is built, while its instance boots, and while the old one drains.
    let mut rollouts = 0;
    for when in ["building", "starting", "live"] {
        let (mode, delay) = (("FIXTURE_MODE", "slow"), ("FIXTURE_DELAY_MS", "1500"));
        write_fixture(folder.path(), &[mode, delay, ("WHEN", when)]);
        let child = platform
            .mini(&deploy(folder.path(), "app"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        until("the deployment is that far", || {
            // The proxy itself may be on its way back from the last time.
            let said = platform.mini(&["--json", "deploys", "--app", "app"]).output().unwrap();
            let deploys: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
            let newest = &deploys["deployments"][0];
            let there = newest["status"] == when || newest["status"] == "live";
            (there && deploys["deployments"].as_array()?.len() == rollouts + 2).then_some(())
        });
        rollouts += 1;
        kill_proxy(&platform);
        let said = Said::from(child.wait_with_output().unwrap());
        assert_eq!(said.code, 0, "killed while {when}: {said:?}\n{}", platform.log());
        assert!(said.out.contains("Your app is live at"), "{said:?}");
        load.goes_on(1);
        assert_eq!(platform.get("app", "/env").json()["WHEN"], when);
    }
    let docker = platform.engine(&platform.server_id());
    until("the old instances are gone", || {
        (block_on(docker.observe()).unwrap().len() == 1).then_some(())
    });
    load.goes_on(0);
    tell(&format!(
        "proxy killed: 3 times under steady load ({} requests, {} lost in flight), {rollouts} times \
         in a rollout ({} requests, {} lost in flight)",
        steady.0,
        steady.1,
        load.asked() - steady.0,
        load.lost - steady.1,
    ));
}
