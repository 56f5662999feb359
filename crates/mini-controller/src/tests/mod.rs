//! The controller as a whole, on a fake engine and a fake proxy, driven through its front door.

use std::sync::Arc;
use std::time::Duration;

use mini_api::client::{Client, Endpoint, LogQuery};
use mini_api::{
    Deployment, DeploymentEvent, DeploymentStatus, EventBody, LogItem, NewApp, NewDeployment,
};
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::name::AppName;
use mini_core::ports::{ImageInfo, Instance};
use mini_core::release::Timing;
use mini_core::testing::{FakeRuntime, until};
use tokio::runtime::Runtime as Threads;

use crate::{Config, DataFolder, clock};
use proxy::FakeProxy;

mod access;
mod attacks;
mod certs;
mod domains;
mod proxy;
mod requests;
mod rollouts;
mod trouble;

/// Longer than anything takes, even on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// A data folder, an engine, a proxy, and a controller that can be killed.
struct House {
    folder: tempfile::TempDir,
    engine: FakeRuntime,
    proxy: FakeProxy,
    controller: Option<Threads>,
    client: Client,
    keys: std::sync::atomic::AtomicU32,
}

fn blue() -> AppName {
    "blue".parse().unwrap()
}

fn image(name: &str) -> ImageInfo {
    ImageInfo {
        id: format!("sha256:{}", blake3::hash(name.as_bytes())),
        ports: vec![8080],
        has_command: true,
        check: None,
        volumes: Vec::new(),
        size_bytes: 1,
        os: "linux".into(),
        arch: "amd64".into(),
        built: false,
    }
}

impl House {
    async fn new() -> Self {
        let mut house = Self::unstarted();
        house.start().await;
        house
    }

    /// One whose controller does not run yet.
    fn unstarted() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = FakeRuntime::new();
        engine.set_now(clock::now());
        for name in ["hello:1", "hello:2", "hello:3"] {
            engine.add_image(name, image(name));
        }
        let proxy = FakeProxy::new(&folder.path().join("control.sock"));
        let endpoint = Endpoint::Unix(folder.path().join("admin.sock"));
        let keys = std::sync::atomic::AtomicU32::new(0);
        let client = Client::new(endpoint, None);
        Self { folder, engine, proxy, controller: None, client, keys }
    }

    /// A house with the app `blue`, live with `hello:1`.
    async fn with_blue() -> Self {
        let house = Self::new().await;
        house.create("blue").await;
        house.deploy_live("hello:1").await;
        house
    }

    fn config(&self) -> Config {
        Config {
            data_dir: self.folder.path().to_owned(),
            domains: vec!["localhost".parse().unwrap()],
            public_port: 8080,
            public_https_port: None,
            network_pool: Some("10.210.0.0/16".parse().unwrap()),
            host_routes: Vec::new(),
            static_binary: self.folder.path().join("mini-static"),
            control_sockets: vec![self.folder.path().join("control.sock")],
            socket_dir: self.folder.path().to_owned(),
            api_socket: None,
            timing: Timing { grace_ms: 1_000, ..Timing::default() },
            build_timeout: Duration::from_secs(600),
            acme: crate::Acme { off: Some("not in this test".into()), ..crate::Acme::default() },
            firewall: None,
            version: "0.0.0".into(),
        }
    }

    /// Starts a controller on threads of its own.
    async fn start(&mut self) {
        self.start_with(self.config()).await;
    }

    async fn start_with(&mut self, config: Config) {
        assert!(self.controller.is_none(), "it runs already");
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let engine = Arc::new(self.engine.clone());
        threads.spawn(async move {
            let folder = DataFolder::open(&config.data_dir).await.unwrap();
            crate::run(folder, config, engine.clone(), engine, std::future::pending())
                .await
                .unwrap();
        });
        self.controller = Some(threads);
        until(SOON, "the controller answers", || async { self.client.health().await.ok() }).await;
    }

    /// Kills the controller wherever it is.
    async fn kill(&mut self) {
        let threads = self.controller.take().expect("it runs");
        tokio::task::spawn_blocking(move || threads.shutdown_timeout(SOON)).await.unwrap();
    }

    fn key(&self) -> String {
        format!("key-{}", self.keys.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }

    async fn create(&self, name: &str) {
        self.client.create_app(&NewApp { name: Some(name.into()) }).await.unwrap();
    }

    /// Asks for a deployment of a ready image.
    async fn deploy(&self, image: &str) -> DeploymentId {
        self.engine.set_now(clock::now());
        let new = NewDeployment { image: Some(image.into()), ..NewDeployment::default() };
        self.client.deploy(&blue(), &new, &self.key()).await.unwrap().id
    }

    /// Follows a deployment to its end.
    async fn follow(&self, id: &DeploymentId) -> (Deployment, Vec<DeploymentEvent>) {
        let mut events = self.client.deployment_events(id, 0);
        let mut seen = Vec::new();
        let followed = async {
            while let Some(event) = events.next().await.unwrap() {
                seen.push(event);
            }
        };
        let ended = tokio::time::timeout(SOON, followed).await;
        assert!(ended.is_ok(), "{id} does not end: {seen:?}");
        (self.client.deployment(id).await.unwrap(), seen)
    }

    async fn ends(&self, id: &DeploymentId, status: DeploymentStatus) -> Deployment {
        let (ended, events) = self.follow(id).await;
        assert_eq!(ended.status, status, "{ended:?} {events:?}");
        ended
    }

    async fn deploy_live(&self, image: &str) -> DeploymentId {
        let id = self.deploy(image).await;
        self.ends(&id, DeploymentStatus::Live).await;
        id
    }

    fn running(&self) -> Vec<Instance> {
        self.engine.instances().into_iter().filter(|i| i.state.is_running()).collect()
    }

    /// Waits until exactly one instance is there, serves, and is of that release.
    async fn settles_on(&self, release: u32) -> InstanceId {
        until(SOON, "one instance serves and no other is left", || async {
            match (&self.engine.instances()[..], &self.proxy.serving(&blue())[..]) {
                ([only], [serving])
                    if only.id == *serving
                        && only.release == release
                        && only.state.is_running() =>
                {
                    Some(only.id.clone())
                }
                _ => None,
            }
        })
        .await
    }

    /// The app's log as it is now.
    async fn log(&self, app: &AppName) -> Vec<String> {
        let mut lines = self.client.logs(app, LogQuery { n: Some(10_000), ..LogQuery::default() });
        let mut texts = Vec::new();
        while let Some(item) = lines.next().await.unwrap() {
            if let LogItem::Line(line) = item {
                texts.push(line.text);
            }
        }
        texts
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(threads) = self.controller.take() {
            threads.shutdown_background();
        }
    }
}
