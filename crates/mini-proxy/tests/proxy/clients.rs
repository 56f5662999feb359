//! Who the clients are, and how many of them there may be.

use std::net::SocketAddr;

use mini_proxy::Clients;

use crate::harness::*;

/// An app that answers with the head of each request.
async fn mirror() -> SocketAddr {
    let answer = |_, mut conn: Client, _| async move {
        while let Some(head) = conn.try_head().await {
            let len = head.len();
            conn.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{head}")).await;
        }
    };
    upstream(answer).await.0
}

async fn start(clients: Clients) -> (Proxy, Controller) {
    let proxy = Proxy::start_with(|config| config.clients = clients).await;
    let c = proxy.with_table(vec![serving("blue", mirror().await)]).await;
    (proxy, c)
}

fn request(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: blue.localhost\r\n{fields}\r\n")
}

/// What the app is told of whom the request is.
fn forwarded_for(answer: &Answer) -> &str {
    header(&answer.body, "x-forwarded-for").expect("it is always told")
}

#[tokio::test]
async fn a_proxy_header_says_who_the_client_is_and_without_one_the_connection_is_closed() {
    let (proxy, mut c) = start(Clients { proxy_protocol: true, ..Clients::default() }).await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\x7f\0\0\x01\xdc\x04\0\x50";
    let v1 = b"PROXY TCP4 192.0.2.1 127.0.0.1 56324 80\r\n";
    for (head, client) in [(&v1[..], "192.0.2.1"), (&v2[..], "203.0.113.7")] {
        let mut stream = proxy.client().await;
        // In pieces: some of it, the rest with a request behind it, one more on the connection.
        use tokio::io::AsyncWriteExt as _;
        stream.stream.write_all(&head[..9]).await.unwrap();
        let rest = [&head[9..], request("").as_bytes()].concat();
        stream.stream.write_all(&rest).await.unwrap();
        assert_eq!(forwarded_for(&stream.answer().await), client);
        let again = stream.get("blue.localhost", "/").await;
        assert_eq!(forwarded_for(&again), client);
    }
    let mut without = proxy.client().await;
    without.send(&request("")).await;
    assert_eq!(without.rest().await, "", "closed, and nothing was said");
    assert_eq!(c.status_without(|_| false).await.requests, 4);
}

#[tokio::test]
async fn where_proxies_are_named_only_they_are_believed() {
    let elsewhere = || vec!["192.0.2.0/24".parse().unwrap()];
    let here = || vec!["127.0.0.0/8".parse().unwrap()];
    let v1 = "PROXY TCP4 203.0.113.7 127.0.0.1 56324 80\r\n";
    for (trusted, client) in [(here(), "203.0.113.7"), (elsewhere(), "127.0.0.1")] {
        let clients = Clients { proxy_protocol: true, trusted, ..Clients::default() };
        let (proxy, _c) = start(clients).await;
        let mut stream = proxy.client().await;
        stream.send(&(v1.to_owned() + &request(""))).await;
        assert_eq!(forwarded_for(&stream.answer().await), client);
    }
    let said = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n";
    for (trusted, chain, proto) in [
        (here(), "203.0.113.7, 127.0.0.1", "https"),
        (elsewhere(), "127.0.0.1", "http"),
        (vec![], "127.0.0.1", "http"),
    ] {
        let (proxy, _c) = start(Clients { trusted, ..Clients::default() }).await;
        let mut stream = proxy.client().await;
        stream.send(&request(said)).await;
        let answer = stream.answer().await;
        assert_eq!(forwarded_for(&answer), chain);
        assert_eq!(header(&answer.body, "x-forwarded-proto"), Some(proto));
    }
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_counted() {
    let (proxy, mut c) = start(Clients { max: 3, ..Clients::default() }).await;
    let mut there = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.client().await;
        assert_eq!(client.get("blue.localhost", "/").await.status, 200);
        there.push(client);
    }
    let mut more = proxy.client().await;
    // The kernel gives it to the proxy with its first bytes.
    more.send(&request("")).await;
    assert_eq!(more.rest().await, "");
    let status = c.status_without(|_| false).await;
    assert_eq!((status.connections, status.refused, status.requests), (3, 1, 3));
    assert_eq!(there[0].get("blue.localhost", "/").await.status, 200, "the others go on");
    drop(there.pop());
    soon("a place is free again", async {
        loop {
            let mut client = proxy.client().await;
            client.send(&request("")).await;
            if client.try_answer().await.is_some() {
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn one_client_too_many_times_leaves_the_others_alone() {
    let clients = Clients { proxy_protocol: true, max_each: 2, ..Clients::default() };
    let (proxy, mut c) = start(clients).await;
    let come = async |from: &str| {
        let mut client = proxy.client().await;
        let line = format!("PROXY TCP6 {from} ::1 56324 80\r\n");
        client.send(&(line + &request(""))).await;
        client.try_answer().await.map(|answer| (answer.status, client))
    };
    let first = [come("2001:db8::1").await, come("2001:db8::2").await];
    assert!(first.iter().all(Option::is_some));
    assert!(come("2001:db8::3").await.is_none(), "the third of one network");
    assert!(come("2001:db8:0:1::1").await.is_some());
    assert_eq!(c.status_without(|_| false).await.refused, 1);
}

#[tokio::test]
async fn an_app_that_does_not_answer_leaves_room_for_the_others() {
    let clients = Clients { max_of_app: 2, ..Clients::default() };
    let proxy = Proxy::start_with(|config| config.clients = clients).await;
    let (say, told) = tokio::sync::watch::channel(false);
    let (silent, _) = upstream(move |_, conn, seen| {
        let mut told = told.clone();
        async move {
            told.wait_for(|said| *said).await.unwrap();
            answer_all(conn, seen, "blue").await;
        }
    })
    .await;
    let (red, _) = named("red").await;
    let mut c = proxy.with_table(vec![serving("blue", silent), serving("red", red)]).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = proxy.client().await;
        client.send(&request("")).await;
        waiting.push(client);
    }
    soon("both are there", async { while c.status_without(|_| false).await.in_flight < 2 {} })
        .await;
    soon("both are at the app", async {
        while proxy.get("blue.localhost").await.error() != (503, "H22") {}
    })
    .await;
    assert_eq!(proxy.get("red.localhost").await.body, "red");
    say.send_replace(true);
    for mut client in waiting {
        assert_eq!(client.answer().await.body, "blue");
    }
    assert_eq!(proxy.get("blue.localhost").await.body, "blue", "there is room again");
}
