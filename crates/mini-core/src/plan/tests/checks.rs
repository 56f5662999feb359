//! The image's HEALTHCHECK beside the proxy's probe.

use super::*;
use crate::release::CommandCheck;

fn checked_rollout(id: &str, counts: &[(&str, u32)]) -> Rollout {
    let mut rollout = rollout(id, counts);
    let mut spec = (*rollout.spec).clone();
    spec.health.check = Some(CommandCheck {
        command: vec!["/check".into()],
        interval_ms: 30_000,
        timeout_ms: 1_000,
        start_period_ms: 0,
        retries: 3,
    });
    rollout.spec = Arc::new(spec);
    rollout
}

fn failing() -> Verdict {
    Verdict::Unhealthy { why: "exit code 1".into() }
}

fn checks(id: &str, verdict: Verdict, passed: bool) -> Checks {
    Checks::from([(id.parse().unwrap(), Checked { started: Millis(1000), verdict, passed })])
}

/// Plans with what the checks say.
fn plan_with(world: &mut World, checks: &Checks, now: u64) -> Plan {
    let told = world.proxy.clone();
    world.proxy = told.clone().judged(&world.intent, &world.instances, checks);
    let plan = world.plan(now);
    world.proxy = told;
    plan
}

#[test]
fn a_candidate_is_healthy_once_probe_and_check_pass() {
    let candidate = checked_rollout("d1", &[("web", 1)]);
    let mut world = World::new(None, Some(candidate), vec![instance("a", "d1", "web", UP)]);
    let commit = [Action::Commit("d1".parse().unwrap())];
    let pass = checks("a", Verdict::Healthy, true);
    assert_eq!(plan_with(&mut world, &pass, 2000).actions, [], "no probe has passed");
    let mut world = world.healthy(&["a"]);
    assert_eq!(plan_with(&mut world, &Checks::new(), 2000).actions, [], "nothing is known yet");
    let fail = checks("a", failing(), false);
    assert_eq!(plan_with(&mut world, &fail, 2000).actions, []);
    assert_eq!(plan_with(&mut world, &pass, 2000).actions, commit);
    let mut stale = pass.clone();
    stale.values_mut().for_each(|c| c.started = Millis(1));
    assert_eq!(plan_with(&mut world, &stale, 2000).actions, [], "that was an earlier start");
    let why = FailedBecause::Unhealthy("a".parse().unwrap());
    let failed = Action::Fail { rollout: "d1".parse().unwrap(), why };
    assert_eq!(plan_with(&mut world, &fail, 61_000).actions, [failed]);
}

#[test]
fn a_check_that_fails_later_is_like_a_probe_that_fails() {
    let live = checked_rollout("d1", &[("web", 1)]);
    let instances = vec![instance("a", "d1", "web", UP)];
    let mut world = World::new(Some(live), None, instances).healthy(&["a"]);
    let pass = checks("a", Verdict::Healthy, true);
    let plan = plan_with(&mut world, &pass, 70_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve)]);
    world.sent(&plan);
    let fail = checks("a", failing(), true);
    let plan = plan_with(&mut world, &fail, 80_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve)], "a lone one keeps its requests");
    assert_eq!(plan.actions, []);
    assert_eq!(plan_with(&mut world, &fail, 110_000).actions, [start("d1", "web")], "replaced");
}

#[test]
fn a_controller_that_has_just_started_takes_nothing_from_what_serves() {
    let live = checked_rollout("d1", &[("web", 1)]);
    let instances = vec![instance("a", "d1", "web", UP)];
    // The proxy's hello: it sends requests to `a`.
    let mut world = World::new(Some(live), None, instances).healthy(&["a"]);
    let plan = plan_with(&mut world, &Checks::new(), 70_000);
    assert_eq!(roles(&plan), [("a".into(), Role::Serve)]);
}

#[test]
fn without_http_the_check_alone_says_when_it_is_up() {
    let candidate = checked_rollout("d1", &[("worker", 1)]);
    let mut world = World::new(None, Some(candidate), vec![instance("a", "d1", "worker", UP)]);
    let pass = checks("a", Verdict::Healthy, true);
    assert_eq!(plan_with(&mut world, &pass, 2000).actions, [], "it has to stay up, too");
    let fail = checks("a", failing(), false);
    assert_eq!(plan_with(&mut world, &fail, 7000).actions, []);
    assert_eq!(plan_with(&mut world, &pass, 7000).actions, [Action::Commit("d1".parse().unwrap())]);
    let why = FailedBecause::Unhealthy("a".parse().unwrap());
    let failed = Action::Fail { rollout: "d1".parse().unwrap(), why };
    assert_eq!(plan_with(&mut world, &fail, 61_000).actions, [failed]);
}

#[test]
fn a_worker_whose_images_check_is_about_web_is_let_be() {
    let live = checked_rollout("d1", &[("web", 1), ("worker", 1)]);
    let instances = vec![instance("a", "d1", "web", UP), instance("b", "d1", "worker", UP)];
    let mut world = World::new(Some(live), None, instances).healthy(&["a"]);
    let mut never = checks("a", Verdict::Healthy, true);
    never.extend(checks("b", failing(), false));
    for now in [70_000, 200_000] {
        assert_eq!(plan_with(&mut world, &never, now).actions, []);
    }
    let mut passes = checks("a", Verdict::Healthy, true);
    passes.extend(checks("b", Verdict::Healthy, true));
    assert_eq!(plan_with(&mut world, &passes, 250_000).actions, []);
    let mut later = checks("a", Verdict::Healthy, true);
    later.extend(checks("b", failing(), true));
    assert_eq!(plan_with(&mut world, &later, 300_000).actions, []);
    assert_eq!(plan_with(&mut world, &later, 331_000).actions, [start("d1", "worker")]);
}
