//! Requests that reach an app, and how.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use tokio::sync::Notify;

use crate::harness::*;

#[tokio::test]
async fn the_host_header_chooses_the_app() {
    let proxy = Proxy::start().await;
    let (blue, _) = named("blue").await;
    let (red, _) = named("red").await;
    let mut red = serving("red", red);
    red.hosts = vec!["www.example.com".parse().unwrap()];
    let _c = proxy.with_table(vec![serving("blue", blue), red]).await;

    let mut client = proxy.client().await;
    for (host, name) in [
        ("blue.localhost", "blue"),
        ("red.localhost:8080", "red"),
        ("WWW.Example.com.", "red"),
        ("blue.localhost", "blue"),
    ] {
        let answer = client.get(host, "/").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, name), "{host}");
        assert_eq!(answer.header("via"), Some("1.1 mini"));
    }
    assert_eq!(client.get("green.localhost", "/").await.error(), (404, "unknown_host"));
}

#[tokio::test]
async fn the_app_reads_who_asked() {
    let proxy = Proxy::start().await;
    let (tx, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let (addr, _) = upstream(move |_, mut conn, _| {
        let tx = tx.clone();
        async move {
            tx.send(conn.head().await).unwrap();
            conn.send(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\
                 Keep-Alive: timeout=5\r\nX-End: 2\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client
        .send(
            "GET http://Blue.localhost/a%20b?c=d&e HTTP/1.1\r\nHost: Blue.localhost\r\n\
             Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
             X-Forwarded-For: 6.6.6.6\r\nX-Request-ID: my-id\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMA\r\nX-Mine: kept\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert_eq!(answer.header("x-end"), Some("2"));
    for gone in ["x-hop", "keep-alive", "connection"] {
        assert_eq!(answer.header(gone), None, "{}", answer.head);
    }
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /a%20b?c=d&e HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", "Blue.localhost"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", &proxy.addr.port().to_string()),
        ("x-forwarded-host", "Blue.localhost"),
        ("x-request-id", "my-id"),
        ("via", "1.1 mini"),
        ("x-mine", "kept"),
    ] {
        assert_eq!(header(&head, name), Some(value), "{head}");
    }
    for gone in ["x-secret", "keep-alive", "te", "upgrade", "http2-settings", "connection"] {
        assert_eq!(header(&head, gone), None, "{head}");
    }
    assert!(header(&head, "x-request-start").is_some_and(|v| v.starts_with("t=")));
}

#[tokio::test]
async fn bodies_flow_both_ways_at_once() {
    let proxy = Proxy::start().await;
    let (addr, _) = echo_chunks("\r\n", "0\r\n\r\n").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: blue.localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("4\r\nping\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    // Each piece comes back before the next one is sent: nothing is gathered on the way.
    assert_eq!(client.until("ping\r\n").await, "4\r\nping\r\n");
    for word in ["one", "three"] {
        let piece = format!("{:x}\r\n{word}\r\n", word.len());
        client.send(&piece).await;
        assert_eq!(client.until(&format!("{word}\r\n")).await, piece);
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn an_event_stream_arrives_event_by_event() {
    let proxy = Proxy::start().await;
    let seen_by_client = Arc::new(Notify::new());
    let go_on = Arc::clone(&seen_by_client);
    let (addr, _) = upstream(move |_, mut conn, _| {
        let go_on = Arc::clone(&go_on);
        async move {
            conn.head().await;
            conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
            for n in 0..3 {
                conn.send(&format!("data: {n}\n\n")).await;
                go_on.notified().await;
            }
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.send("GET /events HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    for n in 0..3 {
        client.until(&format!("data: {n}\n\n")).await;
        seen_by_client.notify_one();
    }
    // The app ended by closing; the client, whose connection lives on, is told in chunks.
    client.until("\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn an_upgraded_connection_carries_raw_bytes() {
    let proxy = Proxy::start().await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        let head = conn.head().await;
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: x\r\n\r\nhello",
        )
        .await;
        while conn.buf.len() < 4 && conn.more().await {}
        let echo = conn.exactly(4).await;
        conn.send(&echo).await;
        assert_eq!(conn.rest().await, "\n\0bye");
    })
    .await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client
        .send(
            "GET /ws HTTP/1.1\r\nHost: blue.localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(header(&head, "sec-websocket-accept"), Some("x"));
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(client.exactly(5).await, "hello");
    client.send("ping").await;
    assert_eq!(client.exactly(4).await, "ping");
    assert_eq!(c.status_without(|_| false).await.in_flight, 1, "it counts as in flight");
    client.send("\n\0bye").await;
    drop(client);
    soon("the end of the count", async {
        while c.status_without(|_| false).await.in_flight > 0 {}
    })
    .await;
}

#[tokio::test]
async fn old_and_terse_clients_are_served() {
    let proxy = Proxy::start().await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        while let Some(head) = conn.try_head().await {
            let answer = match head.split(' ').take(2).collect::<Vec<_>>()[..] {
                ["HEAD", _] => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                [_, "/304"] => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
                [_, "/204"] => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            };
            conn.send(answer).await;
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;

    let mut old = proxy.client().await;
    old.send("GET / HTTP/1.0\r\nHost: blue.localhost\r\n\r\n").await;
    let all = old.rest().await;
    // RFC 9110 section 2.5: the answer has our version.
    assert!(all.starts_with("HTTP/1.1 200") && all.ends_with("\r\n\r\nok"), "{all:?}");
    assert_eq!(header(&all, "connection"), Some("close"));

    let mut client = proxy.client().await;
    client.send("HEAD / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    assert_eq!(header(&client.head().await, "content-length"), Some("1234"));
    assert_eq!(client.get("blue.localhost", "/304").await.header("etag"), Some("\"x\""));
    assert_eq!(client.get("blue.localhost", "/204").await.status, 204);
    // Two requests in one packet get two answers, in order.
    let get = "GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n";
    client.send(&(get.to_owned() + "GET /204 HTTP/1.1\r\nHost: blue.localhost\r\n\r\n")).await;
    assert_eq!(client.answer().await.body, "ok");
    assert_eq!(client.answer().await.status, 204);
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_by_the_app() {
    let proxy = Proxy::start().await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        while let Some(head) = conn.try_head().await {
            if head.starts_with("PUT /no") {
                conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
                assert_eq!(conn.rest().await, "", "no byte of a body that was not wanted");
                return;
            }
            conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(conn.exactly(5).await, "hello");
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let ask = |path| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: blue.localhost\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\n\r\n"
        )
    };
    let mut client = proxy.client().await;
    client.send(&ask("/yes")).await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    assert_eq!(client.answer().await.body, "ok");
    client.send(&ask("/no")).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "big"));
}

#[tokio::test]
async fn a_slow_reader_holds_the_app_back() {
    let proxy = Proxy::start().await;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let total = 64 << 20;
    let (addr, _) = upstream(move |_, mut conn, _| {
        let count = Arc::clone(&count);
        async move {
            conn.head().await;
            conn.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n")).await;
            let piece = "x".repeat(64 << 10);
            for _ in 0..total / piece.len() {
                conn.send(&piece).await;
                count.fetch_add(piece.len(), SeqCst);
            }
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    // Until the app stands still for a while.
    let mut last = usize::MAX;
    while last != sent.load(SeqCst) {
        last = sent.load(SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(last < total / 2, "{last} bytes were taken from the app");
    let mut left = total;
    while left > 0 {
        left -= client.buf.len();
        client.buf.clear();
        assert!(left == 0 || client.more().await, "{left} bytes are missing");
    }
}

#[tokio::test]
async fn requests_spread_over_the_instances() {
    let proxy = Proxy::start().await;
    let (one, seen_one) = named("x").await;
    let (two, seen_two) = named("x").await;
    let mut route = serving("blue", one);
    route.targets.push(target("blue-2", two, mini_core::route::Role::Serve));
    let _c = proxy.with_table(vec![route]).await;
    let mut client = proxy.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("blue.localhost", "/").await.status, 200);
    }
    for seen in [seen_one, seen_two] {
        assert_eq!(seen.requests.load(SeqCst), 10);
        assert_eq!(seen.connections.load(SeqCst), 1, "the connection is used again");
    }
}

#[tokio::test]
async fn the_door_leads_to_the_controller_or_says_that_it_is_away() {
    let proxy = Proxy::start().await;
    for host in ["127.0.0.1", "localhost:8080", "mini.localhost", "[::1]"] {
        let answer = proxy.get(host).await;
        assert_eq!(answer.error(), (503, "controller_unavailable"));
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["code"], "controller_unavailable");
        assert_eq!(body["request_id"], answer.header("x-request-id").unwrap());
        assert!(body["message"].is_string() && body["hint"].is_string());
    }
    let listener = tokio::net::UnixListener::bind(proxy.dir.path().join("api.sock")).unwrap();
    let api = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = vec![0; 4096];
        let n = stream.read(&mut buf).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napi").await.unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    });
    let mut client = proxy.client().await;
    client
        .send("GET /v1/apps HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.body, "api");
    let head = api.await.unwrap();
    assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"));
    // It is gone again, connection and all.
    assert_eq!(proxy.get("localhost").await.status, 503);
}
