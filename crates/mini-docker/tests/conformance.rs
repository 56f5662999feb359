//! The ports' promises, kept by the fake and by a real engine alike; and what only a real engine
//! can show. Needs a Docker Engine and no registry.

mod support;

use std::sync::Arc;

use mini_core::testing::FakeRuntime;
use mini_core::testing::conformance::{self, Fixture};
use support::{DOCKERFILE, context, on_engine};

fn fixture(seed: u32) -> Fixture {
    let pool = "10.254.0.0/16".parse().unwrap();
    Fixture { tar: context(DOCKERFILE), pool, seed }
}

#[tokio::test]
async fn the_fake_keeps_the_ports_promises() {
    let fake = FakeRuntime::new();
    conformance::run(Arc::new(fake.clone()), Arc::new(fake.clone()), fixture(1)).await;
    assert_eq!(fake.instances(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_keeps_the_ports_promises() {
    on_engine(|engine| async move {
        let docker = Arc::new(engine.docker.clone());
        conformance::run(docker.clone(), docker, fixture(engine.seed)).await;
    })
    .await;
}
