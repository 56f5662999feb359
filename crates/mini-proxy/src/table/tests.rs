use std::time::Duration;

use mini_core::release::HealthSpec;

use super::*;
use crate::{ProxyConfig, Timeouts};

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(&ProxyConfig {
        domains: vec!["localhost".parse().unwrap()],
        listeners: Vec::new(),
        control_socket: "control".into(),
        allowed_uids: Vec::new(),
        api_socket: "api".into(),
        snapshot: "routes".into(),
        boot_id: "boot".into(),
        version: "0".into(),
        drain: Duration::ZERO,
        hold: Duration::ZERO,
        timeouts: Timeouts::default(),
    }))
}

fn app(count: u16) -> App {
    let target = |n: u16| Target {
        instance: format!("i{n}").parse().unwrap(),
        started: Millis(1),
        addr: ([127, 0, 0, 1], n).into(),
        process: format!("web.{n}"),
        release: 1,
        role: Role::Serve,
    };
    let name: AppName = "blue".parse().unwrap();
    let specs: Vec<Target> = (1..=count).map(target).collect();
    let state = |s: &Target| Arc::new(TargetState::new(name.clone(), s.clone(), true));
    let targets = specs.iter().map(state).collect();
    let (web, health) = (WebState::Serving, HealthSpec::default());
    let route = AppRoute { app: name.clone(), hosts: Vec::new(), web, targets: specs, health };
    App::new(route, targets, Arc::new(Lasting::new()), &[])
}

fn go(app: &App, shared: &Arc<Shared>, not: Option<&TargetState>) -> InFlight {
    match app.choose(shared, not) {
        Choice::Go(flight) => flight,
        _ => panic!("no target was chosen"),
    }
}

#[test]
fn a_target_that_drains_gets_nothing_even_from_a_table_read_before() {
    let (shared, app) = (shared(), app(1));
    let flight = go(&app, &shared, None);
    app.targets[0].set_role(Role::Drain);
    assert!(matches!(app.choose(&shared, None), Choice::Hold));
    assert!(!app.targets[0].idle(), "the one before is still there");
    drop(flight);
    assert!(app.targets[0].idle(), "the one that was turned away is not counted");
}

#[test]
fn the_least_busy_goes_first_and_equals_take_turns() {
    let (shared, app) = (shared(), app(3));
    let first: Vec<_> = (0..3).map(|_| go(&app, &shared, None)).collect();
    assert!(app.targets.iter().all(|t| t.in_flight.load(SeqCst) == 1));
    let free = Arc::clone(&first[1].target);
    drop(first.into_iter().nth(1));
    // All are free now but for what is chosen here.
    let busy: Vec<_> = (0..2).map(|_| go(&app, &shared, Some(&free))).collect();
    assert!(busy.iter().all(|f| !Arc::ptr_eq(&f.target, &free)), "the dead one is passed over");
    assert!(Arc::ptr_eq(&go(&app, &shared, None).target, &free), "the only idle one");
}

#[test]
fn who_refused_is_passed_over_unless_it_is_the_last() {
    let (shared, app) = (shared(), app(2));
    app.targets[0].shun();
    for _ in 0..4 {
        assert_eq!(go(&app, &shared, None).target.spec.process, "web.2");
    }
    app.targets[1].shun();
    go(&app, &shared, None);
}

#[test]
fn an_unproven_target_waits() {
    let (shared, app) = (shared(), app(1));
    app.targets[0].proven.store(false, SeqCst);
    assert!(matches!(app.choose(&shared, None), Choice::Hold));
    let name = app.route.app.clone();
    let table = Table::new(1, [(name, Arc::new(app))].into());
    assert!(table.serving().is_empty());
}
