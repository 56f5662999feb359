//! What is done to the platform while its controller dies, and what must be true afterwards.

use mini_core::ports::Runtime;

use super::cases::Operation;
use super::stage::{APP, OTHER, Other, Stage};
use crate::http;
use crate::platform::{Platform, block_on, until};
use crate::prober::Prober;

impl Stage {
    /// Does it, and returns what must be true once the controller has died and come back.
    pub(super) fn perform(&mut self, operation: Operation) -> Box<dyn FnOnce(&mut Self) -> String> {
        let platform = &self.platform;
        match operation {
            Operation::Deploy => {
                self.changed(&[]);
                let said = self.platform.ok(&["deploy", &self.source(), "--app", APP]);
                assert!(said.out.contains("Your app is live at"), "{said:?}");
                self.newest_is("live", Some(self.number))
            }
            Operation::SameSource => {
                let said = platform.ok(&["deploy", &self.source(), "--app", APP]);
                assert!(said.out.contains("Your app is live at"), "{said:?}");
                self.newest_is("live", Some(self.number))
            }
            Operation::FirstDeploy => {
                self.changed(&[]);
                let said = self.platform.ok(&["deploy", &self.source(), "--app", OTHER]);
                assert!(said.out.contains("Your app is live at"), "{said:?}");
                Box::new(|stage| {
                    let text = stage.platform.get(OTHER, "/").text();
                    assert_eq!(text.trim(), "hello from other v1");
                    stage.platform.ok(&["apps", "destroy", OTHER, "--yes"]);
                    "v1 live".into()
                })
            }
            Operation::BadDeploy => {
                self.changed(&[("FIXTURE_MODE", "exit")]);
                let said = self.platform.fails(&["deploy", &self.source(), "--app", APP]);
                assert_eq!(said.code, 1, "{said:?}");
                assert!(said.err.contains("fatal: no database"), "the reason is told: {said:?}");
                self.newest_is("failed", None)
            }
            Operation::Cancel => {
                self.changed(&[("FIXTURE_MODE", "never")]);
                let folder = self.source();
                let said = self.platform.ok(&["deploy", &folder, "--app", APP, "--no-wait"]);
                let id = said.out.trim();
                until("the deployment starts", || {
                    let newest = newest(&self.platform, APP);
                    (newest["status"] == "starting").then_some(())
                });
                self.platform.ok(&["deploys", "cancel", id]);
                self.newest_is("cancelled", None)
            }
            Operation::Rollback => {
                platform.ok(&["rollback", "--app", APP]);
                self.newest_is("live", None)
            }
            Operation::SetEnv => {
                self.number += 1;
                let number = self.number;
                self.platform.ok(&["env", "set", &format!("SET={number}"), "--app", APP]);
                Box::new(move |stage| {
                    let env = stage.platform.get(APP, "/env").json();
                    assert_eq!(env["SET"], number.to_string());
                    stage.newest_is("live", None)(stage)
                })
            }
            Operation::StageEnv => {
                self.number += 1;
                let pair = format!("STAGED={}", self.number);
                self.platform.ok(&["env", "set", &pair, "--stage", "--app", APP]);
                Box::new(move |stage| {
                    let list = stage.platform.ok(&["env", "list", "--app", APP]);
                    let (_, value) = pair.split_once('=').unwrap();
                    assert!(list.out.contains(value), "{list:?}");
                    stage.platform.ok(&["env", "unset", "STAGED", "--stage", "--app", APP]);
                    "kept".into()
                })
            }
            Operation::AddDomain => {
                self.number += 1;
                let name = format!("n{}.crash.test", self.number);
                self.platform.ok(&["domains", "add", &name, "--app", APP]);
                Box::new(move |stage| {
                    let what = ("GET", "/");
                    let answer = http::request(stage.platform.port, &name, what, &[], b"").unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    stage.platform.ok(&["domains", "remove", &name, "--app", APP]);
                    "routed".into()
                })
            }
            Operation::Restart => {
                platform.ok(&["restart", "--app", APP]);
                self.newest_is("live", None)
            }
            Operation::ReplaceOne => {
                let before = platform.json(&["ps", "--app", APP])["instances"][0]["id"].clone();
                platform.ok(&["ps", "restart", "web.1", "--app", APP]);
                Box::new(move |stage| {
                    stage.until_up(1);
                    let now = stage.platform.json(&["ps", "--app", APP])["instances"][0].clone();
                    assert_ne!(now["id"], before, "another one");
                    "another one".into()
                })
            }
            Operation::ReleaseCommand => {
                self.changed(&[]);
                let procfile = self.source.path().join("Procfile");
                std::fs::write(&procfile, "web: /app\nrelease: /app release\n").unwrap();
                self.platform.ok(&["deploy", &self.source(), "--app", APP]);
                std::fs::remove_file(procfile).unwrap();
                self.newest_is("live", Some(self.number))
            }
            Operation::AddVolume => {
                platform.ok(&["volumes", "add", "data:/data", "--app", OTHER]);
                Box::new(|stage| {
                    let platform = &stage.platform;
                    platform.get(OTHER, "/write?path=/data/file&text=kept");
                    platform.ok(&["restart", "--app", OTHER]);
                    stage.other_kept_its_data()
                })
            }
            Operation::Recreate => {
                self.changed(&[]);
                // Held while neither release runs, also over a controller that dies meanwhile.
                let prober = Prober::start(self.platform.port, OTHER);
                self.platform.ok(&["deploy", &self.source(), "--app", OTHER]);
                Box::new(move |stage| {
                    let asked = prober.asked();
                    until("requests are answered", || (prober.asked() > asked + 3).then_some(()));
                    let failures = prober.failures();
                    assert!(failures.is_empty(), "{failures:?}");
                    drop(prober);
                    stage.other_kept_its_data()
                })
            }
            Operation::DestroyWithVolumes => {
                platform.ok(&["apps", "destroy", OTHER, "--with-volumes", "--yes"]);
                Box::new(|stage| {
                    stage.platform.fails(&["apps", "info", OTHER]);
                    stage.other = Other::None;
                    stage.until_no_volume();
                    "gone".into()
                })
            }
            Operation::ScaleUp => {
                platform.ok(&["scale", "web=2", "--app", APP]);
                Box::new(|stage| {
                    stage.until_up(2);
                    stage.platform.ok(&["scale", "web=1", "--app", APP]);
                    "2 up".into()
                })
            }
            Operation::ScaleDown => {
                platform.ok(&["scale", "web=1", "--app", APP]);
                Box::new(|stage| {
                    stage.until_up(1);
                    "1 up".into()
                })
            }
            Operation::InstanceDies => {
                let docker = platform.engine(&platform.server_id());
                let instances = block_on(docker.observe()).unwrap();
                block_on(docker.stop(instances[0].id.clone(), 1000)).unwrap();
                Box::new(|stage| {
                    stage.until_up(2);
                    stage.platform.ok(&["scale", "web=1", "--app", APP]);
                    "up again".into()
                })
            }
            Operation::Stop => {
                platform.ok(&["stop", "--app", OTHER]);
                Box::new(|stage| {
                    let app = stage.platform.json(&["apps", "info", OTHER]);
                    assert_eq!(app["state"], "stopped", "{app}");
                    stage.platform.ok(&["apps", "destroy", OTHER, "--yes"]);
                    "stopped".into()
                })
            }
            Operation::Destroy => {
                platform.ok(&["apps", "destroy", OTHER, "--yes"]);
                Box::new(|stage| {
                    stage.platform.fails(&["apps", "info", OTHER]);
                    "gone".into()
                })
            }
            Operation::ControllerStarts => {
                platform.kill_controller();
                Box::new(|stage| {
                    stage.platform.ok(&["apps"]);
                    "up".into()
                })
            }
        }
    }

    /// The newest deployment ended like that, what the API says of it is true, and what serves is
    /// what it says.
    fn newest_is(
        &self,
        status: &'static str,
        number: Option<u32>,
    ) -> Box<dyn FnOnce(&mut Self) -> String> {
        Box::new(move |stage| {
            let platform = &stage.platform;
            let newest = newest(platform, APP);
            assert_eq!(newest["status"], status, "{newest}");
            let cause = newest["cause"]["message"].as_str().unwrap_or_default();
            assert_eq!(status == "failed", !cause.is_empty(), "{newest}");
            let release = platform.json(&["apps", "info", APP])["release"].clone();
            let serves = format!("hello from {APP} {}", release.as_str().unwrap());
            assert_eq!(platform.get(APP, "/").text().trim(), serves);
            if status == "live" {
                assert_eq!(newest["release"], release, "{newest}");
            } else {
                assert_ne!(newest["release"], release, "{newest}");
            }
            if let Some(number) = number {
                assert_eq!(platform.get(APP, "/env").json()["NUMBER"], number.to_string());
            }
            let said = if cause.is_empty() { release.as_str().unwrap() } else { cause };
            format!("{status}: {said}")
        })
    }

    fn other_kept_its_data(&mut self) -> String {
        let platform = &self.platform;
        assert_eq!(platform.get(OTHER, "/read?path=/data/file").text(), "kept");
        self.other = Other::WithVolume;
        "data kept".into()
    }

    fn until_no_volume(&self) {
        let docker = self.platform.engine(&self.platform.server_id());
        until("no volume is left", || block_on(docker.volumes()).unwrap().is_empty().then_some(()));
    }

    fn until_up(&self, count: usize) {
        until("as many are up as are wanted", || {
            let ps = self.platform.json(&["ps", "--app", APP]);
            let instances = ps["instances"].as_array()?;
            let up = instances.iter().filter(|i| i["state"] == "up").count();
            (up == count && instances.len() == count).then_some(())
        });
    }
}

fn newest(platform: &Platform, app: &str) -> serde_json::Value {
    platform.json(&["deploys", "--app", app])["deployments"][0].clone()
}
