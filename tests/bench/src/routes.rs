//! A swap of routes in a proxy of the benchmark's own: from the document to `applied`, and what
//! requests in flight notice of it.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use mini_core::control::{FromProxy, MAX_LINE, ProxyStatus, ToProxy, Verdict};
use mini_core::release::HealthSpec;
use mini_core::route::{AppRoute, Role, Target, WebState};
use mini_core::time::Millis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio_util::codec::{Framed, LinesCodec};

use crate::deploy::{median, millis};
use crate::output::{self, Row};

/// Tables, and within how many milliseconds a change must be applied.
const TABLES: [(usize, f64); 2] = [(100, 5.0), (10_000, 20.0)];
/// The apps that have an instance; the rest of a larger table are stopped.
const RUNNING: usize = 100;
const SWAPS: usize = 200;
/// From one swap to the next.
const EVERY: Duration = Duration::from_millis(25);
const STALL_GOAL_MS: f64 = 1.0;
/// Connections that ask all the time, with a pause after each answer.
const ASKING: usize = 4;
const PAUSE: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(bin: &Path, folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (apps, goal) in TABLES {
        output::say(&format!("swapping routes in a table of {apps} apps"));
        let folder = folder.join(format!("routes-{apps}"));
        std::fs::create_dir(&folder)?;
        let port = StdListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut proxy = start(bin, &folder, port)?;
        let measured = in_table(&folder.join("control.sock"), port, (apps, goal)).await;
        let _ = proxy.kill().await;
        rows.extend(measured.with_context(|| format!("a table of {apps} apps"))?);
    }
    Ok(rows)
}

fn start(bin: &Path, folder: &Path, port: u16) -> Result<Child> {
    let log = std::fs::File::create(folder.join("proxy.log"))?;
    Command::new(bin.join("minid"))
        .args(["proxy", "--http-listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(folder)
        .env("MINID_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("minid proxy")
}

/// One request: from when to when.
type Asked = (Instant, Instant);

async fn in_table(socket: &Path, port: u16, (apps, goal): (usize, f64)) -> Result<[Row; 2]> {
    // Load and apps are on a thread of their own.
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = tokio::sync::oneshot::channel();
    let load = std::thread::spawn({
        let stop = stop.clone();
        move || load(port, tell, &stop)
    });
    let answering = told.await.context("the load's thread")?;
    let mut controls = Controls::connect(socket).await?;
    let running = apps.min(RUNNING);
    let route = |n: usize| route(&format!("app-{n}"), (n < running).then_some(answering));
    let mut generation = controls.generation + 1;
    let table = (0..apps).map(route).chain([route_of_swap(answering, 0)]).collect();
    controls.send(&ToProxy::Table { generation, apps: table }).await?;
    controls.until(|said| *said == FromProxy::Applied { generation }).await?;
    // Every target is found healthy, and the load has begun.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut swaps: Vec<Asked> = Vec::new();
    let mut quiet: Vec<Asked> = Vec::new();
    for n in 1..=SWAPS {
        // A new instance is probed before it serves, as in any rollout.
        generation += 1;
        let mut probing = route_of_swap(answering, n - 1);
        let new = route_of_swap(answering, n).targets.remove(0);
        probing.targets.push(Target { role: Role::Probe, ..new.clone() });
        controls.send(&ToProxy::App { generation, route: probing }).await?;
        controls
            .until(|said| {
                matches!(said, FromProxy::Health { instance, verdict: Verdict::Healthy, .. }
                    if *instance == new.instance)
            })
            .await?;
        tokio::time::sleep(EVERY).await;
        generation += 1;
        let mut swapped = route_of_swap(answering, n);
        let old = route_of_swap(answering, n - 1).targets.remove(0);
        swapped.targets.push(Target { role: Role::Drain, ..old });
        let begun = Instant::now();
        controls.send(&ToProxy::App { generation, route: swapped }).await?;
        controls.until(|said| *said == FromProxy::Applied { generation }).await?;
        let applied = Instant::now();
        swaps.push((begun, applied));
        // A time of the same length in which nothing is swapped or written.
        tokio::time::sleep(EVERY).await;
        let begun = Instant::now();
        quiet.push((begun, begun + (applied - swaps[n - 1].0)));
    }
    stop.store(true, Ordering::Relaxed);
    let asked = tokio::task::spawn_blocking(move || load.join()).await?;
    let asked = match asked {
        Ok(asked) => asked.context("the load")?,
        Err(_) => bail!("the load's thread broke off"),
    };
    let applied: Vec<f64> = swaps.iter().map(|(a, b)| millis(*b - *a)).collect();
    let time = median(applied.iter().copied());
    let longest = applied.iter().copied().fold(0.0, f64::max);
    let swap = Row {
        what: format!("route swap, table of {apps}, until applied"),
        measured: format!("{time:.2} ms"),
        beside: format!(
            "from the document; {running} of them running, with {ASKING} connections asking; \
             median of {SWAPS}, the longest {longest:.2} ms"
        ),
        goal: format!("<= {goal} ms"),
        met: time <= goal,
    };
    let worst_at = |windows: &[Asked]| -> Vec<f64> {
        windows.iter().filter_map(|w| worst(&asked, w)).collect()
    };
    let (at_swaps, at_rest) = (worst_at(&swaps), worst_at(&quiet));
    if at_swaps.len() < SWAPS / 4 {
        bail!("only {} swaps had a request in flight", at_swaps.len());
    }
    let (swapping, resting) = (median(at_swaps.iter().copied()), median(at_rest.iter().copied()));
    let stall = (swapping - resting).max(0.0);
    let top = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    let stall = Row {
        what: format!("stall of requests in flight, table of {apps}"),
        measured: format!("{stall:.2} ms"),
        beside: format!(
            "the slowest request in flight at each of {} swaps (median {swapping:.2} ms, longest \
             {:.2} ms), less the same at {} moments without (median {resting:.2} ms, longest \
             {:.2} ms)",
            at_swaps.len(),
            top(&at_swaps),
            at_rest.len(),
            top(&at_rest)
        ),
        goal: format!("<= {STALL_GOAL_MS} ms"),
        met: stall <= STALL_GOAL_MS,
    };
    Ok([swap, stall])
}

/// The slowest request that was in flight at any moment of the window, in milliseconds.
fn worst(asked: &[Asked], (from, to): &Asked) -> Option<f64> {
    let meets = asked.iter().filter(|(begun, ended)| begun <= to && ended >= from);
    meets.map(|(begun, ended)| millis(*ended - *begun)).max_by(f64::total_cmp)
}

fn route(app: &str, at: Option<SocketAddr>) -> AppRoute {
    AppRoute {
        app: app.parse().expect("a name"),
        hosts: Vec::new(),
        web: if at.is_some() { WebState::Serving } else { WebState::Stopped },
        targets: at.map(|at| target(app, at, 1)).into_iter().collect(),
        health: HealthSpec::default(),
        rules: Box::default(),
    }
}

/// The app that is swapped, with its `n`th instance.
fn route_of_swap(at: SocketAddr, n: usize) -> AppRoute {
    let mut route = route("swapped", Some(at));
    route.targets = vec![target(&format!("swapped-{n}"), at, n as u32 + 1)];
    route
}

fn target(instance: &str, addr: SocketAddr, release: u32) -> Target {
    Target {
        instance: instance.parse().expect("an id"),
        started: Millis(1),
        addr,
        process: "web.1".into(),
        release,
        role: Role::Serve,
    }
}

/// What all apps are, and those who ask; answers with every request that was made.
fn load(
    port: u16,
    tell: tokio::sync::oneshot::Sender<SocketAddr>,
    stop: &AtomicBool,
) -> Result<Vec<Asked>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let _ = tell.send(listener.local_addr()?);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        let asking = (0..ASKING).map(|n| ask(port, n % RUNNING, stop));
        let all = futures_util::future::try_join_all(asking).await?;
        Ok(all.into_iter().flatten().collect())
    })
}

async fn answer(mut stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n";
    let _ = stream.set_nodelay(true);
    let mut head = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut head).await {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
}

/// Asks one app again and again over one connection, once it answers.
async fn ask(port: u16, app: usize, stop: &AtomicBool) -> Result<Vec<Asked>> {
    let request = format!("GET / HTTP/1.1\r\nHost: app-{app}.localhost\r\n\r\n");
    let mut asked = Vec::new();
    let mut connection = None;
    let begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let stream = match &mut connection {
            Some(stream) => stream,
            None => match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    connection.insert(stream)
                }
                Err(_) if begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        let from = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        let mut said = Vec::new();
        let ok = loop {
            if stream.read_buf(&mut said).await? == 0 {
                break false;
            }
            if said.ends_with(b"hi\n") {
                break said.starts_with(b"HTTP/1.1 200");
            }
            // Not there yet: an error page, before the table came.
            if !said.starts_with(b"HTTP/1.1 200") {
                break false;
            }
        };
        match ok {
            true => asked.push((from, Instant::now())),
            false if begun.elapsed() < PATIENCE && asked.is_empty() => {
                connection = None;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            false => bail!("app-{app} answered {}", String::from_utf8_lossy(&said)),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(asked)
}

/// The controller's end of a control socket.
pub(crate) struct Controls {
    lines: Framed<UnixStream, LinesCodec>,
    generation: u64,
}

impl Controls {
    async fn connect(socket: &Path) -> Result<Self> {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
        let mut this = Self { lines, generation: 0 };
        let server = "bench".parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        this.send(&ToProxy::Hello { server, version: "bench".into() }).await?;
        match this.next().await? {
            FromProxy::Hello { generation, .. } => this.generation = generation,
            other => bail!("no hello: {other:?}"),
        }
        Ok(this)
    }

    /// What a proxy says of itself to one who is not its controller.
    pub(crate) async fn status(socket: &PathBuf) -> Result<ProxyStatus> {
        let stream = UnixStream::connect(socket).await?;
        let lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
        let mut this = Self { lines, generation: 0 };
        this.send(&ToProxy::Status).await?;
        loop {
            if let FromProxy::Status(status) = this.next().await? {
                return Ok(status);
            }
        }
    }

    async fn send(&mut self, document: &ToProxy) -> Result<()> {
        Ok(self.lines.send(serde_json::to_string(document)?).await?)
    }

    async fn next(&mut self) -> Result<FromProxy> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next()).await;
        let line = line.context("the proxy says nothing")?.context("the proxy is gone")??;
        Ok(serde_json::from_str(&line)?)
    }

    async fn until(&mut self, wanted: impl Fn(&FromProxy) -> bool) -> Result<()> {
        loop {
            let said = self.next().await?;
            if let FromProxy::Refused { .. } = said {
                bail!("refused: {said:?}");
            }
            if wanted(&said) {
                return Ok(());
            }
        }
    }
}
