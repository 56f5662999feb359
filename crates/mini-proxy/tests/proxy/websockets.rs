//! WebSockets that are cut.

use std::sync::Arc;
use std::time::Duration;

use mini_core::route::WebState;
use tokio::sync::{Mutex, oneshot};

use crate::harness::*;

/// A WebSocket of an upstream that sends `first` at once and `rest` a little after it was told to.
async fn websocket(
    proxy: &Proxy,
    first: &'static str,
    rest: &'static str,
) -> (Controller, Client, oneshot::Sender<()>) {
    let (go_on, going_on) = oneshot::channel();
    let going_on = Arc::new(Mutex::new(Some(going_on)));
    let (addr, _) = upstream(move |_, mut conn, _| {
        let going_on = going_on.clone();
        async move {
            conn.head().await;
            conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n",
            )
            .await;
            conn.send(first).await;
            if let Some(told) = going_on.lock().await.take() {
                let _ = told.await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                conn.send(rest).await;
            }
            conn.more().await;
        }
    })
    .await;
    let c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut client = proxy.client().await;
    client
        .send(
            "GET /ws HTTP/1.1\r\nHost: blue.localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\n\r\n",
        )
        .await;
    client.head().await;
    (c, client, go_on)
}

#[tokio::test]
async fn a_websocket_that_is_cut_is_told_so_between_two_frames() {
    for (first, rest) in [("\u{1}\u{2}hi", ""), ("\u{1}\u{2}h", "i"), ("\u{1}", "\u{2}hi")] {
        let proxy = Proxy::start().await;
        let (mut c, mut client, go_on) = websocket(&proxy, first, rest).await;
        assert_eq!(client.exactly(first.len()).await, first);
        c.route(app("blue", WebState::Booting, Vec::new())).await;
        go_on.send(()).unwrap();
        assert_eq!(client.exactly(rest.len()).await, rest, "the frame is sent to its end");
        while client.more().await {}
        assert_eq!(client.buf, [0x88, 2, 0x03, 0xe9], "close, 1001: going away");
        drop(client);
        soon("the end of the count", async {
            while c.status_without(|_| false).await.in_flight > 0 {}
        })
        .await;
    }
}

#[tokio::test]
async fn a_websocket_cut_within_a_frame_that_does_not_end_is_not_lied_to() {
    let proxy = Proxy::start().await;
    let (mut c, mut client, _never) = websocket(&proxy, "\u{1}\u{2}h", "").await;
    assert_eq!(client.exactly(3).await, "\u{1}\u{2}h");
    c.route(app("blue", WebState::Booting, Vec::new())).await;
    assert_eq!(client.rest().await, "", "a frame of ours would be read as the payload of theirs");
}
