//! What a deploy promises, with everything well and with the controller killed on the way.

use mini_core::ports::OutputStream;
use mini_core::testing::{Behaviour, Call};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_goes_live_and_the_next_one_takes_its_place() {
    let house = House::with_blue().await;
    let first = house.settles_on(1).await;
    let id = house.deploy("hello:2").await;
    let (ended, events) = house.follow(&id).await;
    assert_eq!((ended.status, ended.release.as_deref()), (DeploymentStatus::Live, Some("v2")));
    let live = events.iter().any(|e| {
        matches!(&e.body, EventBody::Live { release, url }
        if release == "v2" && url == "http://blue.localhost:8080")
    });
    assert!(live, "{events:?}");
    assert_ne!(house.settles_on(2).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_exits_fails_with_its_last_lines_and_the_old_release_serves_on() {
    let house = House::with_blue().await;
    let first = house.settles_on(1).await;
    let exits = Behaviour::Exits { lines: vec!["no database".into()], code: 3 };
    house.engine.behave("web", exits);
    let id = house.deploy("hello:2").await;
    let failed = house.ends(&id, DeploymentStatus::Failed).await;
    let cause = failed.cause.unwrap();
    assert_eq!((cause.code.as_str(), cause.log_tail), ("exited", vec!["no database".to_owned()]));
    assert_eq!(house.settles_on(1).await, first, "the old instance was touched");
    let lines = house.log(&blue()).await;
    assert_eq!(lines.iter().filter(|l| *l == "no database").count(), 1, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_is_never_healthy_fails_and_leaves() {
    let mut house = House::with_blue().await;
    let first = house.settles_on(1).await;
    house.kill().await;
    let mut config = house.config();
    config.timing.boot_timeout_ms = 300;
    house.start_with(config).await;
    house.proxy.set_sick(true);
    let id = house.deploy("hello:2").await;
    let failed = house.ends(&id, DeploymentStatus::Failed).await;
    let cause = failed.cause.unwrap();
    assert!(cause.message.contains("GET /up answered 500"), "{cause:?}");
    assert_eq!(house.settles_on(1).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_answer_is_lost_leaves_one_instance() {
    let house = House::with_blue().await;
    house.engine.lose_next_answer(Call::Start);
    house.deploy_live("hello:2").await;
    house.settles_on(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_away_in_the_middle_delays_a_rollout() {
    let house = House::with_blue().await;
    house.engine.hold(Call::Start);
    let id = house.deploy("hello:2").await;
    until(SOON, "the start", || async { (house.engine.waiting(Call::Start) == 1).then_some(()) })
        .await;
    house.engine.set_reachable(false);
    house.engine.release(Call::Start);
    assert_eq!(house.running().len(), 1, "the old one was touched while nothing was known");
    house.engine.set_reachable(true);
    house.ends(&id, DeploymentStatus::Live).await;
    house.settles_on(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_at_any_call_goes_on_where_it_was() {
    for call in [Call::Image, Call::EnsureNetwork, Call::Start, Call::Stop, Call::Remove] {
        let mut house = House::with_blue().await;
        house.kill().await;
        house.start().await;
        house.engine.hold(call);
        let id = house.deploy("hello:2").await;
        until(SOON, "the call", || async { (house.engine.waiting(call) > 0).then_some(()) }).await;
        house.kill().await;
        house.engine.release(call);
        house.start().await;
        let (ended, events) = house.follow(&id).await;
        assert_eq!(ended.status, DeploymentStatus::Live, "{call:?} {events:?}");
        house.settles_on(2).await;
        assert_eq!(house.client.releases(&blue(), 10).await.unwrap().releases.len(), 2, "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_touches_nothing_that_runs_and_loses_no_line() {
    let mut house = House::with_blue().await;
    let id = house.settles_on(1).await;
    house.engine.write(&id, OutputStream::Stdout, "one");
    logged(&house, "one").await;
    house.kill().await;
    house.engine.write(&id, OutputStream::Stdout, "two");
    house.start().await;
    logged(&house, "two").await;
    assert_eq!(house.settles_on(1).await, id);
    let lines = house.log(&blue()).await;
    assert_eq!(lines.iter().filter(|l| *l == "one").count(), 1, "{lines:?}");
}

/// Waits until the app's log has the line.
pub(super) async fn logged(house: &House, wanted: &str) {
    until(SOON, "the line", || async {
        house.log(&blue()).await.iter().any(|line| line == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_started_destroyed() {
    let house = House::with_blue().await;
    house.client.stop(&blue()).await.unwrap();
    until(SOON, "it stops", || async { house.engine.instances().is_empty().then_some(()) }).await;
    house.engine.set_now(clock::now());
    let id = house.client.start(&blue(), &house.key()).await.unwrap().id;
    house.ends(&id, DeploymentStatus::Live).await;
    house.settles_on(1).await;
    house.client.destroy_app(&blue(), false).await.unwrap();
    gone(&house).await;
    assert!(house.engine.instances().is_empty());
    let forgotten = || async { house.proxy.route(&blue()).is_none().then_some(()) };
    until(SOON, "the proxy forgets it", forgotten).await;
}

/// Waits until there is no app `blue`.
pub(super) async fn gone(house: &House) {
    let begun = std::time::Instant::now();
    loop {
        match house.client.app(&blue()).await {
            Err(error) if error.is_not_found() => return,
            Err(error) => panic!("{error}"),
            Ok(app) => assert!(begun.elapsed() < SOON, "{app:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_died_or_vanished_comes_back() {
    let house = House::with_blue().await;
    let id = house.settles_on(1).await;
    house.engine.set_now(clock::now());
    house.engine.crash(&id, 1, false);
    assert_eq!(house.settles_on(1).await, id, "the same one, started again");
    house.engine.set_now(clock::now());
    house.engine.vanish(&id);
    assert_ne!(house.settles_on(1).await, id);
}
