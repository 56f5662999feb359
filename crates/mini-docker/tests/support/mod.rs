//! What the tests against a real engine stand on: a program, a tar, and a clean engine after.

pub(crate) mod detour;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::{
    BuildImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, RemoveVolumeOptions,
};
use bytes::Bytes;
use futures_util::StreamExt;
use mini_core::id::ServerId;
use mini_core::ports::{BuildSpec, Builder, Progress, RuntimeResult};
use mini_core::testing::until;
use mini_docker::{Docker, DockerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How the suite's images are built: nothing but the program.
pub(crate) const DOCKERFILE: &str =
    "FROM scratch\nCOPY app /app\nEXPOSE 8080/tcp 9090/udp\nCMD [\"/app\"]\n";

/// A server of its own on the machine's engine.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) docker: Docker,
    pub(crate) api: bollard::Docker,
    pub(crate) server: ServerId,
    pub(crate) seed: u32,
}

/// Runs a test against the engine, and removes what carries its server's label, however it ends.
pub(crate) async fn on_engine<F: Future<Output = ()> + Send + 'static>(
    test: impl FnOnce(Engine) -> F,
) {
    let engine = Engine::find().await;
    let outcome = tokio::spawn(test(engine.clone())).await;
    engine.clean().await;
    if let Err(error) = outcome {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl Engine {
    async fn find() -> Engine {
        let seed = seed();
        let server: ServerId = format!("{seed:08x}").parse().unwrap();
        let docker = connect(&server, None);
        let how = "no usable Docker Engine: start one, or install one (Debian, Ubuntu: \
                   `sudo apt install docker.io`), and be root or in the group `docker`";
        let api = bollard::Docker::connect_with_defaults().unwrap_or_else(|e| panic!("{how}: {e}"));
        if let Err(error) = api.ping().await {
            panic!("{how}: {error}");
        }
        Engine { docker, api, server, seed }
    }

    async fn clean(&self) {
        let label = vec![format!("mini.server={}", self.server)];
        let filters = HashMap::from([("label".to_owned(), label)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for container in self.api.list_containers(Some(options)).await.unwrap() {
            let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let _ = self.api.remove_container(&container.id.unwrap(), Some(force)).await;
        }
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        for network in self.api.list_networks(Some(options)).await.unwrap() {
            let _ = self.api.remove_network(&network.id.unwrap()).await;
        }
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let volumes = self.api.list_volumes(Some(options)).await.unwrap().volumes;
        for volume in volumes.unwrap_or_default() {
            let _ = self.api.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await;
        }
        let options = ListImagesOptionsBuilder::new().all(true).filters(&filters).build();
        for image in self.api.list_images(Some(options)).await.unwrap() {
            let force = RemoveImageOptionsBuilder::new().force(true).build();
            let _ = self.api.remove_image(&image.id, Some(force), None).await;
        }
    }

    /// Builds `dockerfile` with the program beside it: every item the build gave.
    pub(crate) async fn build(&self, name: &str, dockerfile: &str) -> Vec<RuntimeResult<Progress>> {
        self.docker.build(build_spec(name, dockerfile)).collect().await
    }

    /// How many sources of builds the builder's cache holds that came between two moments.
    pub(crate) async fn contexts_in_cache(
        &self,
        from: jiff::Timestamp,
        to: jiff::Timestamp,
    ) -> usize {
        let records = until(Duration::from_secs(30), "the engine tells its disk usage", || async {
            let mut stream = tokio::net::UnixStream::connect(detour::engine()).await.unwrap();
            // 1.0, so that the answer is neither chunked nor kept open.
            stream.write_all(b"GET /system/df HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let mut usage: serde_json::Value = serde_json::from_str(body).unwrap();
            // 20.10 refuses while it answers somebody else.
            match usage["BuildCache"].take() {
                serde_json::Value::Array(records) => Some(records),
                _ => None,
            }
        })
        .await;
        let ours = records.iter().filter(|record| {
            let made: jiff::Timestamp = record["CreatedAt"].as_str().unwrap().parse().unwrap();
            let description = record["Description"].as_str().unwrap_or_default();
            (from..=to).contains(&made) && description.starts_with("http url http://build-context")
        });
        ours.count()
    }

    /// An image that somebody else builds from `base`.
    pub(crate) async fn build_foreign(&self, tag: &str, base: &str) -> String {
        let options = BuildImageOptionsBuilder::new().t(tag).build();
        let tar = context(&format!("FROM {base}\nENV THEIRS=1\n"));
        let body = bollard::body_full(Bytes::from(tar));
        let built: Vec<_> = self.api.build_image(options, None, Some(body)).collect().await;
        assert!(built.iter().all(Result::is_ok), "{built:?}");
        self.api.inspect_image(tag).await.unwrap().id.unwrap()
    }

    /// The image of [`DOCKERFILE`].
    pub(crate) async fn image(&self) -> String {
        match self.build("base", DOCKERFILE).await.pop() {
            Some(Ok(Progress::Image(id))) => id,
            other => panic!("the build did not end with an image: {other:?}"),
        }
    }
}

pub(crate) fn connect(server: &ServerId, host: Option<String>) -> Docker {
    let config =
        DockerConfig { server: server.clone(), host, default_memory_bytes: Some(256 << 20) };
    Docker::connect(config).unwrap()
}

pub(crate) fn build_spec(name: &str, dockerfile: &str) -> BuildSpec {
    let tar = Bytes::from(context(dockerfile));
    BuildSpec {
        app: "tried".parse().unwrap(),
        deployment: format!("d-{name}").parse().unwrap(),
        dockerfile: "Dockerfile".to_owned(),
        context: Box::pin(futures_util::stream::iter([Ok(tar)])),
        use_cache: true,
        secret: "known".to_owned(),
    }
}

/// Unlike every other run's on this engine.
fn seed() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(0x0101_0101, Ordering::Relaxed);
    (now.as_nanos() as u32) ^ (now.as_secs() as u32).rotate_left(16) ^ std::process::id() ^ count
}

/// A tar of a Dockerfile and the program.
pub(crate) fn context(dockerfile: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, bytes) in
        [("Dockerfile", 0o644, dockerfile.as_bytes()), ("app", 0o755, program())]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// The program of [`mini_core::testing::conformance`], linked statically, with some more words.
fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/program.rs");
        let binary = folder.path().join("app");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc)
            .args(["--edition=2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
            .arg("-o")
            .arg(&binary)
            .arg(source)
            .output()
            .expect("rustc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(binary).unwrap()
    })
}
