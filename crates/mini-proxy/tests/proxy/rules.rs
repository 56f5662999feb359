//! An app's own rules: domains, who may come in, and what those see who may not.

use mini_core::route::AppRoute;
use mini_core::rules::{RuleTimeouts, Rules, User};

use crate::harness::*;

/// `admin` with the password `s3cret`: SHA-256 of sixteen zero bytes and the password.
fn admin() -> User {
    User {
        name: "admin".into(),
        salt: "00".repeat(16),
        sha256: "5c3df8a518226bdfaa6e89df0bc2b3fbf60de61b48b9bfbe801e06c6494d6d09".into(),
    }
}

fn ruled(route: AppRoute, rules: Rules) -> AppRoute {
    AppRoute { rules: Box::new(rules), ..route }
}

#[tokio::test]
async fn a_wildcard_leads_to_its_app_and_the_name_itself_goes_first() {
    let proxy = Proxy::start().await;
    let ((blue, _), (red, _)) = (named("blue").await, named("red").await);
    let (mut blue, mut red) = (serving("blue", blue), serving("red", red));
    blue.hosts = vec!["*.example.com".parse().unwrap()];
    red.hosts = vec!["www.example.com".parse().unwrap()];
    let mut controller = proxy.with_table(vec![blue, red.clone()]).await;
    for (host, name) in [
        ("a.example.com", "blue"),
        ("A.Example.com.:80", "blue"),
        ("www.example.com", "red"),
        ("blue.localhost", "blue"),
    ] {
        let answer = proxy.get(host).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, name), "{host}");
    }
    for nobodys in ["example.com", "a.b.example.com", "a.example.org"] {
        assert_eq!(proxy.get(nobodys).await.error(), (404, "unknown_host"), "{nobodys}");
    }
    red.hosts.clear();
    controller.route(red).await;
    assert_eq!(proxy.get("www.example.com").await.body, "blue", "let go, and applied");
}

#[tokio::test]
async fn who_has_no_password_is_asked_for_one_and_the_app_hears_who_came() {
    let proxy = Proxy::start().await;
    let (tx, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let (addr, _) = upstream(move |_, mut conn, _| {
        let tx = tx.clone();
        async move {
            tx.send(conn.head().await).unwrap();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let rules = Rules { users: vec![admin()], ..Rules::default() };
    let _c = proxy.with_table(vec![ruled(serving("blue", addr), rules)]).await;
    let ask = async |fields: &str| {
        let mut client = proxy.client().await;
        client.send(&format!("GET / HTTP/1.1\r\nHost: blue.localhost\r\n{fields}\r\n")).await;
        client.answer().await
    };
    let good = "Authorization: Basic YWRtaW46czNjcmV0\r\n";
    for fields in ["", "Authorization: Basic YWRtaW46d3Jvbmc=\r\n", &good.repeat(2)] {
        let answer = ask(fields).await;
        assert_eq!(answer.error(), (401, "password_required"), "{fields}");
        let asks = answer.header("www-authenticate").unwrap();
        assert!(asks.starts_with("Basic realm="), "{asks}");
    }
    assert_eq!(ask(good).await.body, "ok");
    let head = heads.recv().await.unwrap();
    assert_eq!(header(&head, "authorization"), Some("Basic YWRtaW46czNjcmV0"));
    assert!(heads.try_recv().is_err(), "nobody else reached the app");
}

#[tokio::test]
async fn an_app_may_take_its_own_time() {
    let proxy = Proxy::start().await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.rest().await;
    })
    .await;
    let timeouts = RuleTimeouts { first_byte_ms: Some(200), ..RuleTimeouts::default() };
    let rules = Rules { timeouts, ..Rules::default() };
    let _c = proxy.with_table(vec![ruled(serving("blue", addr), rules)]).await;
    // The platform's own is 30 s.
    assert_eq!(proxy.get("blue.localhost").await.error(), (504, "H12"));
}

#[tokio::test]
async fn strangers_large_bodies_and_everybody_in_maintenance_stay_outside() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let with = |rules| ruled(serving("blue", addr), rules);
    let allow = |net: &str| Rules { allow: vec![net.parse().unwrap()], ..Rules::default() };
    let mut controller = proxy.with_table(vec![with(allow("10.0.0.0/8"))]).await;
    assert_eq!(proxy.get("blue.localhost").await.error(), (403, "address_not_allowed"));
    controller.route(with(allow("127.0.0.0/8"))).await;
    assert_eq!(proxy.get("blue.localhost").await.status, 200);

    controller.route(with(Rules { body_limit: Some(4), ..Rules::default() })).await;
    let mut client = proxy.client().await;
    let post = "POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: ";
    client.send(&format!("{post}4\r\n\r\nfour")).await;
    assert_eq!(client.answer().await.body, "blue");
    // Refused before a byte of the body is there.
    client.send(&format!("{post}5\r\n\r\n")).await;
    assert_eq!(client.answer().await.error(), (413, "H26"));

    // One that does not say how long it is, is followed.
    let mut client = proxy.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: blue.localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.error(), (413, "H26"));

    let (addr, seen) = named("calm").await;
    let with = |rules| ruled(serving("blue", addr), rules);
    let pages = vec![("H80".to_owned(), "<h1>Back soon</h1>".to_owned())];
    controller.route(with(Rules { maintenance: true, pages, ..Rules::default() })).await;
    let ask = async |accept: &str| {
        let mut client = proxy.client().await;
        let head = format!("GET / HTTP/1.1\r\nHost: blue.localhost\r\nAccept: {accept}\r\n\r\n");
        client.send(&head).await;
        client.answer().await
    };
    let page = ask("text/html").await;
    assert_eq!((page.error(), page.body.as_str()), ((503, "H80"), "<h1>Back soon</h1>"));
    let json = ask("application/json").await;
    assert!(json.error() == (503, "H80") && json.body.contains("being worked on"), "{json:?}");
    assert_eq!(seen.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
    controller.route(serving("blue", addr)).await;
    assert_eq!(proxy.get("blue.localhost").await.body, "calm");
}
