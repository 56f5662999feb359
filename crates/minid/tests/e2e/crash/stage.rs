//! One platform that the controller dies on, again and again.

use std::path::PathBuf;

use mini_core::ports::Runtime;

use super::cases::Operation;
use crate::platform::{PATIENCE, Platform, block_on, deploy, fixture, soak, until, write_fixture};
use crate::prober::Prober;

/// The app that is asked without pause.
pub(super) const APP: &str = "app";
/// The one that comes and goes.
pub(super) const OTHER: &str = "other";
/// Where a request has changed something and has not answered yet.
const IN_A_REQUEST: [&str; 9] = [
    "source.stored",
    "apps.created",
    "queue.stored",
    "cancel.stored",
    "scale.stored",
    "env.staged",
    "route.stored",
    "replace.stored",
    "apps.desired",
];
/// From the third death in a minute on the controller's parent makes it wait.
const DEATHS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    None,
    /// With something written in it.
    WithVolume,
}

pub(super) struct Stage {
    pub(super) platform: Platform,
    faults: PathBuf,
    pub(super) source: tempfile::TempDir,
    /// Makes each source another one.
    pub(super) number: u32,
    deaths: u32,
    /// What the last operation left of the app that comes and goes.
    pub(super) other: Other,
    pub(super) prober: Prober,
}

impl Stage {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let faults = folder.path().join("faults");
        std::fs::create_dir(&faults).unwrap();
        let named = faults.to_str().unwrap().to_owned();
        let times = if soak() { "30" } else { "1" };
        let flags = ["--drain-s", times, "--grace-s", times];
        let platform = Platform::start_in(folder, &flags, &[("MINID_FAULTS", &named)]);
        let source = fixture(&[("NUMBER", "0")]);
        platform.ok(&deploy(source.path(), APP));
        // So that a rollback has somewhere to go to.
        platform.ok(&["env", "set", "SECOND=1", "--app", APP]);
        let prober = Prober::start(platform.port, APP);
        let other = Other::None;
        Self { platform, faults, source, number: 0, deaths: 0, other, prober }
    }

    /// Does the operation; the controller dies at the point. Says how it ended.
    pub(super) fn act(&mut self, point: &str, operation: Operation) -> String {
        if self.deaths >= DEATHS {
            self.fresh_start();
        }
        self.deaths += 1;
        self.prepare(operation);
        let unanswered = self.unanswered();
        std::fs::write(self.faults.join(point), "").unwrap();
        let outcome = self.perform(operation);
        let hit = self.faults.join(format!("{point}.hit"));
        until(&format!("{point} was passed"), || hit.exists().then_some(()));
        std::fs::remove_file(hit).unwrap();
        let outcome = outcome(self);
        self.settled();
        if IN_A_REQUEST.contains(&point) {
            assert_eq!(self.unanswered(), unanswered + 1, "the change is not in the audit trail");
        }
        outcome
    }

    /// The changes that the audit trail has of requests whose controller died.
    fn unanswered(&self) -> usize {
        let trail = self.platform.json(&["audit", "-n", "1000"]);
        trail["entries"].as_array().unwrap().iter().filter(|e| e["status"] == 0).count()
    }

    /// A new parent has counted no deaths yet.
    fn fresh_start(&mut self) {
        self.prober.pause();
        self.platform.down();
        self.platform.up();
        self.prober.go_on();
        self.deaths = 0;
    }

    pub(super) fn changed(&mut self, more: &[(&str, &str)]) {
        self.number += 1;
        let number = self.number.to_string();
        let mut all = vec![("NUMBER", number.as_str())];
        all.extend(more);
        write_fixture(self.source.path(), &all);
    }

    pub(super) fn source(&self) -> String {
        self.source.path().to_str().unwrap().to_owned()
    }

    fn prepare(&mut self, operation: Operation) {
        match operation {
            Operation::ScaleDown | Operation::InstanceDies => {
                self.platform.ok(&["scale", "web=2", "--app", APP]);
            }
            Operation::SameSource => {
                self.changed(&[]);
                self.platform.ok(&["deploy", &self.source(), "--app", APP]);
            }
            Operation::FirstDeploy => self.without_other(),
            Operation::Destroy | Operation::Stop | Operation::AddVolume => {
                self.without_other();
                self.changed(&[]);
                self.platform.ok(&["deploy", &self.source(), "--app", OTHER]);
            }
            Operation::Recreate | Operation::DestroyWithVolumes => self.other_with_volume(),
            _ => {}
        }
        self.settled();
    }

    fn without_other(&mut self) {
        if self.other == Other::WithVolume {
            self.platform.ok(&["apps", "destroy", OTHER, "--with-volumes", "--yes"]);
            self.other = Other::None;
        }
    }

    fn other_with_volume(&mut self) {
        if self.other == Other::None {
            self.changed(&[]);
            self.platform.ok(&["deploy", &self.source(), "--app", OTHER]);
            self.platform.ok(&["volumes", "add", "data:/data", "--app", OTHER]);
            self.platform.get(OTHER, "/write?path=/data/file&text=kept");
            self.other = Other::WithVolume;
        }
    }

    /// Nothing is under way, and on the engine is what should be there and nothing else.
    fn settled(&self) {
        let apps = self.platform.json(&["apps"]);
        let apps = apps["apps"].as_array().unwrap();
        let docker = self.platform.engine(&self.platform.server_id());
        let mut wanted = 0;
        for app in apps {
            let name = app["name"].as_str().unwrap();
            let formation = self.platform.json(&["scale", "--app", name]);
            let counts = formation["counts"].as_object().unwrap();
            wanted += counts.values().map(|n| n.as_u64().unwrap()).sum::<u64>() as usize;
            let deploys = self.platform.json(&["deploys", "--app", name]);
            for deployment in deploys["deployments"].as_array().unwrap() {
                assert!(deployment["finished_at"].is_string(), "{name}: {deployment}");
            }
            let releases = self.platform.json(&["releases", "--app", name]);
            let live =
                releases["releases"].as_array().unwrap().iter().filter(|r| r["live"] == true);
            assert!(live.count() <= 1, "{releases}");
        }
        let mut left = Vec::new();
        let begun = std::time::Instant::now();
        loop {
            left.clear();
            let instances = block_on(docker.observe()).unwrap();
            left.extend(instances.iter().map(|i| format!("{} {:?}", i.label(), i.state)));
            let all_run = instances.iter().all(|i| i.state.is_running());
            let networks = block_on(docker.networks()).unwrap().len();
            if left.len() == wanted && all_run && networks == apps.len() {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{wanted} instances and {} networks are wanted; there are {left:?} and {networks}",
                apps.len()
            );
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
    }

    /// Destroys the app, and the controller dies before it clears up after it. Nothing wakes the
    /// next one but its own start; of this server nothing is left on the engine all the same.
    pub(super) fn end(mut self) {
        self.without_other();
        drop(self.prober);
        std::fs::write(self.faults.join("collect.begun"), "").unwrap();
        self.platform.ok(&["apps", "destroy", APP, "--yes"]);
        let hit = self.faults.join("collect.begun.hit");
        until("the controller died", || hit.exists().then_some(()));
        until("nothing is left on the engine", || {
            (self.platform.left_on_engine() == (0, 0, 0)).then_some(())
        });
        let docker = self.platform.engine(&self.platform.server_id());
        assert!(block_on(docker.volumes()).unwrap().is_empty(), "a volume is left");
        let parts = std::fs::read_dir(self.platform.data().join("sources")).unwrap().flatten();
        let parts: Vec<_> = parts.map(|e| e.file_name()).collect();
        let is_part = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".part");
        assert!(!parts.iter().any(is_part), "an upload left its part: {parts:?}");
    }
}
