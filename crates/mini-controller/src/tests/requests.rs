//! What the proxy saw of requests, as users read it.

use std::time::Duration;

use mini_core::control::{AppTraffic, ReleaseTraffic};
use mini_core::latency::{Counts, bucket};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_routers_lines_are_in_the_apps_log_and_no_other() {
    let house = House::with_blue().await;
    house.proxy.saw(
        Vec::new(),
        &[
            "blue\t1790000000000000002\tat=info method=GET path=\"/second\" status=200",
            "blue\t1790000000000000001\tat=info method=GET path=\"/first\" status=200",
            "red\t1790000000000000003\tat=info method=GET path=\"/other\" status=200",
        ],
    );
    until(SOON, "the lines are kept", || async { (house.proxy.lines_left() == 0).then_some(()) })
        .await;
    let query = LogQuery {
        source: Some("mini".into()),
        process: Some("router".into()),
        ..LogQuery::default()
    };
    let mut logs = house.client.logs(&blue(), query);
    let mut found = Vec::new();
    while let Some(LogItem::Line(line)) = logs.next().await.unwrap() {
        found.push((line.at.to_string(), line.text));
    }
    let at = |nanos: i128| jiff::Timestamp::from_nanosecond(nanos).unwrap().to_string();
    assert_eq!(found[0].1, "3 lines lost");
    assert_eq!(
        found[1..],
        [
            (
                at(1_790_000_000_000_000_001),
                "at=info method=GET path=\"/first\" status=200".to_owned()
            ),
            (
                at(1_790_000_000_000_000_002),
                "at=info method=GET path=\"/second\" status=200".to_owned()
            ),
        ]
    );
    assert!(!house.folder.path().join("logs/red").exists(), "no app of that name is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_the_proxys_counters_up_to_now() {
    let house = House::with_blue().await;
    until(SOON, "a first sample", || async {
        house.client.metrics(&blue()).await.unwrap().known.then_some(())
    })
    .await;
    let eight = bucket(Duration::from_millis(8));
    let release = ReleaseTraffic {
        release: Some(1),
        statuses: [0, 8, 0, 1, 1, 0],
        latency: Counts::of((0..=eight).map(|b| if b == eight { 10 } else { 0 })),
        ..ReleaseTraffic::default()
    };
    let (waiting, held) = (2, 5);
    let traffic = AppTraffic { app: blue(), waiting, held, releases: vec![release] };
    house.proxy.saw(vec![traffic], &[]);
    let metrics = house.client.metrics(&blue()).await.unwrap();
    let minute = &metrics.windows[0];
    assert_eq!((minute.requests, minute.errors, minute.error_share), (10, 1, Some(0.1)));
    assert!((8.0..9.0).contains(&minute.p99_ms.unwrap()), "{minute:?}");
    assert_eq!((metrics.releases[0].release.as_str(), metrics.releases[0].requests), ("v1", 10));
    assert_eq!(metrics.waiting, 2);
    let missing = house.client.metrics(&"red".parse().unwrap()).await.unwrap_err();
    assert!(missing.to_string().contains("red"), "{missing}");
}
