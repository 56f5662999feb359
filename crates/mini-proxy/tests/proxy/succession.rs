//! One proxy takes the place of another.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mini_core::control::{FromProxy, ToProxy};
use mini_core::route::{Role, WebState};
use mini_proxy::Drained;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::*;

/// The sockets that go from one to the next.
struct Door {
    listener: TcpListener,
    dir: Arc<tempfile::TempDir>,
}

impl Door {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, dir: Arc::new(tempfile::tempdir().unwrap()) }
    }

    async fn start(&self, succeeds: bool) -> Proxy {
        let listener = self.listener.try_clone().unwrap();
        let mut proxy = Proxy::start_in(self.dir.clone(), |config| {
            config.listeners = vec![listener];
            config.succeeds = succeeds.then(|| config.control_socket.clone());
            // What is handed over does not come from the disk.
            config.snapshot = self.dir.path().join("there is no such folder/routes");
        })
        .await;
        proxy.addr = self.listener.local_addr().unwrap();
        proxy
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_overs_under_load_fail_no_request() {
    let door = Door::new();
    let mut proxy = door.start(false).await;
    let (addr, _) = named("ok").await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let front = proxy.addr;
    let clients: Vec<_> = (0..20)
        .map(|n| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let stream = TcpStream::connect(front).await.expect("never refused");
                    let mut client = Client { stream, buf: Vec::new() };
                    loop {
                        let answer = client.get("blue.localhost", "/").await;
                        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
                        done.fetch_add(1, SeqCst);
                        // Half of them keep their connection as long as they may.
                        let closes = answer.header("connection") == Some("close");
                        if closes || n % 2 == 0 || stop.load(SeqCst) {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for generation in 2..=5 {
        let before = done.load(SeqCst);
        soon("some load", async {
            while done.load(SeqCst) < before + 300 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let new = door.start(true).await;
        assert_eq!(proxy.finished().await, Drained::All);
        proxy = new;
        assert_eq!(c.after_all().await, None, "its controller was let go");
        let hello;
        (c, hello) = proxy.controller().await;
        let FromProxy::Hello { generation: known, serving: kept, .. } = hello else { panic!() };
        assert_eq!((known, kept.len()), (generation - 1, 1), "the table came along");
        let apps = vec![serving("blue", addr)];
        c.send(&ToProxy::Table { generation, apps }).await;
        c.until_applied(generation).await;
    }
    stop.store(true, SeqCst);
    for client in clients {
        soon("a client's end", client).await.expect("no request failed");
    }
    assert_eq!(proxy.finish().await, Drained::All);
}

#[tokio::test]
async fn an_instance_is_drained_when_no_proxy_has_a_request_there() {
    let door = Door::new();
    let first = door.start(false).await;
    // Each request is answered when the test says so.
    let (say, told) = tokio::sync::watch::channel(false);
    let (addr, seen) = upstream(move |_, mut conn, seen| {
        let mut told = told.clone();
        async move {
            while conn.try_head().await.is_some() {
                seen.requests.fetch_add(1, SeqCst);
                told.wait_for(|said| *said).await.unwrap();
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let _c = first.with_table(vec![serving("blue", addr)]).await;
    let mut client = first.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    soon("the request", async {
        while seen.requests.load(SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    // Two hand-overs, one after the other: the request is two processes away.
    let second = door.start(true).await;
    let third = door.start(true).await;
    let (mut c, _) = third.controller().await;
    let mut draining = serving("blue", addr);
    draining.targets[0].role = Role::Drain;
    c.send(&ToProxy::Table { generation: 2, apps: vec![draining.clone()] }).await;
    c.until_applied(2).await;
    let drained = |e: &FromProxy| matches!(e, FromProxy::Drained { .. });
    c.status_without(drained).await;
    // It serves, and drains again: what was said before counts no more.
    c.send(&ToProxy::App { generation: 3, route: serving("blue", addr) }).await;
    c.send(&ToProxy::App { generation: 4, route: draining }).await;
    c.until_applied(4).await;
    c.status_without(drained).await;
    say.send_replace(true);
    assert_eq!(client.answer().await.body, "ok");
    c.until_drained("blue-1").await;
    for old in [first, second] {
        assert_eq!(old.finished().await, Drained::All);
    }
}

#[tokio::test]
async fn what_the_old_one_holds_is_served_when_an_instance_comes() {
    let door = Door::new();
    let old = door.start(false).await;
    let _c = old.with_table(vec![app("blue", WebState::Booting, vec![])]).await;
    let mut client = old.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    let mut asking = Controller::connect(old.control_path()).await;
    soon("it is held", async { while asking.status_without(|_| false).await.in_flight < 1 {} })
        .await;
    let new = door.start(true).await;
    let (mut c, _) = new.controller().await;
    let (addr, _) = named("ok").await;
    c.send(&ToProxy::Table { generation: 2, apps: vec![serving("blue", addr)] }).await;
    assert_eq!(client.answer().await.body, "ok");
    assert_eq!(old.finished().await, Drained::All);
}

#[tokio::test]
async fn without_a_successor_that_is_ready_everything_goes_on() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("ok").await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let succeed = ToProxy::Succeed { version: "1".into(), pid: 1 };
    let mut successor = Controller::connect(proxy.control_path()).await;
    successor.send(&succeed).await;
    let estate = |e: &FromProxy| match e {
        FromProxy::Estate(estate) => Some(estate.clone()),
        _ => None,
    };
    let estate = successor.until("the estate", estate).await;
    assert_eq!((estate.generation, estate.apps.len(), estate.serving.len()), (1, 1, 1));
    assert_eq!(c.after_all().await, None, "its controller was let go");
    // Neither a second one nor a controller has anything to say meanwhile.
    let mut second = Controller::connect(proxy.control_path()).await;
    second.send(&succeed).await;
    let stays = |e: &FromProxy| matches!(e, FromProxy::Stays { .. }).then_some(());
    second.until("it stays", stays).await;
    let hello = ToProxy::Hello { server: "srv".parse().unwrap(), version: "0".into() };
    let mut c = Controller::connect(proxy.control_path()).await;
    c.send(&hello).await;
    assert_eq!(c.after_all().await, None);
    assert_eq!(proxy.get("blue.localhost").await.body, "ok");
    // It dies.
    drop((successor, second));
    let table = ToProxy::Table { generation: 2, apps: vec![serving("blue", addr)] };
    let lines = [&hello, &table].map(|line| serde_json::to_string(line).unwrap() + "\n").concat();
    let mut c = soon("a controller is heard again", async {
        loop {
            // One that comes too early finds the connection closed.
            let mut c = Controller::connect(proxy.control_path()).await;
            let _ = c.writer.write_all(lines.as_bytes()).await;
            while let Some(event) = c.try_next().await {
                if event == (FromProxy::Applied { generation: 2 }) {
                    return c;
                }
            }
        }
    })
    .await;
    c.until("durable", |e| (e == &FromProxy::Durable { generation: 2 }).then_some(())).await;
    assert_eq!(proxy.get("blue.localhost").await.body, "ok");
    // One that is late is sent away.
    let mut late = Controller::connect(proxy.control_path()).await;
    late.send(&succeed).await;
    late.until("it stays", stays).await;
    assert_eq!(proxy.get("blue.localhost").await.body, "ok");
}

#[tokio::test]
async fn a_successor_that_is_not_understood_ends() {
    let dir = tempfile::tempdir().unwrap();
    // A proxy that hangs up on what it does not know, and runs on.
    let mut config = config_in(dir.path());
    config.succeeds = Some(config.control_socket.clone());
    let older = tokio::net::UnixListener::bind(&config.control_socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = older.accept().await {
            drop(stream);
        }
    });
    let ended = soon("its end", mini_proxy::run(config, std::future::pending())).await;
    assert!(matches!(ended, Err(mini_proxy::ProxyError::Succession(_))), "{ended:?}");
}

#[tokio::test]
async fn a_successor_with_nobody_before_it_begins_with_the_snapshot() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (addr, _) = named("ok").await;
    let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    c.until("durable", |e| (e == &FromProxy::Durable { generation: 1 }).then_some(())).await;
    proxy.finish().await;
    let change = |c: &mut mini_proxy::ProxyConfig| c.succeeds = Some(c.control_socket.clone());
    let proxy = Proxy::start_in(dir, change).await;
    assert_eq!(proxy.get("blue.localhost").await.body, "ok");
}
