//! What once went wrong.

use mini_core::ports::Runtime as _;
use mini_core::testing::Call;

use super::rollouts::gone;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_can_be_used_again_as_soon_as_its_app_is_gone() {
    let house = House::with_blue().await;
    for _ in 0..10 {
        house.client.destroy_app(&blue()).await.unwrap();
        gone(&house).await;
        house.create("blue").await;
        house.deploy_live("hello:1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_not_forgotten_while_an_instance_is_being_made() {
    let house = House::new().await;
    house.create("blue").await;
    house.engine.hold(Call::Start);
    house.deploy("hello:1").await;
    let held = || async { (house.engine.waiting(Call::Start) == 1).then_some(()) };
    until(SOON, "the start", held).await;
    house.client.destroy_app(&blue()).await.unwrap();
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
