//! How long deciding takes: a plan for each of a thousand apps, as their drivers make it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mini_core::control::Verdict;
use mini_core::name::AppName;
use mini_core::plan::{Desired, Intent, Notes, Observed, ProxyView, Rollout, plan};
use mini_core::ports::{Instance, InstanceState};
use mini_core::release::{HealthSpec, Limits, ProcessSpec, ReleaseSpec, Strategy, Timing};
use mini_core::rules::Rules;
use mini_core::time::Millis;

use crate::deploy::{median, millis};
use crate::output::{self, Row};

const APPS: u32 = 1000;
const ROUNDS: usize = 20;
const GOAL_MS: f64 = 50.0;
const NOW: Millis = Millis(1_000_000_000);
const STARTED: Millis = Millis(999_000_000);

struct App {
    intent: Intent,
    instances: Vec<Instance>,
    proxy: ProxyView,
    notes: Notes,
}

pub(crate) fn measure() -> Row {
    output::say("deciding for 1,000 apps");
    let mut apps: Vec<App> = (0..APPS).map(app).collect();
    // Twice without counting: the second one finds the route of the first at the proxy.
    let mut actions = 0;
    for _ in 0..2 {
        actions = 0;
        for app in &mut apps {
            let (decided, route) = decide(app);
            actions += decided;
            app.proxy.sent = route;
            (app.proxy.sent_is_applied, app.proxy.sent_is_durable) = (true, true);
        }
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let decided: usize = apps.iter_mut().map(|app| decide(app).0).sum();
        times.push(millis(begun.elapsed()));
        assert_eq!(decided, actions, "the same situation has the same plan");
    }
    let time = median(times.iter().copied());
    let worst = times.iter().copied().fold(0.0, f64::max);
    Row {
        what: "deciding for 1,000 apps".into(),
        measured: format!("{time:.1} ms"),
        beside: format!(
            "2 web and 1 worker each, one app in ten with a rollout under way ({actions} actions); \
             median of {ROUNDS}, the longest {worst:.1} ms"
        ),
        goal: format!("< {GOAL_MS} ms"),
        met: time < GOAL_MS,
    }
}

/// What a driver does between two waits, but for the store: how many actions, and the route.
fn decide(app: &mut App) -> (usize, Option<mini_core::route::AppRoute>) {
    app.notes.saw(&app.instances);
    app.notes.meant(&app.intent, NOW);
    app.notes.heard(&app.proxy, NOW);
    let observed =
        Observed { instances: Some(&app.instances), proxy: &app.proxy, notes: &app.notes };
    let decided = plan(&app.intent, observed, NOW);
    if let Some(route) = &decided.route {
        app.notes.planned(route, NOW);
    }
    (decided.actions.len(), decided.route)
}

fn app(n: u32) -> App {
    let name: AppName = format!("app-{n}").parse().expect("a name");
    let process = |count| ProcessSpec { command: None, count, limits: Limits::default() };
    let spec = Arc::new(ReleaseSpec {
        image: format!("sha256:{n:064}"),
        port: 8080,
        processes: [("web", 2), ("worker", 1)]
            .map(|(name, count)| (name.parse().expect("a process type"), process(count)))
            .into(),
        health: HealthSpec::default(),
        timing: Timing::default(),
        release_command: None,
        strategy: Strategy::Rolling,
        volumes: Vec::new(),
        rules: Rules::default(),
        password_vars: BTreeMap::new(),
    });
    let rollout = |release: u32| Rollout {
        id: format!("d{n}-{release}").parse().expect("an id"),
        release,
        spec: spec.clone(),
        prepared: true,
    };
    let live = rollout(1);
    let candidate = n.is_multiple_of(10).then(|| rollout(2));
    let mut instances = Vec::new();
    for (rollout, slots) in std::iter::once(&live).zip([3]).chain(candidate.iter().zip([2])) {
        for slot in 0..slots {
            let (process, ordinal) = [("web", 1), ("web", 2), ("worker", 1)][slot];
            let host = instances.len() as u8 + 2;
            instances.push(Instance {
                id: format!("{}-{process}-{ordinal}", rollout.id).parse().expect("an id"),
                app: name.clone(),
                rollout: rollout.id.clone(),
                release: rollout.release,
                process: process.parse().expect("a process type"),
                ordinal,
                address: Some([10, (n >> 8) as u8, n as u8, host].into()),
                port: (process == "web").then_some(8080),
                state: InstanceState::Running { since: STARTED },
                alone: false,
                one_off: None,
            });
        }
    }
    let of_live = instances.iter().filter(|i| i.rollout == live.id);
    let health = of_live.map(|i| (i.id.clone(), (STARTED, Verdict::Healthy))).collect();
    App {
        intent: Intent {
            app: name,
            desired: Desired::Run,
            live: Some(live),
            candidate,
            unannounced: None,
            released: true,
            timing: Timing::default(),
            hosts: Vec::new(),
            maintenance: false,
            pages: Vec::new(),
            replace: BTreeMap::new(),
        },
        instances,
        proxy: ProxyView { connected: true, health, ..ProxyView::default() },
        notes: Notes::default(),
    }
}
