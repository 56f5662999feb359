//! How long a controller takes until it is ready: it answers, and the proxy has its whole table,
//! which it sends when it has planned for every app.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use mini_controller::{Config, DataFolder};
use mini_core::ports::ImageInfo;
use mini_core::release::Timing;
use mini_core::testing::FakeRuntime;
use mini_core::time::Millis;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::deploy::millis;
use crate::fake_proxy::FakeProxy;
use crate::http::Socket;
use crate::output::{self, Row};
use crate::platform::Platform;
use crate::routes::Controls;

const IN_THE_STORE: usize = 1000;
const IN_THE_STORE_GOAL_MS: f64 = 1000.0;
pub(crate) const LIVE: usize = 50;
const LIVE_GOAL_MS: f64 = 2000.0;
const ROUNDS: usize = 5;
/// The parent restarts at once twice a minute, and then with a pause.
const KILLS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(300);
const IMAGE: &str = "bench:1";

/// A controller in this process, on a fake engine, with a thousand live apps in its store.
pub(crate) async fn a_thousand_in_the_store(folder: &Path) -> Result<Row> {
    output::say("making 1,000 live apps on a fake engine, and starting a controller on them");
    let folder = folder.join("fake");
    std::fs::create_dir(&folder)?;
    let engine = FakeRuntime::new();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    engine.set_now(Millis(now.as_millis() as u64));
    engine.add_image(
        IMAGE,
        ImageInfo {
            id: format!("sha256:{:064}", 1),
            ports: vec![8080],
            has_command: true,
            check: None,
            volumes: Vec::new(),
            size_bytes: 1,
            os: "linux".into(),
            arch: "amd64".into(),
            built: false,
        },
    );
    let proxy = FakeProxy::listen(&folder.join("control.sock"))?;
    let admin = Socket::new(&folder.join("admin.sock"));
    let mut controller = Controller::start(&folder, &engine)?;
    until("the controller answers", || async { is_healthy(&admin).await }).await?;
    let names: Vec<String> = (0..IN_THE_STORE).map(|n| format!("app-{n}")).collect();
    make_live(&admin, &names, IMAGE, 16).await?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        controller.stop().await?;
        proxy.forget_table();
        let begun = Instant::now();
        controller = Controller::start(&folder, &engine)?;
        until("the controller answers", || async { is_healthy(&admin).await }).await?;
        let answers = millis(begun.elapsed());
        let whole = || async { proxy.table().filter(|(_, apps)| *apps == IN_THE_STORE) };
        until("the whole table", || async { whole().await.is_some() }).await?;
        let (at, _) = proxy.table().context("a table that came")?;
        times.push((answers, millis(at.duration_since(begun))));
    }
    controller.stop().await?;
    times.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (answers, table) = times[ROUNDS / 2];
    let ready = answers.max(table);
    Ok(Row {
        what: "controller ready, 1,000 live apps, fake engine".into(),
        measured: format!("{ready:.0} ms"),
        beside: format!(
            "in this process; answers after {answers:.0} ms, its table is whole after {table:.0} ms; \
             median of {ROUNDS}, the longest {:.0} ms",
            times[ROUNDS - 1].1
        ),
        goal: format!("<= {IN_THE_STORE_GOAL_MS} ms"),
        met: ready <= IN_THE_STORE_GOAL_MS,
    })
}

/// `kill -9` of the controller of a platform with fifty live apps, until the next one is ready.
pub(crate) async fn fifty_live(platform: &Platform, image: &str) -> Result<Row> {
    output::say("50 live apps on the engine, and `kill -9` of the controller");
    let names: Vec<String> = (0..LIVE).map(|n| format!("live-{n}")).collect();
    make_live(&platform.admin, &names, image, 4).await?;
    let mut worst: f64 = 0.0;
    let mut all = Vec::new();
    for _ in 0..KILLS {
        let before = Controls::status(&platform.control_socket()).await?.generation;
        let pid = platform.pid_of("controller")?;
        let begun = Instant::now();
        kill_process(Pid::from_raw(i32::try_from(pid)?).context("a process id")?, Signal::KILL)?;
        until("the next controller answers", || async {
            platform.pid_of("controller").is_ok_and(|now| now != pid)
                && is_healthy(&platform.admin).await
        })
        .await?;
        let answers = millis(begun.elapsed());
        until("the proxy has a table of it", || async {
            let status = Controls::status(&platform.control_socket()).await;
            status.is_ok_and(|status| status.generation > before)
        })
        .await?;
        let ready = millis(begun.elapsed());
        worst = worst.max(ready);
        all.push(format!("{answers:.0}/{ready:.0}"));
        // What the kill left to be done is done before the next one.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(Row {
        what: "controller ready, 50 live apps on the engine".into(),
        measured: format!("{worst:.0} ms"),
        beside: format!(
            "from `kill -9` of the one before, its restart by `minid run` among it; the worse of \
             {KILLS}; answers/ready: {} ms",
            all.join(", ")
        ),
        goal: format!("<= {LIVE_GOAL_MS} ms"),
        met: worst <= LIVE_GOAL_MS,
    })
}

/// A controller on threads of its own, as many as `minid` has.
struct Controller(Option<tokio::runtime::Runtime>);

impl Controller {
    fn start(folder: &Path, engine: &FakeRuntime) -> Result<Self> {
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let config = Config {
            data_dir: folder.to_owned(),
            domains: vec!["localhost".parse()?],
            public_port: 80,
            public_https_port: None,
            network_pool: Some("10.128.0.0/9".parse().map_err(|e| anyhow::anyhow!("{e}"))?),
            host_routes: Vec::new(),
            static_binary: folder.join("none"),
            control_sockets: vec![folder.join("control.sock")],
            socket_dir: folder.to_owned(),
            api_socket: None,
            firewall: None,
            timing: Timing::default(),
            build_timeout: Duration::from_secs(60),
            acme: mini_controller::Acme { off: Some("a bench".into()), ..Default::default() },
            version: "bench".into(),
        };
        let engine = Arc::new(engine.clone());
        threads.spawn(async move {
            let opened = DataFolder::open(&config.data_dir).await;
            let ran = match opened {
                Ok(folder) => {
                    let never = std::future::pending();
                    mini_controller::run(folder, config, engine.clone(), engine, never).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ran {
                output::say(&format!("the controller: {error}"));
            }
        });
        Ok(Self(Some(threads)))
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(threads) = self.0.take() {
            tokio::task::spawn_blocking(move || threads.shutdown_timeout(PATIENCE)).await?;
        }
        Ok(())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

/// Creates apps and deploys each, some at once, until all are live.
async fn make_live(admin: &Socket, names: &[String], image: &str, at_once: usize) -> Result<()> {
    stream::iter(names)
        .map(|name| async move {
            admin.json(Method::POST, "/v1/apps", &json!({ "name": name })).await?;
            let path = format!("/v1/apps/{name}/deployments");
            let made = admin.json(Method::POST, &path, &json!({ "image": image })).await?;
            let path = format!("/v1/deployments/{}", made["id"].as_str().context("an id")?);
            let begun = Instant::now();
            loop {
                let now = admin.json(Method::GET, &path, &Value::Null).await?;
                match now["status"].as_str() {
                    Some("live") => return Ok(()),
                    Some("failed" | "cancelled" | "superseded") => bail!("{name}: {now}"),
                    _ if begun.elapsed() > PATIENCE => bail!("{name} does not go live"),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .buffer_unordered(at_once)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

async fn is_healthy(admin: &Socket) -> bool {
    let answer = admin.ask(Method::GET, "/v1/health", &Value::Null).await;
    answer.is_ok_and(|(status, _)| status.is_success())
}

/// Asks again and again, a millisecond apart.
async fn until<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) -> Result<()> {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("not in time: {what}"))
}
