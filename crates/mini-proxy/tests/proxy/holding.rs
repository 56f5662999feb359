//! Requests that wait for an app, and what they are told if they cannot.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use mini_core::control::{FromProxy, ToProxy, Verdict};
use mini_core::release::HealthSpec;
use mini_core::route::{Role, WebState};
use mini_core::time::Millis;
use tokio::net::TcpListener;

use crate::harness::*;

#[tokio::test]
async fn requests_wait_while_an_app_boots() {
    let proxy = Proxy::start().await;
    let (addr, seen) = named("up").await;
    let mut c = proxy.with_table(vec![app("blue", WebState::Booting, vec![])]).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 2\r\n\r\nhi").await;
    soon("the request to be held", async {
        while c.status_without(|_| false).await.in_flight == 0 {}
    })
    .await;
    c.route(app("blue", WebState::Booting, vec![target("b1", addr, Role::Probe)])).await;
    c.until("healthy", |e| matches!(e, FromProxy::Health { .. }).then_some(())).await;
    assert_eq!(seen.requests.load(SeqCst), 0, "a target that is only probed gets no request");
    c.route(app("blue", WebState::Serving, vec![target("b1", addr, Role::Serve)])).await;
    assert_eq!(client.answer().await.body, "up");
}

#[tokio::test]
async fn a_held_request_ends_with_the_state_or_the_time() {
    let proxy = Proxy::start_with(|c| c.hold = Duration::from_secs(1)).await;
    let mut c = proxy.with_table(vec![app("blue", WebState::Booting, vec![])]).await;
    assert_eq!(proxy.get("blue.localhost").await.error(), (503, "H20"));
    let held = async { proxy.get("blue.localhost").await };
    let crash = async {
        while c.status_without(|_| false).await.in_flight == 0 {}
        c.route(app("blue", WebState::Crashed, vec![])).await;
    };
    let (answer, ()) = soon("the end of the hold", async { tokio::join!(held, crash) }).await;
    assert_eq!(answer.error(), (503, "H10"));
    for (state, code) in [(WebState::Stopped, "H14"), (WebState::NothingDeployed, "H81")] {
        c.route(app("blue", state, vec![])).await;
        assert_eq!(proxy.get("blue.localhost").await.error(), (503, code));
    }
    c.send(&ToProxy::Forget { generation: 100, app: "blue".parse().unwrap() }).await;
    c.until_applied(100).await;
    assert_eq!(proxy.get("blue.localhost").await.error(), (404, "unknown_host"));
}

#[tokio::test]
async fn browsers_get_a_page_and_programs_json() {
    let proxy = Proxy::start().await;
    let _c = proxy.with_table(vec![app("blue", WebState::NothingDeployed, vec![])]).await;
    for (accept, kind) in [
        ("text/html,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("*/*", "text/plain; charset=utf-8"),
    ] {
        let mut client = proxy.client().await;
        client
            .send(&format!("GET / HTTP/1.1\r\nHost: blue.localhost\r\nAccept: {accept}\r\n\r\n"))
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.error(), answer.header("content-type")), ((503, "H81"), Some(kind)));
        assert!(answer.body.contains("nothing is deployed yet"), "{}", answer.body);
    }
}

/// The health that the proxy tells next of `instance`.
async fn health(c: &mut Controller, instance: &str) -> (Millis, Verdict) {
    c.until("a verdict", |e| match e {
        FromProxy::Health { instance: i, started, verdict } if i.as_str() == instance => {
            Some((*started, verdict.clone()))
        }
        _ => None,
    })
    .await
}

fn unhealthy(why: &str) -> Verdict {
    Verdict::Unhealthy { why: why.into() }
}

#[tokio::test]
async fn health_is_told_when_it_changes() {
    let proxy = Proxy::start().await;
    let addr = nowhere().await;
    let mut route = app("blue", WebState::Booting, vec![target("b1", addr, Role::Probe)]);
    let mut c = proxy.with_table(vec![route.clone()]).await;
    assert_eq!(health(&mut c, "b1").await, (Millis(1), unhealthy("connection refused")));

    let up = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_up = std::sync::Arc::clone(&up);
    let listener = TcpListener::bind(addr).await.unwrap();
    serve_on(listener, move |_, mut conn, _| {
        let is_up = std::sync::Arc::clone(&is_up);
        async move {
            let head = conn.head().await;
            assert!(head.starts_with("GET /up HTTP/1.1\r\n"), "{head}");
            assert_eq!(header(&head, "host"), Some("blue.localhost"));
            let status = if is_up.load(SeqCst) { "204 No Content" } else { "500 Oops" };
            conn.send(&format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
        }
    });
    assert_eq!(health(&mut c, "b1").await, (Millis(1), Verdict::Healthy));

    // Restarted: the same instance at the same address, and nothing is known of it.
    route.health = HealthSpec { path: Some("/up".into()), check: None };
    route.targets[0].started = Millis(2);
    c.route(route.clone()).await;
    assert_eq!(health(&mut c, "b1").await, (Millis(2), unhealthy("GET /up answered 500")));
    up.store(true, SeqCst);
    assert_eq!(health(&mut c, "b1").await, (Millis(2), Verdict::Healthy));

    // A new controller is told once it has sent its table.
    let (mut c, hello) = proxy.controller().await;
    assert!(matches!(hello, FromProxy::Hello { generation: 2, .. }), "{hello:?}");
    c.send(&ToProxy::Table { generation: 3, apps: vec![route] }).await;
    assert_eq!(c.next().await, FromProxy::Applied { generation: 3 });
    assert_eq!(health(&mut c, "b1").await, (Millis(2), Verdict::Healthy));

    // Three failures in a row, not one.
    up.store(false, SeqCst);
    let failing = std::time::Instant::now();
    assert_eq!(health(&mut c, "b1").await, (Millis(2), unhealthy("GET /up answered 500")));
    assert!(failing.elapsed() > Duration::from_millis(1500), "{:?}", failing.elapsed());
}

#[tokio::test]
async fn after_a_reboot_targets_have_to_prove_themselves() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
    let addr = nowhere().await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    c.until("durable", |e| (e == &FromProxy::Durable { generation: 1 }).then_some(())).await;
    // The same boot: the snapshot is believed, and nobody listens there.
    assert_eq!(proxy.get("blue.localhost").await.error(), (502, "H21"));
    proxy.finish().await;

    let proxy = Proxy::start_in(dir, |c| c.boot_id = "boot-2".into()).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    let (mut c, hello) = proxy.controller().await;
    let FromProxy::Hello { serving, generation: 1, durable: 1, .. } = hello else {
        panic!("{hello:?}");
    };
    assert!(serving.is_empty(), "what is not proven does not serve");
    soon("the request to be held", async {
        while c.status_without(|_| false).await.in_flight == 0 {}
    })
    .await;
    serve_on(TcpListener::bind(addr).await.unwrap(), |_, conn, seen| {
        answer_all(conn, seen, "back")
    });
    assert_eq!(client.answer().await.body, "back");
}

#[tokio::test]
async fn a_proxy_that_has_just_started_waits_for_the_word_of_the_controller() {
    let proxy = Proxy::start().await;
    let (blue, _) = named("blue").await;
    let mut known = proxy.client().await;
    known.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    let mut unknown = proxy.client().await;
    unknown.send("GET / HTTP/1.1\r\nHost: red.localhost\r\n\r\n").await;
    let (mut c, _) = proxy.controller().await;
    soon("both to wait", async { while c.status_without(|_| false).await.in_flight < 2 {} }).await;
    c.send(&ToProxy::Table { generation: 1, apps: vec![serving("blue", blue)] }).await;
    assert_eq!(known.answer().await.body, "blue");
    assert_eq!(unknown.answer().await.error(), (404, "unknown_host"));
}
