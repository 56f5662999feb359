//! A proxy in this process, a controller that the test plays, raw clients and raw upstreams.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use mini_core::control::{FromProxy, ToProxy};
use mini_core::release::HealthSpec;
use mini_core::route::{AppRoute, Role, Target, WebState};
use mini_core::time::Millis;
use mini_proxy::{Drained, ProxyConfig, Timeouts, run};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A bound on everything that a test waits for.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(8), future).await;
    waited.unwrap_or_else(|_| panic!("in vain: {what}"))
}

pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    /// Where it speaks TLS.
    pub(crate) https: SocketAddr,
    pub(crate) dir: Arc<tempfile::TempDir>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), change).await
    }

    pub(crate) async fn start_in(
        dir: Arc<tempfile::TempDir>,
        change: impl FnOnce(&mut ProxyConfig),
    ) -> Self {
        let mut config = config_in(dir.path());
        let addr = config.listeners[0].local_addr().unwrap();
        let https = config.https_listeners[0].local_addr().unwrap();
        let (accepting, accepts) = oneshot::channel();
        config.accepting = Some(accepting);
        change(&mut config);
        let (shutdown, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            run(config, async { drop(stopped.await) }).await.expect("the proxy starts")
        });
        soon("the proxy", accepts).await.expect("it accepts");
        Self { addr, https, dir, shutdown: Some(shutdown), task }
    }

    pub(crate) fn begin_shutdown(&mut self) {
        drop(self.shutdown.take());
    }

    /// Waits for its end, which is not asked for here.
    pub(crate) async fn finished(self) -> Drained {
        soon("its end", self.task).await.unwrap()
    }

    pub(crate) async fn finish(mut self) -> Drained {
        self.begin_shutdown();
        soon("the shutdown", self.task).await.unwrap()
    }

    pub(crate) fn control_path(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// A controller that has said hello, and the proxy's hello.
    pub(crate) async fn controller(&self) -> (Controller, FromProxy) {
        let mut controller = Controller::connect(self.control_path()).await;
        let server = "srv".parse().unwrap();
        controller.send(&ToProxy::Hello { server, version: "0".into() }).await;
        let hello = controller.next().await;
        assert!(matches!(hello, FromProxy::Hello { .. }), "{hello:?}");
        (controller, hello)
    }

    /// A controller that has sent this table as generation 1.
    pub(crate) async fn with_table(&self, apps: Vec<AppRoute>) -> Controller {
        let (mut controller, _) = self.controller().await;
        controller.send(&ToProxy::Table { generation: 1, apps }).await;
        controller.until_applied(1).await;
        controller
    }

    pub(crate) async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.addr).await.unwrap(), buf: Vec::new() }
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, host: &str) -> Answer {
        self.client().await.get(host, "/").await
    }
}

/// A proxy's settings, with listeners of its own.
pub(crate) fn config_in(dir: &Path) -> ProxyConfig {
    let listener = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    ProxyConfig {
        domains: vec!["localhost".parse().unwrap()],
        listeners: vec![listener()],
        https_listeners: vec![listener()],
        tls_dir: dir.join("tls"),
        control_socket: dir.join("control.sock"),
        metrics_socket: dir.join("metrics.sock"),
        metrics_listen: None,
        allowed_uids: vec![rustix::process::getuid().as_raw()],
        api_sockets: vec![dir.join("api.sock")],
        snapshot: dir.join("routes"),
        boot_id: "boot-1".into(),
        version: "0".into(),
        drain: Duration::from_secs(5),
        hold: Duration::from_secs(5),
        timeouts: Timeouts::default(),
        clients: mini_proxy::Clients::default(),
        succeeds: None,
        accepting: None,
    }
}

pub(crate) struct Controller {
    reader: BufReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
    generation: u64,
}

impl Controller {
    pub(crate) async fn connect(path: PathBuf) -> Self {
        let (reader, writer) = UnixStream::connect(path).await.unwrap().into_split();
        Self { reader: BufReader::new(reader), writer, generation: 1 }
    }

    pub(crate) async fn send(&mut self, document: &ToProxy) {
        let line = serde_json::to_string(document).unwrap() + "\n";
        self.writer.write_all(line.as_bytes()).await.unwrap();
    }

    /// Sends an app's entry with the next generation and waits until it is applied.
    pub(crate) async fn route(&mut self, route: AppRoute) {
        self.generation += 1;
        let generation = self.generation;
        self.send(&ToProxy::App { generation, route }).await;
        self.until_applied(generation).await;
    }

    pub(crate) async fn until_applied(&mut self, generation: u64) {
        self.until("applied", |e| (e == &FromProxy::Applied { generation }).then_some(())).await;
    }

    /// The next document; `None` at the end of the connection.
    pub(crate) async fn try_next(&mut self) -> Option<FromProxy> {
        let mut line = String::new();
        let read = soon("a document of the proxy", self.reader.read_line(&mut line)).await;
        match read {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    pub(crate) async fn next(&mut self) -> FromProxy {
        self.try_next().await.expect("the proxy closed the control connection")
    }

    /// Reads on to the end of the connection.
    pub(crate) async fn after_all(&mut self) -> Option<FromProxy> {
        while self.try_next().await.is_some() {}
        None
    }

    /// Reads on to the first document that is looked for.
    pub(crate) async fn until<T>(&mut self, what: &str, f: impl Fn(&FromProxy) -> Option<T>) -> T {
        soon(what, async {
            loop {
                if let Some(found) = f(&self.next().await) {
                    return found;
                }
            }
        })
        .await
    }

    pub(crate) async fn until_drained(&mut self, instance: &str) {
        self.until("drained", |e| match e {
            FromProxy::Drained { instance: i } if i.as_str() == instance => Some(()),
            _ => None,
        })
        .await;
    }

    /// Asks for the status, and asserts that nothing for which `no` holds comes before it.
    pub(crate) async fn status_without(
        &mut self,
        no: impl Fn(&FromProxy) -> bool,
    ) -> mini_core::control::ProxyStatus {
        self.send(&ToProxy::Status).await;
        self.until("the status", |e| {
            assert!(!no(e), "{e:?}");
            match e {
                FromProxy::Status(status) => Some(status.clone()),
                _ => None,
            }
        })
        .await
    }
}

pub(crate) fn app(name: &str, web: WebState, targets: Vec<Target>) -> AppRoute {
    let app = name.parse().unwrap();
    let (health, rules) = (HealthSpec::default(), Box::default());
    AppRoute { app, hosts: Vec::new(), web, targets, health, rules }
}

pub(crate) fn serving(name: &str, addr: SocketAddr) -> AppRoute {
    app(name, WebState::Serving, vec![target(&format!("{name}-1"), addr, Role::Serve)])
}

pub(crate) fn target(instance: &str, addr: SocketAddr, role: Role) -> Target {
    let instance = instance.parse().unwrap();
    Target { instance, started: Millis(1), addr, process: "web.1".into(), release: 1, role }
}

/// An address at which nobody listens.
pub(crate) async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn error(&self) -> (u16, &str) {
        (self.status, self.header("x-mini-error").unwrap_or("none"))
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|l| {
        let (n, v) = l.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// A socket that is read by hand: a client's, or one that an upstream accepted.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) buf: Vec<u8>,
}

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads more; false at the end. A reset counts as the end.
    pub(crate) async fn more(&mut self) -> bool {
        let n = soon("bytes", self.stream.read_buf(&mut self.buf)).await;
        n.is_ok_and(|n| n > 0)
    }

    /// Reads a head; `None` if the connection ends before.
    pub(crate) async fn try_head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = self.buf.drain(..end + 4).collect();
                return Some(String::from_utf8(head).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn head(&mut self) -> String {
        self.try_head().await.expect("the connection ended before a head")
    }

    pub(crate) async fn exactly(&mut self, n: usize) -> String {
        while self.buf.len() < n {
            assert!(self.more().await, "ended after {} of {n} bytes", self.buf.len());
        }
        String::from_utf8(self.buf.drain(..n).collect()).unwrap()
    }

    /// Reads up to and with `text`.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.buf.windows(text.len()).position(|w| w == text.as_bytes()) {
                let bytes = self.buf.drain(..at + text.len()).collect();
                return String::from_utf8(bytes).unwrap();
            }
            assert!(self.more().await, "ended without {text:?}: {:?}", self.buf);
        }
    }

    pub(crate) async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.buf)).unwrap()
    }

    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.answer().await
    }

    /// Reads an answer whose body has a length or is chunked.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("the connection ended before an answer")
    }

    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        let head = self.try_head().await?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = if let Some(n) = header(&head, "content-length") {
            self.exactly(n.parse().unwrap()).await
        } else if header(&head, "transfer-encoding").is_some() {
            self.chunks().await
        } else {
            String::new()
        };
        Some(Answer { status, head, body })
    }

    async fn chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let size = self.until("\r\n").await;
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            body += &self.exactly(size).await;
            self.until("\r\n").await;
            if size == 0 {
                return body;
            }
        }
    }
}

/// What an upstream saw.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
}

/// Serves each connection with `handler`, which gets its number, from 0.
pub(crate) async fn upstream<F, Fut>(handler: F) -> (SocketAddr, Seen)
where
    F: Fn(usize, Client, Seen) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (addr, serve_on(listener, handler))
}

pub(crate) fn serve_on<F, Fut>(listener: TcpListener, handler: F) -> Seen
where
    F: Fn(usize, Client, Seen) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let seen = Seen::default();
    let (ours, handler) = (seen.clone(), Arc::new(handler));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (handler, seen) = (Arc::clone(&handler), ours.clone());
            tokio::spawn(async move {
                // A probe connects and closes: it is no connection that a test counts.
                if stream.peek(&mut [0]).await.is_ok_and(|n| n > 0) {
                    let number = seen.connections.fetch_add(1, SeqCst);
                    stream.set_nodelay(true).unwrap();
                    handler(number, Client { stream, buf: Vec::new() }, seen).await;
                }
            });
        }
    });
    seen
}

/// Answers every request with `name`, and keeps the connection.
pub(crate) async fn named(name: &'static str) -> (SocketAddr, Seen) {
    upstream(move |_, conn, seen| answer_all(conn, seen, name)).await
}

pub(crate) async fn answer_all(mut conn: Client, seen: Seen, name: &'static str) {
    while let Some(head) = conn.try_head().await {
        seen.requests.fetch_add(1, SeqCst);
        if let Some(n) = header(&head, "content-length") {
            conn.exactly(n.parse().unwrap()).await;
        }
        conn.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()))
            .await;
    }
}

/// Echoes each chunk of a request as it comes. After the last one comes `section`, the trailer
/// section, and the answer ends with `end`.
pub(crate) async fn echo_chunks(section: &'static str, end: &'static str) -> (SocketAddr, Seen) {
    upstream(move |_, mut conn, _| async move {
        let head = conn.head().await;
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let size = conn.until("\r\n").await;
            let n = usize::from_str_radix(size.trim(), 16).unwrap();
            if n == 0 {
                assert_eq!(conn.exactly(section.len()).await, section);
                return conn.send(end).await;
            }
            let data = conn.exactly(n).await;
            conn.until("\r\n").await;
            conn.send(&format!("{n:x}\r\n{data}\r\n")).await;
        }
    })
    .await
}
