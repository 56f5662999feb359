use std::time::Duration;

use mini_core::release::HealthSpec;

use super::*;
use crate::tls::Tls;
use crate::{ProxyConfig, Timeouts};

fn shared() -> Arc<Shared> {
    let config = ProxyConfig {
        domains: vec!["localhost".parse().unwrap()],
        listeners: Vec::new(),
        https_listeners: Vec::new(),
        tls_dir: std::path::PathBuf::new(),
        control_socket: "control".into(),
        metrics_socket: "metrics".into(),
        metrics_listen: None,
        allowed_uids: Vec::new(),
        api_sockets: vec!["api".into()],
        snapshot: "routes".into(),
        boot_id: "boot".into(),
        version: "0".into(),
        drain: Duration::ZERO,
        hold: Duration::ZERO,
        timeouts: Timeouts::default(),
        clients: crate::Clients::default(),
        succeeds: None,
        accepting: None,
    };
    let tls = Tls::open("/proc/nowhere".into(), Vec::new(), Duration::ZERO).unwrap();
    Arc::new(Shared::new(&config, tls))
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
    let lasting = Arc::new(Lasting::new(&name));
    let state = |s: &Target| Arc::new(TargetState::new(&lasting, s.clone(), true));
    let targets = specs.iter().map(state).collect();
    let (web, health) = (WebState::Serving, HealthSpec::default());
    let route = AppRoute {
        app: name.clone(),
        hosts: Vec::new(),
        web,
        targets: specs,
        health,
        rules: Box::default(),
    };
    App::new(route, targets, (lasting, Arc::default()), &[])
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
    let table = Table::new(1, [Arc::new(app)]);
    assert!(table.serving().is_empty());
}

/// An app of that name with those domains.
fn named(name: &str, hosts: &[&str]) -> Arc<App> {
    let route = AppRoute {
        app: name.parse().unwrap(),
        hosts: hosts.iter().map(|h| h.parse().unwrap()).collect(),
        web: WebState::Stopped,
        targets: Vec::new(),
        health: HealthSpec::default(),
        rules: Box::default(),
    };
    let lasting = (Arc::new(Lasting::new(&route.app)), Arc::default());
    Arc::new(App::new(route, Vec::new(), lasting, &["local".parse().unwrap()]))
}

fn whose(table: &Table, host: &str) -> Option<String> {
    table.find(host).map(|a| a.route.app.to_string())
}

#[test]
fn the_name_itself_goes_before_a_wildcard_of_one_label() {
    let red = named("red", &["*.x.org", "*.blue.local"]);
    let table = Table::new(1, [red, named("blue", &["www.x.org"])]);
    for (host, app) in [
        ("www.x.org", Some("blue")),
        ("a.x.org", Some("red")),
        ("x.org", None),
        ("a.b.x.org", None),
        ("blue.local", Some("blue")),
        ("a.blue.local", Some("red")),
        (".x.org", None),
        ("org", None),
        ("", None),
    ] {
        assert_eq!(whose(&table, host).as_deref(), app, "{host}");
    }
    let table = table.without(2, &"blue".parse().unwrap());
    assert_eq!(whose(&table, "www.x.org").as_deref(), Some("red"));
    let table = table.with(3, named("red", &[]));
    assert_eq!(whose(&table, "a.x.org"), None);
}

#[test]
fn a_name_goes_with_its_app_and_to_the_next_that_claims_it() {
    let is = |name: &str| Some(name.to_owned());
    let table = Table::new(1, [named("red", &["x.org"]), named("blue", &["x.org", "y.org"])]);
    assert_eq!((whose(&table, "x.org"), whose(&table, "red.local")), (is("blue"), is("red")));
    // Blue lets one of its names go, and gets another.
    let next = table.with(2, named("blue", &["y.org", "z.org"]));
    assert_eq!((whose(&next, "x.org"), whose(&next, "z.org")), (is("red"), is("blue")));
    assert_eq!(whose(&table, "x.org"), is("blue"), "the table before is what it was");
    let last = next.without(3, &"blue".parse().unwrap());
    assert_eq!((whose(&last, "y.org"), whose(&last, "blue.local")), (None, None));
    assert_eq!((whose(&last, "x.org"), last.apps.len(), last.generation), (is("red"), 1, 3));
    assert_eq!(whose(&last.with(4, named("red", &[])), "x.org"), None);
}
