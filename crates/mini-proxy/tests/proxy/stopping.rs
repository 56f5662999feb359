//! The end of a proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mini_proxy::Drained;
use tokio::net::TcpStream;

use crate::harness::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_under_load_fails_no_request() {
    let mut proxy = Proxy::start().await;
    let (addr, _) = named("ok").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let front = proxy.addr;
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                loop {
                    // A connection that was closed between two requests is no failure; one that
                    // is closed after a request was sent is.
                    let Ok(stream) = TcpStream::connect(front).await else {
                        assert!(stop.load(SeqCst), "refused before the shutdown");
                        return;
                    };
                    let mut client = Client { stream, buf: Vec::new() };
                    loop {
                        let answer = client.get("blue.localhost", "/").await;
                        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
                        done.fetch_add(1, SeqCst);
                        if answer.header("connection") == Some("close") {
                            break;
                        }
                        if n % 2 == 0 {
                            tokio::time::sleep(Duration::from_millis(n)).await;
                        }
                    }
                    if stop.load(SeqCst) {
                        return;
                    }
                }
            })
        })
        .collect();
    soon("some load", async {
        while done.load(SeqCst) < 2000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    stop.store(true, SeqCst);
    proxy.begin_shutdown();
    for client in clients {
        soon("a client's end", client).await.expect("no request failed");
    }
    assert_eq!(proxy.finish().await, Drained::All);
}

#[tokio::test]
async fn idle_connections_do_not_hold_a_shutdown_up_and_a_late_request_is_served() {
    let mut proxy = Proxy::start_with(|c| c.drain = Duration::from_secs(30)).await;
    let (addr, _) = named("ok").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut idle = proxy.client().await;
    idle.get("blue.localhost", "/").await;
    let mut fresh = proxy.client().await;
    // The kernel gives a connection to the proxy with its first bytes.
    fresh.send("\r\n").await;
    let mut late = proxy.client().await;
    late.get("blue.localhost", "/").await;
    late.send("GET / HTTP/1.1\r\nHost: blue").await;
    let mut c = proxy.controller().await.0;
    soon("all connections", async { while c.status_without(|_| false).await.connections < 3 {} })
        .await;
    proxy.begin_shutdown();
    assert_eq!(idle.rest().await, "");
    assert_eq!(fresh.rest().await, "");
    // Its head was on the way when the shutdown began.
    late.send(".localhost\r\n\r\n").await;
    let answer = late.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(late.rest().await, "");
    assert_eq!(proxy.finish().await, Drained::All);
}

#[tokio::test]
async fn what_outlasts_the_drain_time_is_cut_and_counted() {
    let proxy = Proxy::start_with(|c| c.drain = Duration::from_millis(300)).await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx").await;
        conn.rest().await;
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    assert_eq!(proxy.finish().await, Drained::Cut(1));
    assert_eq!(client.rest().await, "x");
}
