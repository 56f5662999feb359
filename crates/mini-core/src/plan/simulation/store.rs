//! The store: every method is one transaction, and nothing is ever lost.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::id::{DeploymentId, InstanceId};
use crate::name::ProcessType;
use crate::plan::{Desired, Intent, Rollout};
use crate::release::{HealthSpec, Limits, ProcessSpec, ReleaseSpec, Strategy, Timing};
use crate::rules::Rules;
use crate::time::Millis;

pub(super) const TIMING: Timing =
    Timing { boot_timeout_ms: 8_000, drain_ms: 4_000, grace_ms: 2_000, release_ms: 20_000 };
const SUBNETS: u32 = 3;
/// Few, so that addresses come round soon.
const HOSTS: u32 = 12;

/// How a release behaves when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Good,
    /// Listens, and crashes now and then.
    Flaky,
    /// Runs and never listens.
    Deaf,
    /// Listens only after its boot timeout.
    Slow,
    /// Exits before it listens.
    Exits,
    /// The engine refuses to start it, for good.
    Refused,
}

impl Nature {
    pub(super) fn listens(self) -> bool {
        matches!(self, Self::Good | Self::Flaky | Self::Slow)
    }
}

/// What a release's own command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    None,
    Works,
    Fails,
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Deploy {
        nature: Nature,
        workers: u32,
        command: Command,
        alone: bool,
    },
    /// A restart, or a start of a stopped app.
    Again,
    Rollback(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Queued,
    Building,
    Starting,
    Live,
    Failed,
    Cancelled,
    Superseded,
}

#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) id: DeploymentId,
    pub(super) kind: Kind,
    pub(super) status: Status,
    pub(super) release: Option<u32>,
    pub(super) finished: bool,
    /// It was live at some time.
    pub(super) committed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Release {
    pub(super) nature: Nature,
    pub(super) command: Command,
    /// Its command went well.
    pub(super) prepared: bool,
    pub(super) spec: Arc<ReleaseSpec>,
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) number: u32,
    pub(super) desired: Desired,
    pub(super) subnet: u32,
    cursor: u32,
    pub(super) live_release: Option<u32>,
    pub(super) live: Option<DeploymentId>,
    formation: BTreeMap<ProcessType, u32>,
    /// Starts of instances that the user wants replaced.
    pub(super) replace: BTreeMap<InstanceId, Millis>,
    pub(super) releases: Vec<Release>,
    pub(super) deployments: Vec<Deployment>,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) app: Option<App>,
    apps_made: u32,
    subnet_cursor: u32,
    deployments_made: u32,
}

pub(super) fn worker() -> ProcessType {
    "worker".parse().unwrap()
}

pub(super) fn spec(workers: u32) -> Arc<ReleaseSpec> {
    let own = |count| ProcessSpec { command: None, count, limits: Limits::default() };
    Arc::new(ReleaseSpec {
        image: "sha256:1".into(),
        port: 8080,
        processes: [(ProcessType::web(), own(1)), (worker(), own(workers))].into(),
        health: HealthSpec::default(),
        timing: TIMING,
        release_command: None,
        strategy: Strategy::Rolling,
        volumes: Vec::new(),
        rules: Rules::default(),
        password_vars: BTreeMap::new(),
    })
}

impl Store {
    /// Makes the app, in the next subnet that nothing is left in.
    pub(super) fn create(&mut self, in_use: impl Fn(u32) -> bool) -> bool {
        let next = (0..SUBNETS).map(|n| (self.subnet_cursor + n) % SUBNETS).find(|n| !in_use(*n));
        let (None, Some(subnet)) = (&self.app, next) else { return false };
        self.subnet_cursor = subnet + 1;
        self.apps_made += 1;
        self.app = Some(App {
            number: self.apps_made,
            desired: Desired::Run,
            subnet,
            cursor: 0,
            live_release: None,
            live: None,
            formation: BTreeMap::new(),
            replace: BTreeMap::new(),
            releases: Vec::new(),
            deployments: Vec::new(),
        });
        true
    }

    pub(super) fn enqueue(&mut self, kind: Kind) -> bool {
        let Some(app) = self.app.as_mut().filter(|a| a.desired != Desired::Destroy) else {
            return false;
        };
        for waiting in app.deployments.iter_mut().filter(|d| d.status == Status::Queued) {
            (waiting.status, waiting.finished) = (Status::Superseded, true);
        }
        self.deployments_made += 1;
        let id = format!("d{}", self.deployments_made).parse().unwrap();
        let (status, release) = (Status::Queued, None);
        app.deployments.push(Deployment {
            id,
            kind,
            status,
            release,
            finished: false,
            committed: false,
        });
        true
    }

    /// The next deployment to prepare: one at a time, and none while one is rolled out.
    pub(super) fn due(&mut self) -> Option<DeploymentId> {
        let app = self.app.as_mut().filter(|a| a.desired != Desired::Destroy)?;
        if app.deployments.iter().any(|d| d.status == Status::Starting) {
            return None;
        }
        let building = app.deployments.iter().position(|d| d.status == Status::Building);
        let queued = || app.deployments.iter().position(|d| d.status == Status::Queued);
        let next = building.or_else(queued)?;
        app.deployments[next].status = Status::Building;
        Some(app.deployments[next].id.clone())
    }

    /// What was prepared becomes the candidate.
    pub(super) fn roll_out(&mut self, id: &DeploymentId) -> bool {
        let Some(app) = self.app.as_mut() else { return false };
        let live = app.live_release;
        let Some(d) = app.deployments.iter_mut().find(|d| d.id == *id && !d.finished) else {
            return false;
        };
        let made = match d.kind {
            Kind::Deploy { nature, workers, command, alone } => {
                let mut spec = spec(workers);
                let own = Arc::make_mut(&mut spec);
                own.release_command = (command != Command::None).then(Vec::new);
                own.strategy = if alone { Strategy::Recreate } else { Strategy::Rolling };
                Some(Release { nature, command, prepared: false, spec })
            }
            Kind::Rollback(to) => {
                let old = app.releases.get(to as usize - 1);
                old.map(|r| Release { prepared: false, ..r.clone() })
            }
            Kind::Again => None,
        };
        match made {
            Some(release) => {
                app.releases.push(release);
                d.release = Some(app.releases.len() as u32);
            }
            None => d.release = live,
        }
        if d.release.is_none() {
            return self.finish(id, Status::Failed);
        }
        d.status = Status::Starting;
        app.desired = Desired::Run;
        true
    }

    pub(super) fn prepared(&mut self, id: &DeploymentId) {
        let Some(app) = self.app.as_mut() else { return };
        if let Some(number) = app.deployment(id).and_then(|d| d.release) {
            app.releases[number as usize - 1].prepared = true;
        }
    }

    pub(super) fn finish(&mut self, id: &DeploymentId, status: Status) -> bool {
        let Some(app) = self.app.as_mut() else { return false };
        let Some(d) = app.deployments.iter_mut().find(|d| d.id == *id && !d.finished) else {
            return false;
        };
        (d.status, d.finished) = (status, true);
        // An app that was stopped, and whose start came to nothing, is stopped as before.
        let idle = app.live.is_none() && app.live_release.is_some();
        let busy = app.deployments.iter().any(|d| !d.finished);
        if status != Status::Live && idle && !busy && app.desired == Desired::Run {
            app.desired = Desired::Stop;
        }
        true
    }

    pub(super) fn cancel(&mut self, id: &DeploymentId) -> bool {
        let live = self.app.as_ref().and_then(|a| a.live.as_ref());
        live != Some(id) && self.finish(id, Status::Cancelled)
    }

    pub(super) fn commit(&mut self, id: &DeploymentId) -> bool {
        let Some(app) = self.app.as_mut() else { return false };
        let Some(d) = app.deployments.iter_mut().find(|d| d.id == *id && !d.finished) else {
            return false;
        };
        d.committed = true;
        (app.live_release, app.live) = (d.release, Some(d.id.clone()));
        true
    }

    /// The user stops or destroys the app.
    pub(super) fn end(&mut self, desired: Desired) -> bool {
        let Some(app) = self.app.as_mut().filter(|a| a.desired != Desired::Destroy) else {
            return false;
        };
        if desired == Desired::Stop && app.live_release.is_none() {
            return false;
        }
        for d in app.deployments.iter_mut().filter(|d| !d.finished) {
            let is_live = app.live.as_ref() == Some(&d.id);
            d.status = if is_live { Status::Live } else { Status::Cancelled };
            d.finished = true;
        }
        (app.desired, app.live) = (desired, None);
        true
    }

    pub(super) fn scale(&mut self, process: ProcessType, count: u32) -> bool {
        let Some(app) = self.app.as_mut().filter(|a| a.live_release.is_some()) else {
            return false;
        };
        app.formation.insert(process, count);
        true
    }

    /// The next address of the app's subnet, round robin; the new position is stored.
    pub(super) fn take_address(&mut self, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let app = self.app.as_mut()?;
        let host = |n: u32| Ipv4Addr::new(10, 210, app.subnet as u8, 2 + (n % HOSTS) as u8);
        let next = (app.cursor..app.cursor + HOSTS).find(|n| !taken(host(*n)))?;
        let address = host(next);
        app.cursor = (next + 1) % HOSTS;
        Some(address)
    }

    pub(super) fn intent(&self) -> Option<Intent> {
        let app = self.app.as_ref()?;
        let live = app.live.as_ref().zip(app.live_release);
        let rolling = app.deployments.iter().rev().find(|d| d.status == Status::Starting);
        let rolling = rolling.filter(|_| app.desired == Desired::Run);
        let (unannounced, candidate) = match rolling {
            Some(d) if app.live.as_ref() == Some(&d.id) => (Some(d.id.clone()), None),
            Some(d) => (None, d.release.map(|n| app.rollout(&d.id, n))),
            None => (None, None),
        };
        Some(Intent {
            app: "blue".parse().unwrap(),
            desired: app.desired,
            live: live.map(|(id, number)| app.rollout(id, number)),
            candidate,
            unannounced,
            released: app.live_release.is_some(),
            timing: TIMING,
            hosts: Vec::new(),
            maintenance: false,
            pages: Vec::new(),
            replace: app.replace.clone(),
        })
    }
}

impl App {
    fn rollout(&self, id: &DeploymentId, number: u32) -> Rollout {
        let mut spec = Arc::clone(&self.releases[number as usize - 1].spec);
        for (process, count) in &self.formation {
            if spec.count(process) != *count
                && let Some(own) = Arc::make_mut(&mut spec).processes.get_mut(process)
            {
                own.count = *count;
            }
        }
        let prepared = self.releases[number as usize - 1].prepared;
        Rollout { id: id.clone(), release: number, spec, prepared }
    }

    /// Whether the live rollout is to have instances of `process`, of which a release wants some.
    pub(super) fn wants(&self, process: &ProcessType) -> bool {
        self.desired == Desired::Run
            && self.live.is_some()
            && self.formation.get(process) != Some(&0)
    }

    pub(super) fn deployment(&self, id: &DeploymentId) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.id == *id)
    }

    /// Whether what is live stops before the candidate starts.
    pub(super) fn makes_way(&self) -> bool {
        let alone = |number: u32| self.releases[number as usize - 1].spec.recreates();
        let rolling = self.deployments.iter().find(|d| d.status == Status::Starting);
        let candidate = rolling.filter(|d| self.live.as_ref() != Some(&d.id));
        let candidate = candidate.and_then(|d| d.release);
        candidate.is_some_and(|c| alone(c) || self.live_release.is_some_and(alone))
    }

    pub(super) fn command(&self, release: u32) -> Command {
        self.releases[release as usize - 1].command
    }

    pub(super) fn nature(&self, release: u32) -> Nature {
        self.releases[release as usize - 1].nature
    }
}
