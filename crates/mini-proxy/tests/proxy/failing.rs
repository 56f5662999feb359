//! Upstreams that misbehave.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use mini_core::route::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

/// Answers the first request of the first connection, and closes at the second.
async fn closes_at_the_second_request() -> (std::net::SocketAddr, Seen) {
    upstream(|number, mut conn, seen| async move {
        if number > 0 {
            return answer_all(conn, seen, "again").await;
        }
        for n in 0..2 {
            let head = conn.head().await;
            seen.requests.fetch_add(1, SeqCst);
            if let Some(length) = header(&head, "content-length") {
                conn.exactly(length.parse().unwrap()).await;
            }
            if n == 0 {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_get_survives_a_connection_that_was_closed_under_it() {
    let proxy = Proxy::start().await;
    let (addr, seen) = closes_at_the_second_request().await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("blue.localhost", "/").await.body, "first");
    assert_eq!(client.get("blue.localhost", "/").await.body, "again");
    assert_eq!(seen.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let proxy = Proxy::start().await;
    let (addr, seen) = closes_at_the_second_request().await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("blue.localhost", "/").await.body, "first");
    client.send("POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.error(), (502, "H13"));
    assert_eq!(seen.requests.load(SeqCst), 2, "the GET and one POST");
}

#[tokio::test]
async fn a_post_goes_to_another_instance_if_nothing_was_sent() {
    let proxy = Proxy::start().await;
    let (alive, seen) = named("alive").await;
    let mut route = serving("blue", nowhere().await);
    route.targets.push(target("blue-2", alive, Role::Serve));
    let _c = proxy.with_table(vec![route]).await;
    for _ in 0..10 {
        let mut client = proxy.client().await;
        client.send("POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!(client.answer().await.body, "alive");
    }
    assert_eq!(seen.requests.load(SeqCst), 10);
}

#[tokio::test]
async fn failures_have_codes() {
    let proxy = Proxy::start_with(|c| c.timeouts.first_byte = Duration::from_secs(1)).await;
    let answers = |text: &'static str| {
        upstream(move |_, mut conn, seen| async move {
            conn.head().await;
            seen.requests.fetch_add(1, SeqCst);
            conn.send(text).await;
        })
    };
    let (closes, closes_seen) = answers("").await;
    let (breaks, breaks_seen) = answers("HTTP/1.1 200 OK\r\nConte").await;
    let (nonsense, _) = answers("SSH-2.0-OpenSSH\r\n\r\n").await;
    let (silent, _) = upstream(|_, mut conn, _| async move { drop(conn.rest().await) }).await;
    let (unasked, _) =
        answers("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
            .await;
    let _c = proxy
        .with_table(vec![
            serving("refuses", nowhere().await),
            serving("closes", closes),
            serving("breaks", breaks),
            serving("nonsense", nonsense),
            serving("silent", silent),
            serving("unasked", unasked),
        ])
        .await;
    for (app, error) in [
        ("refuses", (502, "H21")),
        ("closes", (502, "H13")),
        ("breaks", (502, "H13")),
        ("nonsense", (502, "H17")),
        ("silent", (504, "H12")),
        ("unasked", (502, "H17")),
    ] {
        let answer = proxy.get(&format!("{app}.localhost")).await;
        assert_eq!(answer.error(), error, "{app}: {answer:?}");
        assert!(answer.body.contains(answer.header("x-request-id").unwrap()), "{}", answer.body);
    }
    assert_eq!(closes_seen.requests.load(SeqCst), 2, "tried once more");
    assert_eq!(breaks_seen.requests.load(SeqCst), 1, "a byte of the answer came: not again");
}

#[tokio::test]
async fn a_slow_upload_is_not_a_late_answer() {
    let proxy = Proxy::start_with(|c| c.timeouts.first_byte = Duration::from_secs(1)).await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.exactly(6).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.send("POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 6\r\n\r\n").await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.body, "ok");
}

#[tokio::test]
async fn a_broken_answer_is_broken_for_the_client_too() {
    let proxy = Proxy::start().await;
    let breaks = |head: &'static str, body: &'static str| {
        upstream(move |_, mut conn, _| async move {
            conn.head().await;
            conn.send(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
            // A reset, not an end.
            rustix::net::sockopt::set_socket_linger(&conn.stream, Some(Duration::ZERO)).unwrap();
        })
    };
    let (chunked, _) = breaks("Transfer-Encoding: chunked", "4\r\npart\r\n").await;
    let (sized, _) = breaks("Content-Length: 100", "part").await;
    let _c = proxy.with_table(vec![serving("chunked", chunked), serving("sized", sized)]).await;
    for app in ["chunked", "sized"] {
        let mut client = proxy.client().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: {app}.localhost\r\n\r\n")).await;
        let all = client.rest().await;
        assert!(!all.ends_with("0\r\n\r\n") && all.len() < 400, "{app} looks whole: {all:?}");
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_cut() {
    let proxy = Proxy::start_with(|c| c.timeouts.body_idle = Duration::from_secs(1)).await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n").await;
        for _ in 0..5 {
            // Slow, and yet it moves.
            tokio::time::sleep(Duration::from_millis(300)).await;
            conn.send("x").await;
        }
        conn.rest().await;
    })
    .await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    assert_eq!(client.rest().await, "xxxxx");
    assert_eq!(c.status_without(|_| false).await.cut, 1);
}

#[tokio::test]
async fn an_upload_that_nobody_wants_still_gets_its_answer() {
    let proxy = Proxy::start().await;
    for _ in 0..5 {
        let mut client = proxy.client().await;
        let size = 16 << 20;
        client
            .send(&format!(
                "POST / HTTP/1.1\r\nHost: nobody.localhost\r\nContent-Length: {size}\r\n\r\n"
            ))
            .await;
        // The proxy answers at once, reads on for a while, and does not reset.
        client.stream.write_all(&vec![b'x'; size]).await.expect("the upload is not reset");
        assert_eq!(client.answer().await.error(), (404, "unknown_host"));
        let end = soon("the end", client.stream.read(&mut [0])).await;
        assert_eq!(end.expect("an end, not a reset"), 0);
    }
}

#[tokio::test]
async fn an_idle_connection_is_trusted_for_a_while_only() {
    let proxy = Proxy::start().await;
    let (addr, seen) = named("ok").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.get("blue.localhost", "/").await;
    tokio::time::sleep(Duration::from_millis(2200)).await;
    client.get("blue.localhost", "/").await;
    assert_eq!(seen.connections.load(SeqCst), 1, "a GET may be repeated, so it takes the risk");
    tokio::time::sleep(Duration::from_millis(2200)).await;
    client.send("POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.body, "ok");
    assert_eq!(seen.connections.load(SeqCst), 2, "a POST may not");
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_app() {
    let short = Duration::from_millis(500);
    let proxy = Proxy::start_with(|c| c.timeouts.half_closed = short).await;
    let (tx, mut left) = tokio::sync::mpsc::unbounded_channel();
    let (addr, _) = upstream(move |_, mut conn, _| {
        let tx = tx.clone();
        async move {
            let head = conn.head().await;
            if head.starts_with("GET /stream") {
                conn.send("HTTP/1.1 200 OK\r\n\r\nsome").await;
            }
            conn.rest().await;
            tx.send(()).unwrap();
        }
    })
    .await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    for path in ["/silent", "/stream"] {
        let mut client = proxy.client().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: blue.localhost\r\n\r\n")).await;
        soon("the request to be in flight", async {
            while c.status_without(|_| false).await.in_flight == 0 {}
        })
        .await;
        if path == "/stream" {
            client.until("some").await;
        }
        drop(client);
        soon("the app to see the end", left.recv()).await.unwrap();
        soon("the count to fall", async {
            while c.status_without(|_| false).await.in_flight > 0 {}
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_has_only_ended_its_own_direction_gets_its_answer() {
    let proxy = Proxy::start().await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        // Longer than it takes until the client's end is seen.
        tokio::time::sleep(Duration::from_millis(600)).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole").await;
        conn.rest().await;
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.answer().await.body, "whole");
    assert_eq!(client.rest().await, "");
}
