//! What once went wrong.

use mini_api::{EnvChange, EventBody};
use mini_core::ports::{OutputStream, Runtime as _, RuntimeErrorKind};
use mini_core::testing::Call;

use super::rollouts::{gone, logged};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_can_be_used_again_as_soon_as_its_app_is_gone() {
    let house = House::with_blue().await;
    for _ in 0..10 {
        house.client.destroy_app(&blue(), false).await.unwrap();
        gone(&house).await;
        house.create("blue").await;
        house.deploy_live("hello:1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_an_app_ends_its_build_even_with_another_deployment_waiting() {
    let house = House::with_blue().await;
    house.engine.add_to_registry("far:1", image("far:1"));
    house.engine.hold(Call::Pull);
    let pulls = house.deploy("far:1").await;
    let held = || async { (house.engine.waiting(Call::Pull) == 1).then_some(()) };
    until(SOON, "the pull", held).await;
    let waits = house.deploy("hello:2").await;
    house.client.stop(&blue()).await.unwrap();
    house.ends(&pulls, DeploymentStatus::Cancelled).await;
    house.ends(&waits, DeploymentStatus::Cancelled).await;
    let dropped = || async { (house.engine.waiting(Call::Pull) == 0).then_some(()) };
    until(SOON, "the pull is given up", dropped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_hangs_ends_with_the_time_for_builds() {
    let mut house = House::new().await;
    house.kill().await;
    house.start_with(Config { build_timeout: Duration::from_millis(200), ..house.config() }).await;
    house.create("blue").await;
    house.engine.add_to_registry("far:1", image("far:1"));
    house.engine.hold(Call::Pull);
    let id = house.deploy("far:1").await;
    let failed = house.ends(&id, DeploymentStatus::Failed).await;
    assert_eq!(failed.cause.unwrap().code, "build_timeout");
}

/// Another connection to the controller's database.
fn database(house: &House) -> rusqlite::Connection {
    rusqlite::Connection::open(house.folder.path().join("mini.db")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_writes_is_not_asked_without_a_pause() {
    let house = House::with_blue().await;
    database(&house)
        .execute_batch(
            "CREATE TRIGGER broken BEFORE UPDATE ON deployments
             BEGIN SELECT RAISE(ABORT, 'broken'); END",
        )
        .unwrap();
    let before = house.engine.count(Call::Image);
    let id = house.deploy("hello:2").await;
    let tries = || house.engine.count(Call::Image) - before;
    until(SOON, "a second try", || async { (tries() >= 2).then_some(()) }).await;
    let begun = std::time::Instant::now();
    let third = || async { (tries() >= 10 || begun.elapsed().as_millis() > 800).then_some(()) };
    until(SOON, "more tries", third).await;
    assert!(tries() < 10, "{} tries in {:?}", tries(), begun.elapsed());
    database(&house).execute_batch("DROP TRIGGER broken").unwrap();
    house.ends(&id, DeploymentStatus::Live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn config_vars_and_their_deployment_are_written_down_together() {
    let house = House::with_blue().await;
    database(&house)
        .execute_batch(
            "CREATE TRIGGER broken BEFORE INSERT ON deployments
             BEGIN SELECT RAISE(ABORT, 'broken'); END",
        )
        .unwrap();
    let vars = [("A".to_owned(), Some("1".to_owned()))].into();
    let change = EnvChange { vars, stage: false };
    house.client.change_env(&blue(), &change, "one-key").await.unwrap_err();
    database(&house).execute_batch("DROP TRIGGER broken").unwrap();
    // The same request again, as a client does after a lost answer.
    house.engine.set_now(clock::now());
    let changed = house.client.change_env(&blue(), &change, "one-key").await.unwrap();
    let id = changed.deployment.expect("a rollout of the change").id;
    house.ends(&id, DeploymentStatus::Live).await;
    let instance = house.settles_on(2).await;
    let env = house.engine.spec(&instance).unwrap().env;
    assert!(env.contains(&("A".into(), "1".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_not_forgotten_while_an_instance_is_being_made() {
    let house = House::new().await;
    house.create("blue").await;
    house.engine.hold(Call::Start);
    house.deploy("hello:1").await;
    let held = || async { (house.engine.waiting(Call::Start) == 1).then_some(()) };
    until(SOON, "the start", held).await;
    house.client.destroy_app(&blue(), false).await.unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 500 {
        assert_eq!(house.engine.waiting(Call::Start), 1, "the start was dropped half-way");
        tokio::task::yield_now().await;
    }
    house.engine.release(Call::Start);
    gone(&house).await;
    assert!(house.engine.instances().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_removed_behind_our_back_is_made_again() {
    let house = House::with_blue().await;
    house.client.stop(&blue()).await.unwrap();
    until(SOON, "it stops", || async { house.engine.instances().is_empty().then_some(()) }).await;
    house.engine.remove_network(blue()).await.unwrap();
    house.engine.set_now(clock::now());
    let id = house.client.start(&blue(), &house.key()).await.unwrap().id;
    house.ends(&id, DeploymentStatus::Live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_drains_for_ever_is_cut_when_an_app_is_stopped() {
    let mut house = House::with_blue().await;
    house.kill().await;
    let mut config = house.config();
    config.timing.drain_ms = 300;
    house.start_with(config).await;
    house.deploy_live("hello:2").await;
    house.proxy.set_busy(true);
    house.client.stop(&blue()).await.unwrap();
    until(SOON, "it stops", || async { house.engine.instances().is_empty().then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_instance_runs_on_until_the_proxy_has_written_its_leaving_down() {
    let house = House::with_blue().await;
    let old = house.settles_on(1).await;
    house.engine.hold(Call::Start);
    let id = house.deploy("hello:2").await;
    let held = || async { (house.engine.waiting(Call::Start) == 1).then_some(()) };
    until(SOON, "the start", held).await;
    house.proxy.set_forgetful(true);
    house.engine.release(Call::Start);
    house.ends(&id, DeploymentStatus::Live).await;
    assert!(house.running().iter().any(|i| i.id == old), "stopped before it was forgotten");
    assert_eq!(house.engine.count(Call::Stop), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_written_after_the_engine_was_away_are_kept() {
    let house = House::with_blue().await;
    let id = house.settles_on(1).await;
    house.engine.write(&id, OutputStream::Stdout, "before");
    logged(&house, "before").await;
    let reads = house.engine.count(Call::Logs);
    house.engine.set_reachable(false);
    let broken = || async { (house.engine.count(Call::Logs) > reads).then_some(()) };
    until(SOON, "the stream of lines breaks", broken).await;
    house.engine.set_reachable(true);
    house.engine.write(&id, OutputStream::Stdout, "after");
    logged(&house, "after").await;
    let lines = house.log(&blue()).await;
    assert_eq!(lines.iter().filter(|l| *l == "before").count(), 1, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_waits_for_an_engine_that_is_away() {
    let house = House::with_blue().await;
    house.engine.set_reachable(false);
    let id = house.deploy("hello:1").await;
    let mut events = house.client.deployment_events(&id, 0);
    loop {
        let event = events.next().await.unwrap().expect("it goes on");
        if matches!(&event.body, EventBody::Note { text } if text.contains("waiting for it")) {
            break;
        }
    }
    house.engine.set_reachable(true);
    house.ends(&id, DeploymentStatus::Live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trouble_that_stays_the_same_is_said_once() {
    let house = House::with_blue().await;
    for _ in 0..3 {
        house.engine.fail_next(Call::Start, RuntimeErrorKind::Unreachable, "the engine naps");
    }
    house.deploy_live("hello:2").await;
    let lines = house.log(&blue()).await;
    let told = lines.iter().filter(|l| l.contains("did not start: the engine naps"));
    assert_eq!(told.count(), 1, "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_engine_was_away_a_few_are_started_at_once_and_how_long_it_took_is_said() {
    const APPS: usize = 12;
    let house = House::new().await;
    house.engine.set_now(clock::now());
    for n in 0..APPS {
        let app: AppName = format!("app-{n}").parse().unwrap();
        house.create(app.as_str()).await;
        let new = NewDeployment { image: Some("hello:1".into()), ..NewDeployment::default() };
        let id = house.client.deploy(&app, &new, &house.key()).await.unwrap().id;
        house.ends(&id, DeploymentStatus::Live).await;
    }
    assert_eq!(house.client.server().await.unwrap().recovery, None);
    house.engine.hold(Call::StartAgain);
    house.engine.set_reachable(false);
    house.engine.set_now(clock::now());
    house.engine.reboot();
    house.engine.set_reachable(true);
    let places = (2 * std::thread::available_parallelism().unwrap().get()).clamp(4, 8);
    let waiting = || house.engine.waiting(Call::StartAgain);
    until(SOON, "a few starts", || async { (waiting() == places).then_some(()) }).await;
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 300 {
        assert!(waiting() <= places, "{} at once", waiting());
        tokio::task::yield_now().await;
    }
    house.engine.release(Call::StartAgain);
    let told = || async { house.client.server().await.unwrap().recovery };
    let recovery = until(SOON, "it is said", told).await;
    assert_eq!((recovery.instances, recovery.instances_up), (12, 12), "{recovery:?}");
    assert_eq!(house.running().len(), APPS);
    let text = &recovery.text;
    assert!(text.starts_with("engine back: 12 instances of 12 apps up after"), "{text}");
}
