//! What the controller says and hears.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use mini_core::control::{FromProxy, ToProxy};
use mini_core::route::{Role, WebState};
use tokio::io::AsyncWriteExt;

use crate::harness::*;

#[tokio::test]
async fn changes_are_applied_then_durable_and_never_go_back() {
    let proxy = Proxy::start().await;
    let (blue, _) = named("blue").await;
    let (mut c, hello) = proxy.controller().await;
    let FromProxy::Hello { generation: 0, durable: 0, boot_id, pid, .. } = hello else {
        panic!("{hello:?}")
    };
    assert_eq!((boot_id.as_str(), pid), ("boot-1", std::process::id()));
    c.send(&ToProxy::Table { generation: 5, apps: vec![serving("blue", blue)] }).await;
    assert_eq!(c.next().await, FromProxy::Applied { generation: 5 });
    c.until("durable", |e| (e == &FromProxy::Durable { generation: 5 }).then_some(())).await;
    let mode = std::fs::metadata(proxy.control_path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    for generation in [5, 4] {
        c.send(&ToProxy::Table { generation, apps: vec![] }).await;
        c.until("refused", |e| (e == &FromProxy::Refused { generation, current: 5 }).then_some(()))
            .await;
    }
    assert_eq!(proxy.get("blue.localhost").await.body, "blue");

    // A burst ends with its last generation on disk.
    for generation in 6..200 {
        let route = app("red", WebState::Stopped, vec![]);
        c.send(&ToProxy::App { generation, route }).await;
    }
    c.until("durable", |e| (e == &FromProxy::Durable { generation: 199 }).then_some(())).await;
    let status = c.status_without(|_| false).await;
    assert_eq!((status.generation, status.durable, status.apps), (199, 199, 2));
    assert_eq!(status.requests, 1);
}

#[tokio::test]
async fn the_proxy_starts_alone_from_its_snapshot() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (blue, _) = named("blue").await;
    let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
    let mut c = proxy.with_table(vec![serving("blue", blue)]).await;
    c.until("durable", |e| (e == &FromProxy::Durable { generation: 1 }).then_some(())).await;
    proxy.finish().await;

    let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
    assert_eq!(proxy.get("blue.localhost").await.body, "blue");
    let (_c, hello) = proxy.controller().await;
    let FromProxy::Hello { serving, generation: 1, durable: 1, .. } = hello else {
        panic!("{hello:?}")
    };
    assert_eq!(serving.len(), 1);
    proxy.finish().await;

    std::fs::write(dir.path().join("routes"), b"mini-proxy-snapshot 2 00\n{}").unwrap();
    let proxy = Proxy::start_in(dir, |_| {}).await;
    assert_eq!(proxy.get("blue.localhost").await.error(), (404, "unknown_host"));
    let (_c, hello) = proxy.controller().await;
    assert!(matches!(hello, FromProxy::Hello { generation: 0, durable: 0, .. }), "{hello:?}");
}

#[tokio::test]
async fn what_changed_one_by_one_is_there_after_a_restart() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let durable =
        |n| move |e: &FromProxy| (e == &FromProxy::Durable { generation: n }).then_some(());
    let (blue, red) = (named("blue").await.0, named("red").await.0);
    let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
    let mut c = proxy.with_table(vec![serving("gone", blue)]).await;
    c.until("durable", durable(1)).await;
    let first = std::fs::read(dir.path().join("routes")).unwrap();
    c.send(&ToProxy::App { generation: 2, route: serving("blue", red) }).await;
    c.until("durable", durable(2)).await;
    c.send(&ToProxy::Forget { generation: 3, app: "gone".parse().unwrap() }).await;
    c.send(&ToProxy::App { generation: 4, route: serving("red", red) }).await;
    c.send(&ToProxy::App { generation: 5, route: serving("blue", blue) }).await;
    c.until("durable", durable(5)).await;
    let now = std::fs::read(dir.path().join("routes")).unwrap();
    assert!(now.starts_with(&first), "a change is written behind the table");
    proxy.finish().await;

    // As a crash leaves it: the last line is torn.
    for (torn, generation) in [(0, 5), (1, 4)] {
        std::fs::write(dir.path().join("routes"), &now[..now.len() - torn]).unwrap();
        let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
        let (mut c, hello) = proxy.controller().await;
        let FromProxy::Hello { generation: found, durable: there, .. } = hello else {
            panic!("{hello:?}")
        };
        assert_eq!((found, there), (generation, generation));
        let expected = if torn == 0 { "blue" } else { "red" };
        assert_eq!(proxy.get("blue.localhost").await.body, expected);
        assert_eq!(proxy.get("red.localhost").await.body, "red");
        assert_eq!(proxy.get("gone.localhost").await.error(), (404, "unknown_host"));
        // What comes next is not written behind a torn line.
        c.send(&ToProxy::Table { generation: 6, apps: vec![serving("blue", blue)] }).await;
        c.send(&ToProxy::App { generation: 7, route: serving("red", blue) }).await;
        c.until("durable", durable(7)).await;
        proxy.finish().await;
        let proxy = Proxy::start_in(dir.clone(), |_| {}).await;
        assert_eq!(proxy.get("red.localhost").await.body, "blue");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn only_the_right_user_with_whole_documents_is_heard() {
    let proxy = Proxy::start_with(|c| c.allowed_uids = vec![54_321]).await;
    let mut stranger = Controller::connect(proxy.control_path()).await;
    assert_eq!(stranger.try_next().await, None);

    let proxy = Proxy::start().await;
    for line in ["nonsense\n", "{\"type\":\"table\",\"generation\":9,\"apps\":[]}\n"] {
        let mut c = Controller::connect(proxy.control_path()).await;
        assert!(matches!(c.next().await, FromProxy::Hello { generation: 0, .. }));
        c.writer.write_all(line.as_bytes()).await.unwrap();
        assert_eq!(c.try_next().await, None, "closed after {line:?}");
    }
    // A new controller takes the place of the old one.
    let (mut old, _) = proxy.controller().await;
    let (mut new, _) = proxy.controller().await;
    assert_eq!(old.try_next().await, None);
    assert_eq!(new.status_without(|_| false).await.generation, 0);
}

/// An app whose answer is the bytes that the test sends, on one connection.
async fn on_command() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedSender<String>) {
    let (tx, rx) = tokio::sync::mpsc::unbounded_channel::<String>();
    let rx = Arc::new(tokio::sync::Mutex::new(rx));
    let (addr, _) = upstream(move |_, mut conn, _| {
        let rx = Arc::clone(&rx);
        async move {
            let mut rx = rx.lock().await;
            conn.head().await;
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            while let Some(text) = rx.recv().await {
                let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                if conn.stream.write_all(chunk.as_bytes()).await.is_err() || text.is_empty() {
                    return;
                }
            }
        }
    })
    .await;
    (addr, tx)
}

#[tokio::test]
async fn a_change_of_one_app_leaves_the_others_connection_alone() {
    let proxy = Proxy::start().await;
    let (blue, say) = on_command().await;
    let (red, _) = named("red").await;
    let mut c = proxy.with_table(vec![serving("blue", blue), serving("red", red)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    say.send("one".into()).unwrap();
    client.until("one\r\n").await;
    for n in 0..20 {
        let role = if n % 2 == 0 { Role::Drain } else { Role::Serve };
        c.route(app("red", WebState::Serving, vec![target("red-1", red, role)])).await;
    }
    // Not even a new entry of its own with the same target, nor a whole new table.
    c.route(serving("blue", blue)).await;
    c.send(&ToProxy::Table { generation: 50, apps: vec![serving("blue", blue)] }).await;
    c.until_applied(50).await;
    say.send("two".into()).unwrap();
    client.until("two\r\n").await;
    say.send(String::new()).unwrap();
    assert_eq!(client.until("\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn a_target_drains_and_says_when_it_is_done() {
    let proxy = Proxy::start().await;
    let (old, say) = on_command().await;
    let (new, _) = named("new").await;
    let mut c = proxy.with_table(vec![serving("blue", old)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    let both = app(
        "blue",
        WebState::Serving,
        vec![target("blue-1", old, Role::Drain), target("blue-2", new, Role::Serve)],
    );
    c.route(both.clone()).await;
    for _ in 0..5 {
        assert_eq!(proxy.get("blue.localhost").await.body, "new");
    }
    let drained = |e: &FromProxy| matches!(e, FromProxy::Drained { .. });
    c.status_without(drained).await;
    say.send("end".into()).unwrap();
    say.send(String::new()).unwrap();
    client.until("0\r\n\r\n").await;
    c.until_drained("blue-1").await;
    // A controller that comes back is told again.
    let (mut c, _) = proxy.controller().await;
    c.send(&ToProxy::Table { generation: 9, apps: vec![both] }).await;
    c.until_drained("blue-1").await;
}

#[tokio::test]
async fn a_target_that_leaves_the_table_is_cut() {
    let proxy = Proxy::start().await;
    let (old, say) = on_command().await;
    let mut c = proxy.with_table(vec![serving("blue", old)]).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    client.head().await;
    say.send("some".into()).unwrap();
    client.until("some\r\n").await;
    c.route(app("blue", WebState::Stopped, vec![])).await;
    let rest = client.rest().await;
    assert!(!rest.contains("0\r\n\r\n"), "a cut answer must not look whole: {rest:?}");
    assert_eq!(c.status_without(|_| false).await.cut, 1);
    assert_eq!(proxy.get("blue.localhost").await.error(), (503, "H14"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_under_load_fail_no_request_and_none_comes_after_drained() {
    let proxy = Proxy::start().await;
    // Two instances that refuse to answer once they were reported as drained.
    let mut instances = Vec::new();
    for _ in 0..2 {
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let (addr, seen) = upstream(move |_, mut conn, seen| {
            let is_stopped = Arc::clone(&is_stopped);
            async move {
                while conn.try_head().await.is_some() {
                    assert!(!is_stopped.load(SeqCst), "a request after drained");
                    seen.requests.fetch_add(1, SeqCst);
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        instances.push((addr, stopped, seen));
    }
    let mut c = proxy.with_table(vec![serving("blue", instances[0].0)]).await;
    let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (end, done, front) = (Arc::clone(&end), Arc::clone(&done), proxy.addr);
            tokio::spawn(async move {
                let stream = tokio::net::TcpStream::connect(front).await.unwrap();
                let mut client = Client { stream, buf: Vec::new() };
                while !end.load(SeqCst) {
                    // A POST: nothing is repaired by sending it again.
                    client
                        .send(
                            "POST / HTTP/1.1\r\nHost: blue.localhost\r\nContent-Length: 0\r\n\r\n",
                        )
                        .await;
                    let answer = client.answer().await;
                    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
                    done.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for deploy in 0..60 {
        let (old, new) = (&instances[deploy % 2], &instances[(deploy + 1) % 2]);
        let (old_id, new_id) = (format!("i{deploy}"), format!("i{}", deploy + 1));
        let old_id = if deploy == 0 { "blue-1".to_owned() } else { old_id };
        new.1.store(false, SeqCst);
        let both = |role| vec![target(&old_id, old.0, role), target(&new_id, new.0, Role::Serve)];
        c.route(app("blue", WebState::Serving, both(Role::Serve))).await;
        c.route(app("blue", WebState::Serving, both(Role::Drain))).await;
        c.until_drained(&old_id).await;
        old.1.store(true, SeqCst);
        c.route(app("blue", WebState::Serving, vec![target(&new_id, new.0, Role::Serve)])).await;
    }
    end.store(true, SeqCst);
    for client in clients {
        soon("a client's end", client).await.expect("no request failed");
    }
    assert!(instances.iter().all(|i| i.2.requests.load(SeqCst) > 50), "both had load");
    assert_eq!(c.status_without(|_| false).await.cut, 0);
}

#[tokio::test]
async fn who_only_asks_for_the_status_is_not_taken_for_the_controller() {
    let proxy = Proxy::start().await;
    let (blue, _) = named("blue").await;
    let mut c = proxy.with_table(vec![serving("blue", blue)]).await;
    for _ in 0..3 {
        let mut guest = Controller::connect(proxy.control_path()).await;
        assert!(matches!(guest.next().await, FromProxy::Hello { .. }));
        guest.send(&ToProxy::Status).await;
        let FromProxy::Status(status) = guest.next().await else { panic!("no status") };
        assert_eq!((status.generation, status.apps), (1, 1));
        // It may change nothing.
        guest.send(&ToProxy::Table { generation: 9, apps: vec![] }).await;
        assert!(guest.try_next().await.is_none(), "it is closed");
    }
    c.send(&ToProxy::App { generation: 2, route: serving("blue", blue) }).await;
    c.until_applied(2).await;
    assert_eq!(proxy.get("blue.localhost").await.body, "blue");
}
