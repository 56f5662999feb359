//! Clients that should not be believed.

use std::sync::atomic::Ordering::SeqCst;

use crate::harness::*;

#[tokio::test]
async fn ambiguous_requests_are_refused_and_end_the_connection() {
    let proxy = Proxy::start().await;
    let (addr, seen) = named("blue").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    for request in [
        "POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 4\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: blue.localhost\r\nTransfer-Encoding: chunked\r\n\
         Content-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        "POST / HTTP/1.1\r\nHost: blue.localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: blue.localhost\n\n",
    ] {
        let mut client = proxy.client().await;
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(answer.error(), (400, "H26"), "{request:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(client.rest().await, "", "nothing follows: {request:?}");
    }
    assert_eq!(seen.requests.load(SeqCst), 0, "none of it reached the app");
}

#[tokio::test]
async fn requests_without_one_good_host_are_refused() {
    let proxy = Proxy::start().await;
    for head in [
        "GET / HTTP/1.1\r\nHost: a.localhost\r\nHost: b.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.localhost\r\nHost: a.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.localhost:x\r\n\r\n",
        "GET http://b.localhost/ HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
        "GET http://user@a.localhost/ HTTP/1.1\r\nHost: a.localhost\r\n\r\n",
        "CONNECT a.localhost:80 HTTP/1.1\r\nHost: a.localhost:80\r\n\r\n",
    ] {
        let mut client = proxy.client().await;
        client.send(head).await;
        assert_eq!(client.answer().await.error(), (400, "H26"), "{head:?}");
    }
}

#[tokio::test]
async fn heads_have_limits() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let with = |fields: String| format!("GET / HTTP/1.1\r\nHost: blue.localhost\r\n{fields}\r\n");
    let fields = |n: usize| (0..n).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    let large = |n: usize| format!("x-large: {}\r\n", "a".repeat(n));
    for (request, status) in [
        (with(fields(99)), 200),
        (with(fields(100)), 431),
        (with(large(63 << 10)), 200),
        (with(large(65 << 10)), 431),
    ] {
        let mut client = proxy.client().await;
        client.send(&request).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.header("x-mini-error").is_some(), status == 431);
    }
    // Far beyond, the answer is bare, and still 431.
    let mut client = proxy.client().await;
    client.send(&with(large(300 << 10))).await;
    assert!(client.head().await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn nonsense_gets_an_answer_or_an_end_and_hurts_nobody() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let inputs: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/3.7\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n",
        b"\r\n\r\n\r\n\0\0\0\0\r\n\r\n",
    ];
    for input in inputs {
        let mut client = proxy.client().await;
        tokio::io::AsyncWriteExt::write_all(&mut client.stream, input).await.unwrap();
        let all = client.rest().await;
        assert!(all.is_empty() || all.starts_with("HTTP/1.1 4"), "{input:?}: {all}");
    }
    assert_eq!(proxy.get("blue.localhost").await.body, "blue");
}
