//! Golden tests: one situation, one plan.

mod checks;
mod one_offs;

use super::*;
use crate::release::{HealthSpec, Limits, ProcessSpec, Strategy, Timing};
use crate::route::WebState;
use crate::rules::{Rules, User};

fn spec(counts: &[(&str, u32)]) -> Arc<ReleaseSpec> {
    let process = |count| ProcessSpec { command: None, count, limits: Limits::default() };
    Arc::new(ReleaseSpec {
        image: "sha256:1".into(),
        port: 8080,
        processes: counts.iter().map(|(p, n)| (p.parse().unwrap(), process(*n))).collect(),
        health: HealthSpec::default(),
        timing: Timing { grace_ms: 10_000, ..Timing::default() },
        release_command: None,
        strategy: Strategy::Rolling,
        volumes: Vec::new(),
        rules: Rules::default(),
        password_vars: BTreeMap::new(),
    })
}

fn rollout(id: &str, counts: &[(&str, u32)]) -> Rollout {
    Rollout { id: id.parse().unwrap(), release: 1, spec: spec(counts), prepared: true }
}

fn instance(id: &str, rollout: &str, process: &str, state: InstanceState) -> Instance {
    Instance {
        id: id.parse().unwrap(),
        app: "blue".parse().unwrap(),
        rollout: rollout.parse().unwrap(),
        release: 1,
        process: process.parse().unwrap(),
        ordinal: 1,
        address: Some("10.210.0.2".parse().unwrap()),
        port: Some(8080),
        alone: false,
        one_off: None,
        state,
    }
}

const UP: InstanceState = InstanceState::Running { since: Millis(1000) };
const EXITED: InstanceState = InstanceState::Exited { code: 1, oom: false, at: Millis(5000) };

struct World {
    intent: Intent,
    instances: Vec<Instance>,
    proxy: ProxyView,
    notes: Notes,
}

impl World {
    fn new(live: Option<Rollout>, candidate: Option<Rollout>, instances: Vec<Instance>) -> Self {
        let released = live.is_some();
        let timing = live.as_ref().map(|l| l.spec.timing.clone()).unwrap_or_default();
        let intent = Intent {
            app: "blue".parse().unwrap(),
            desired: Desired::Run,
            live,
            candidate,
            unannounced: None,
            released,
            timing,
            hosts: vec![],
            maintenance: false,
            pages: Vec::new(),
            replace: BTreeMap::new(),
        };
        let proxy = ProxyView { connected: true, ..ProxyView::default() };
        Self { intent, instances, proxy, notes: Notes::default() }
    }

    fn healthy(mut self, ids: &[&str]) -> Self {
        for id in ids {
            self.proxy.health.insert(id.parse().unwrap(), (Millis(1000), Verdict::Healthy));
        }
        self
    }

    fn plan(&mut self, now: u64) -> Plan {
        self.notes.saw(&self.instances);
        self.notes.meant(&self.intent, Millis(now));
        self.notes.heard(&self.proxy, Millis(now));
        let observed =
            Observed { instances: Some(&self.instances), proxy: &self.proxy, notes: &self.notes };
        let plan = plan(&self.intent, observed, Millis(now));
        self.notes.planned(plan.route.as_ref().unwrap(), Millis(now));
        plan
    }

    /// As if the proxy had taken the route and written it down.
    fn sent(&mut self, plan: &Plan) {
        self.proxy.sent = plan.route.clone();
        self.proxy.sent_is_applied = true;
        self.proxy.sent_is_durable = true;
    }
}

fn roles(plan: &Plan) -> Vec<(String, Role)> {
    let route = plan.route.as_ref().unwrap();
    route.targets.iter().map(|t| (t.instance.to_string(), t.role)).collect()
}

fn web_state(plan: &Plan) -> WebState {
    plan.route.as_ref().unwrap().web
}

fn start(rollout: &str, process: &str) -> Action {
    Action::Start {
        rollout: rollout.parse().unwrap(),
        process: process.parse().unwrap(),
        ordinal: 1,
    }
}

fn stop(id: &str) -> Action {
    Action::Stop { instance: id.parse().unwrap(), grace_ms: 10_000 }
}

#[test]
fn a_first_deploy_starts_probes_and_commits() {
    let mut world = World::new(None, Some(rollout("d1", &[("web", 1), ("worker", 1)])), vec![]);
    let plan = world.plan(1000);
    assert_eq!(plan.actions, [start("d1", "web")], "web before all others");
    assert_eq!(web_state(&plan), WebState::NothingDeployed);

    world.instances = vec![instance("a", "d1", "web", UP)];
    let plan = world.plan(1010);
    assert_eq!((plan.actions.len(), roles(&plan)), (0, vec![("a".into(), Role::Probe)]));
    assert_eq!(plan.wake_at, Some(Millis(61_000)), "the boot timeout");

    let mut world = world.healthy(&["a"]);
    assert_eq!(world.plan(1020).actions, [Action::Commit("d1".parse().unwrap())]);

    world.intent.live = world.intent.candidate.take();
    let plan = world.plan(1030);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve)]);
    assert_eq!(plan.actions, [start("d1", "worker")]);
}

#[test]
fn the_old_release_serves_until_the_new_one_is_live_then_drains_then_stops() {
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", UP)];
    let mut world = World::new(
        Some(rollout("d1", &[("web", 1)])),
        Some(rollout("d2", &[("web", 1)])),
        instances,
    )
    .healthy(&["a"]);
    let plan = world.plan(2000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve), ("b".into(), Role::Probe)]);
    assert_eq!(plan.actions, []);

    let mut world = world.healthy(&["b"]);
    assert_eq!(world.plan(2000).actions, [Action::Commit("d2".parse().unwrap())]);
    world.intent.live = world.intent.candidate.take();
    let plan = world.plan(2100);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);
    assert_eq!(plan.actions, [], "the proxy does not know yet");

    world.sent(&plan);
    world.proxy.sent_is_durable = false;
    world.proxy.drained.insert("a".parse().unwrap());
    assert_eq!(world.plan(2200).actions, [], "drained, but the snapshot still names it");
    world.proxy.sent_is_durable = true;
    assert_eq!(world.plan(2200).actions, [stop("a")]);

    world.notes.stop_begun(&"a".parse().unwrap());
    assert_eq!(world.plan(2300).actions, [], "once is enough");
    world.notes.stop_ended(&"a".parse().unwrap());
    world.instances[0].state = EXITED;
    assert_eq!(world.plan(2400).actions, [Action::Remove("a".parse().unwrap())]);
}

#[test]
fn what_outlasts_the_drain_time_is_cut_then_stopped() {
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", UP)];
    let mut world = World::new(Some(rollout("d2", &[("web", 1)])), None, instances).healthy(&["b"]);
    let first = world.plan(9_000);
    world.sent(&first);
    world.plan(10_000);
    let waiting = world.plan(20_000);
    assert_eq!((waiting.actions.len(), waiting.wake_at), (0, Some(Millis(40_000))));
    let cut = world.plan(40_000);
    assert_eq!((roles(&cut), cut.actions.len()), (vec![("b".into(), Role::Serve)], 0));
    world.sent(&cut);
    assert_eq!(world.plan(40_001).actions, [stop("a")]);
}

#[test]
fn unknown_touches_nothing() {
    let world = World::new(Some(rollout("d1", &[("web", 1)])), None, vec![]);
    let observed = Observed { instances: None, proxy: &world.proxy, notes: &world.notes };
    let plan = plan(&world.intent, observed, Millis(0));
    assert_eq!(plan, Plan { route: None, actions: vec![], wake_at: None });
}

#[test]
fn without_a_proxy_an_old_instance_is_not_stopped() {
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", UP)];
    let mut world = World::new(Some(rollout("d2", &[("web", 1)])), None, instances);
    world.proxy.connected = false;
    world.plan(1000);
    assert_eq!(world.plan(1_000_000).actions, []);
    // But a user who stops the app is not kept waiting.
    world.intent.desired = Desired::Stop;
    world.plan(1_000_000);
    assert_eq!(world.plan(2_000_000).actions, [stop("a"), stop("b")]);
}

#[test]
fn a_candidate_that_exits_or_never_answers_fails_and_leaves() {
    let live = || Some(rollout("d1", &[("web", 1)]));
    let candidate = || Some(rollout("d2", &[("web", 1)]));
    let fail = |why| Action::Fail { rollout: "d2".parse().unwrap(), why };
    let b: InstanceId = "b".parse().unwrap();

    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", EXITED)];
    let mut world = World::new(live(), candidate(), instances).healthy(&["a"]);
    assert_eq!(world.plan(6000).actions, [fail(FailedBecause::Exited(b.clone()))]);

    world.instances[1].state = UP;
    assert_eq!(world.plan(60_999).actions, []);
    assert_eq!(world.plan(61_000).actions, [fail(FailedBecause::Unhealthy(b))]);
    world.proxy.connected = false;
    assert_eq!(world.plan(61_000).actions, [], "nobody can tell");
    assert_eq!(
        world.plan(6000 + 180_000).actions,
        [fail(FailedBecause::TookTooLong)],
        "but it ends"
    );

    world.intent.candidate = None;
    world.proxy.connected = true;
    let plan = world.plan(62_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve), ("b".into(), Role::Drain)]);
}

#[test]
fn a_crash_is_restarted_at_once_then_later_and_later() {
    let mut world = World::new(
        Some(rollout("d1", &[("web", 1)])),
        None,
        vec![instance("a", "d1", "web", EXITED)],
    );
    let again = Action::StartAgain("a".parse().unwrap());
    let plan = world.plan(5001);
    assert_eq!(
        (plan.actions.as_slice(), web_state(&plan)),
        ([again.clone()].as_slice(), WebState::Booting)
    );

    world.instances[0].state = InstanceState::Running { since: Millis(5100) };
    let plan = world.plan(5200);
    assert_eq!(
        roles(&plan),
        [("a".into(), Role::Probe)],
        "an old verdict says nothing of a new start"
    );

    world.instances[0].state = InstanceState::Exited { code: 1, oom: false, at: Millis(6000) };
    let plan = world.plan(6001);
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(Millis(7000))));
    assert_eq!(web_state(&plan), WebState::Crashed);
    assert_eq!(world.plan(7000).actions, [again]);
}

#[test]
fn a_controller_that_has_just_started_keeps_what_serves() {
    // The proxy's hello named `a` as serving: seeded as healthy.
    let instances = vec![instance("a", "d1", "web", UP)];
    let mut world = World::new(Some(rollout("d1", &[("web", 1)])), None, instances).healthy(&["a"]);
    let plan = world.plan(9000);
    assert_eq!((roles(&plan), plan.actions.len()), (vec![("a".into(), Role::Serve)], 0));
}

#[test]
fn two_instances_in_one_slot_become_one() {
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d1", "web", UP)];
    let mut world = World::new(Some(rollout("d1", &[("web", 1)])), None, instances).healthy(&["b"]);
    let plan = world.plan(2000);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);

    // A stop of `a` failed, and what was said of it before still sounds well.
    world.sent(&plan);
    let mut world = world.healthy(&["a"]);
    let plan = world.plan(2100);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);
}

#[test]
fn stop_drains_and_destroy_forgets_when_nothing_is_left() {
    let instances = vec![instance("a", "d1", "web", UP), instance("w", "d1", "worker", UP)];
    let mut world = World::new(Some(rollout("d1", &[("web", 1), ("worker", 1)])), None, instances)
        .healthy(&["a"]);
    world.intent.desired = Desired::Destroy;
    let plan = world.plan(2000);
    assert_eq!(web_state(&plan), WebState::Stopped);
    assert_eq!((roles(&plan), plan.actions), (vec![("a".into(), Role::Drain)], vec![stop("w")]));
    world.instances.clear();
    assert_eq!(world.plan(3000).actions, [Action::Forget]);
}

#[test]
fn a_start_that_the_engine_refuses_for_good_fails_the_rollout() {
    let mut world = World::new(None, Some(rollout("d1", &[("web", 1)])), vec![]);
    let (id, web) = ("d1".parse().unwrap(), ProcessType::web());
    world.plan(1000);
    world.notes.start_failed(&id, &web, 1, ("no space left", false), Millis(1000));
    let plan = world.plan(1001);
    assert_eq!((plan.actions.len(), plan.wake_at), (0, Some(Millis(1250))), "tried again later");
    world.notes.start_failed(&id, &web, 1, ("no such command", true), Millis(2000));
    let why = FailedBecause::CannotStart("no such command".into());
    assert_eq!(world.plan(2001).actions, [Action::Fail { rollout: id, why }]);
}

#[test]
fn the_user_is_told_when_requests_reach_the_new_release_and_not_before() {
    let instances = vec![instance("a", "d1", "web", UP)];
    let mut world = World::new(Some(rollout("d1", &[("web", 1)])), None, instances).healthy(&["a"]);
    world.intent.unannounced = Some("d1".parse().unwrap());
    let plan = world.plan(2000);
    assert_eq!(plan.actions, [], "the proxy has not got the route");
    world.sent(&plan);
    world.proxy.sent_is_applied = false;
    assert_eq!(world.plan(2001).actions, [], "nor taken it");
    world.proxy.sent_is_applied = true;
    assert_eq!(world.plan(2002).actions, [Action::Announce("d1".parse().unwrap())]);
}

#[test]
fn a_release_that_crashed_once_it_was_live_keeps_nobody_waiting() {
    let instances = vec![instance("a", "d1", "web", EXITED)];
    let mut world = World::new(Some(rollout("d1", &[("web", 1)])), None, instances);
    let announce = Action::Announce("d1".parse().unwrap());
    world.intent.unannounced = Some("d1".parse().unwrap());
    assert!(!world.plan(2000).actions.contains(&announce), "it may come back");
    world.instances[0].state = InstanceState::Running { since: Millis(3000) };
    let plan = world.plan(11_999);
    assert_eq!((plan.actions.as_slice(), plan.wake_at), (&[][..], Some(Millis(12_000))));
    assert_eq!(world.plan(12_000).actions, [announce]);
}

#[test]
fn names_and_maintenance_change_even_while_the_engine_is_away() {
    let instances = vec![instance("a", "d1", "web", UP)];
    let mut world = World::new(Some(rollout("d1", &[("web", 1)])), None, instances).healthy(&["a"]);
    let first = world.plan(9_000);
    world.sent(&first);
    let unknown = |world: &World| {
        let observed = Observed { instances: None, proxy: &world.proxy, notes: &world.notes };
        plan(&world.intent, observed, Millis(9_001))
    };
    assert_eq!(unknown(&world).route, None);
    world.intent.maintenance = true;
    world.intent.hosts = vec!["*.example.com".parse().unwrap()];
    let changed = unknown(&world);
    let route = changed.route.as_ref().unwrap();
    assert!(route.rules.maintenance && route.hosts == world.intent.hosts);
    assert_eq!((roles(&changed), changed.actions.len()), (roles(&first), 0));
}

#[test]
fn the_rules_are_those_of_what_serves() {
    let with_user = |id: &str, name: &str| {
        let mut rollout = rollout(id, &[("web", 1)]);
        let (salt, sha256) = ("00".repeat(16), "00".repeat(32));
        let spec = Arc::make_mut(&mut rollout.spec);
        spec.rules.users = vec![User { name: name.into(), salt, sha256 }];
        rollout
    };
    let mut world = World::new(None, Some(with_user("d1", "first")), vec![]);
    world.intent.pages = vec![("*".into(), "<h1>".into())];
    let rules = |world: &mut World| world.plan(9_000).route.unwrap().rules;
    let first = rules(&mut world);
    assert_eq!((first.users[0].name.as_str(), &first.pages), ("first", &world.intent.pages));
    world.intent.live = Some(with_user("d2", "live"));
    assert_eq!(rules(&mut world).users[0].name, "live", "not the candidate's");
}

#[test]
fn a_rollout_ends_even_while_the_engine_is_away() {
    let candidate = Some(rollout("d2", &[("web", 1)]));
    let mut world = World::new(Some(rollout("d1", &[("web", 1)])), candidate, vec![]);
    world.notes.meant(&world.intent, Millis(1000));
    let unknown = |world: &World, now| {
        let observed = Observed { instances: None, proxy: &world.proxy, notes: &world.notes };
        plan(&world.intent, observed, Millis(now))
    };
    let waiting = Plan { route: None, actions: vec![], wake_at: Some(Millis(181_000)) };
    assert_eq!(unknown(&world, 2000), waiting);
    let why = FailedBecause::TookTooLong;
    let fail = Action::Fail { rollout: "d2".parse().unwrap(), why };
    let ended = Plan { route: None, actions: vec![fail], wake_at: None };
    assert_eq!(unknown(&world, 181_000), ended);
}

#[test]
fn a_stopped_app_leaves_within_its_own_deadlines() {
    let mut world = World::new(None, None, vec![instance("w", "d1", "worker", UP)]);
    world.intent.desired = Desired::Stop;
    world.intent.timing = Timing { grace_ms: 10_000, ..Timing::default() };
    assert_eq!(world.plan(2000).actions, [stop("w")]);
}

#[test]
fn the_old_release_goes_on_serving_until_something_of_the_live_one_does() {
    // The proxy started again from a table older than the commit, and has not probed `b` yet.
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", UP)];
    let mut world = World::new(Some(rollout("d2", &[("web", 1)])), None, instances).healthy(&["a"]);
    world.proxy.connected = false;
    let plan = world.plan(2000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve), ("b".into(), Role::Probe)]);
    world.proxy.connected = true;
    world.sent(&plan);
    world.proxy.drained.insert("a".parse().unwrap());
    assert_eq!(world.plan(100_000).actions, [], "nobody else would answer");

    let mut world = world.healthy(&["b"]);
    let plan = world.plan(100_001);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);

    // One that is paused answers nobody.
    world.intent.live = Some(rollout("d3", &[("web", 1)]));
    world.proxy.sent = None;
    world.instances[0].state = InstanceState::Paused { since: Millis(1000) };
    let plan = world.plan(100_002);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);

    // One that was never sent requests does not begin to get them, however healthy.
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", UP)];
    let mut world = World::new(Some(rollout("d2", &[("web", 1)])), None, instances).healthy(&["a"]);
    world.proxy.sent = Some(AppRoute { targets: vec![], ..plan.route.unwrap() });
    assert_eq!(roles(&world.plan(2000)), [("a".into(), Role::Drain), ("b".into(), Role::Probe)]);
}

#[test]
fn the_drain_time_counts_from_when_the_proxy_sends_no_more_requests() {
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d2", "web", UP)];
    let mut world = World::new(Some(rollout("d2", &[("web", 1)])), None, instances).healthy(&["b"]);
    // Planned to leave for longer than the drain time, with nobody there to tell.
    world.plan(10_000);
    let plan = world.plan(100_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);
    world.sent(&plan);
    world.proxy.sent_is_applied = false;
    assert_eq!(world.plan(100_050).wake_at, None, "it goes on sending requests");
    world.proxy.sent_is_applied = true;
    assert_eq!(world.plan(100_100).wake_at, Some(Millis(130_100)));
    assert_eq!(roles(&world.plan(130_100)), [("b".into(), Role::Serve)]);

    // It served once more in between: the next drain is a whole one.
    let started = Millis(1000);
    world.proxy.sent = None;
    world.proxy.health.insert("a".parse().unwrap(), (started, Verdict::Healthy));
    let plan = world.plan(131_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);
}

fn alone(mut rollout: Rollout) -> Rollout {
    Arc::make_mut(&mut rollout.spec).strategy = Strategy::Recreate;
    rollout
}

#[test]
fn what_must_be_alone_starts_when_the_live_release_is_gone_and_requests_wait_meanwhile() {
    let live = rollout("d1", &[("web", 1), ("worker", 1)]);
    let instances = vec![instance("a", "d1", "web", UP), instance("w", "d1", "worker", UP)];
    let next = alone(rollout("d2", &[("web", 1)]));
    let mut world = World::new(Some(live), Some(next), instances).healthy(&["a"]);
    let serving = AppRoute {
        web: WebState::Serving,
        targets: vec![Target {
            instance: "a".parse().unwrap(),
            started: Millis(1000),
            addr: ([10, 210, 0, 2], 8080).into(),
            process: "web.1".into(),
            release: 1,
            role: Role::Serve,
        }],
        ..world.plan(1900).route.unwrap()
    };
    world.proxy.sent = Some(serving);
    (world.proxy.sent_is_applied, world.proxy.sent_is_durable) = (true, true);
    let plan = world.plan(2000);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain)]);
    assert_eq!(web_state(&plan), WebState::Booting, "the proxy holds what comes");
    assert_eq!(plan.actions, [stop("w")], "what has requests drains first");

    world.sent(&plan);
    world.plan(2001);
    assert_eq!(world.plan(12_001).actions, [stop("w")], "it drains for ten seconds at most");
    let plan = world.plan(12_001);
    assert_eq!(roles(&plan), []);
    world.sent(&plan);
    assert_eq!(world.plan(12_010).actions, [stop("a"), stop("w")]);

    world.instances = vec![instance("a", "d1", "web", EXITED)];
    assert_eq!(
        world.plan(13_000).actions,
        [Action::Remove("a".parse().unwrap())],
        "one that has exited may still be started by a call on its way"
    );
    world.instances = vec![];
    let slot = Subject::Slot("d1".parse().unwrap(), "worker".parse().unwrap(), 2);
    world.notes.start_begun(slot.clone(), "d1".parse().unwrap());
    assert_eq!(world.plan(13_100).actions, [], "so may one that nobody sees yet");
    world.notes.start_ended(&slot);
    assert_eq!(world.plan(13_200).actions, [start("d2", "web")]);
    world.instances = vec![instance("b", "d2", "web", EXITED)];
    let failed = FailedBecause::Exited("b".parse().unwrap());
    let fail = Action::Fail { rollout: "d2".parse().unwrap(), why: failed };
    assert_eq!(world.plan(13_300).actions, [fail]);

    world.intent.candidate = None;
    world.instances[0].alone = true;
    assert_eq!(world.plan(13_400).actions, [Action::Remove("b".parse().unwrap())]);
    world.instances = vec![];
    assert_eq!(world.plan(13_500).actions, [start("d1", "web")], "the old release is back");
}

#[test]
fn a_release_command_runs_once_before_anything_else() {
    let mut next = rollout("d2", &[("web", 1)]);
    next.prepared = false;
    Arc::make_mut(&mut next.spec).release_command = Some(vec!["migrate".into()]);
    Arc::make_mut(&mut next.spec).timing.release_ms = 5_000;
    let mut world = World::new(None, Some(next), vec![]);
    assert_eq!(world.plan(1000).actions, [start("d2", "release")]);

    world.instances = vec![instance("r", "d2", "release", UP)];
    let plan = world.plan(2000);
    assert_eq!((plan.actions.len(), roles(&plan).len()), (0, 0), "it gets no requests");
    let late = FailedBecause::ReleaseCommandTookTooLong("r".parse().unwrap());
    let fail = |why| Action::Fail { rollout: "d2".parse().unwrap(), why };
    assert_eq!(world.plan(6000).actions, [fail(late)]);

    world.instances = vec![instance("r", "d2", "release", EXITED)];
    assert_eq!(
        world.plan(5000).actions,
        [fail(FailedBecause::ReleaseCommand("r".parse().unwrap()))]
    );
    let done = InstanceState::Exited { code: 0, oom: false, at: Millis(4000) };
    world.instances = vec![instance("r", "d2", "release", done)];
    let (rollout, id) = ("d2".parse().unwrap(), "r".parse().unwrap());
    assert_eq!(world.plan(5000).actions, [Action::Prepared { rollout, instance: id }]);

    world.intent.candidate.as_mut().unwrap().prepared = true;
    assert_eq!(
        world.plan(5000).actions,
        [start("d2", "web"), Action::Remove("r".parse().unwrap())]
    );
}

fn ill(world: &mut World, id: &str) {
    let verdict = Verdict::Unhealthy { why: "GET /up answered 500".into() };
    world.proxy.health.insert(id.parse().unwrap(), (Millis(1000), verdict));
}

#[test]
fn one_of_two_that_turns_unhealthy_leaves_the_routes_at_once_and_is_started_again() {
    let mut second = instance("b", "d1", "web", UP);
    second.ordinal = 2;
    let instances = vec![instance("a", "d1", "web", UP), second];
    let live = rollout("d1", &[("web", 2)]);
    let mut world = World::new(Some(live), None, instances).healthy(&["a", "b"]);
    let plan = world.plan(2000);
    world.sent(&plan);
    ill(&mut world, "b");
    let plan = world.plan(100_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve), ("b".into(), Role::Probe)]);
    assert_eq!(plan.wake_at, Some(Millis(100_000 + REPLACE_AFTER_MS)));
    world.sent(&plan);
    let plan = world.plan(100_000 + REPLACE_AFTER_MS);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve), ("b".into(), Role::Drain)]);
    world.sent(&plan);
    world.proxy.drained.insert("b".parse().unwrap());
    assert_eq!(world.plan(130_001).actions, [stop("b")]);
    world.notes.stop_begun(&"b".parse().unwrap());
    world.notes.stop_ended(&"b".parse().unwrap());
    world.instances[1].state = InstanceState::Exited { code: 0, oom: false, at: Millis(131_000) };
    assert_eq!(world.plan(131_001).actions, [Action::StartAgain("b".parse().unwrap())]);

    ill(&mut world, "a");
    world.instances.truncate(1);
    let plan = world.plan(140_000);
    assert!(roles(&plan).contains(&("a".into(), Role::Serve)), "slow is better than none");
}

#[test]
fn a_lone_unhealthy_instance_serves_until_another_is_up_in_its_place() {
    let live = rollout("d1", &[("web", 1)]);
    let mut world = World::new(Some(live), None, vec![instance("a", "d1", "web", UP)]);
    world = world.healthy(&["a"]);
    let plan = world.plan(2000);
    world.sent(&plan);
    ill(&mut world, "a");
    assert_eq!(world.plan(100_000).actions, [], "it may come back");
    let plan = world.plan(100_000 + REPLACE_AFTER_MS);
    assert_eq!(
        (roles(&plan), &plan.actions[..]),
        (vec![("a".into(), Role::Serve)], &[start("d1", "web")][..])
    );

    world.instances.push(instance("b", "d1", "web", UP));
    let plan = world.plan(140_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve), ("b".into(), Role::Probe)]);
    world = world.healthy(&["b"]);
    let plan = world.plan(140_100);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);
}

#[test]
fn an_instance_that_the_user_names_is_replaced_and_its_successor_is_not() {
    let live = rollout("d1", &[("web", 1)]);
    let mut world = World::new(Some(live), None, vec![instance("a", "d1", "web", UP)]);
    world = world.healthy(&["a"]);
    let plan = world.plan(2000);
    world.sent(&plan);
    world.intent.replace.insert("a".parse().unwrap(), Millis(1000));
    assert_eq!(world.plan(2100).actions, [start("d1", "web")]);
    world.instances.push(instance("b", "d1", "web", UP));
    world = world.healthy(&["b"]);
    let plan = world.plan(2200);
    assert_eq!(roles(&plan), [("a".into(), Role::Drain), ("b".into(), Role::Serve)]);
    world.instances.remove(0);
    assert_eq!(world.plan(2300).actions, []);
}
