//! One platform of a test's own, and what tests do with it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use mini_core::ports::Runtime;
use mini_docker::{Docker, DockerConfig};
use serde_json::Value;

use crate::engine::beside::{Beside, Relay};
use crate::http::{self, Answer};
use crate::said::Said;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this is the long run (`make soak`), with the times that a server has by default.
pub(crate) fn soak() -> bool {
    std::env::var_os("MINI_SOAK").is_some()
}

pub(crate) struct Platform {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) token: String,
    server: String,
    child: Option<Child>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    beside: Option<(PathBuf, String, Relay)>,
}

/// The folder that the binaries under test lie in.
pub(crate) fn binaries() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_minid")).parent().expect("minid lies in a folder").to_owned()
}

pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the project is there")
}

/// Below the ports that the kernel gives to clients: one that a platform lets go of while it is
/// down is nobody's when it comes up again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let place = std::process::id() * 97 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + (place % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Subnets that no other platform of this run has.
fn network_pool() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("10.{}.{}.0/22", 224 + n / 64, (n % 64) * 4)
}

/// Waits until `done` says yes.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        let waited = begun.elapsed();
        assert!(waited < PATIENCE, "waited too long until {what}");
        // What takes long is asked for seldom: a token may ask 600 times a minute.
        let pause = if waited < Duration::from_secs(2) { 20 } else { 200 };
        std::thread::sleep(Duration::from_millis(pause));
    }
}

impl Platform {
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    pub(crate) fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start_in(folder, flags, environment)
    }

    pub(crate) fn start_in(
        folder: tempfile::TempDir,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start_at(folder, flags, environment, None)
    }

    /// On an engine of the test's own, in its network namespace.
    pub(crate) fn start_beside(engine: &Beside, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let host = engine.host();
        Self::start_at(folder, flags, &[("DOCKER_HOST", &host)], Some(engine))
    }

    fn start_at(
        folder: tempfile::TempDir,
        flags: &[&str],
        environment: &[(&str, &str)],
        engine: Option<&Beside>,
    ) -> Self {
        let port = free_port();
        let mut all = vec![
            "--http-listen".to_owned(),
            format!("127.0.0.1:{port}"),
            "--https-listen".into(),
            "127.0.0.1:0".into(),
            "--network-pool".into(),
            network_pool(),
        ];
        for (flag, value) in
            [("--drain-s", "2"), ("--grace-s", "2"), ("--instance-memory-mb", "96")]
        {
            if !flags.contains(&flag) {
                all.extend([flag.into(), value.into()]);
            }
        }
        all.extend(flags.iter().map(|f| (*f).to_owned()));
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut platform = Self {
            folder,
            port,
            token: String::new(),
            server: String::new(),
            child: None,
            flags: all,
            environment,
            beside: engine.map(|e| (e.namespace(), e.host(), e.relay(port))),
        };
        platform.up();
        platform.token = platform.new_token("test");
        let answer = platform.api(("GET", "/v1/server"), &[], b"").json();
        platform.server = answer["id"].as_str().expect("an id").to_owned();
        platform
    }

    pub(crate) fn data(&self) -> PathBuf {
        let named = self.flags.iter().position(|f| f == "--data-dir").map(|at| &self.flags[at + 1]);
        named.map_or_else(|| self.folder.path().join("data"), PathBuf::from)
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("minid.log")
    }

    /// What the server has said on stderr.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts `minid run` and waits for its ready line.
    pub(crate) fn up(&mut self) {
        let ready = self.folder.path().join("ready");
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.log_path());
        let mut command = self.minid_command();
        let child = command
            .arg("run")
            .args(&self.flags)
            .env("MINID_DATA_DIR", self.data())
            .env("MINID_LOG", "info,mini_controller=debug,mini_proxy=debug")
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&ready).expect("a file"))
            .stderr(log.expect("a log file"))
            .spawn()
            .expect("minid starts");
        self.child = Some(child);
        until("minid is ready", || {
            if let Some(child) = &mut self.child {
                assert!(
                    child.try_wait().expect("its state").is_none(),
                    "minid died:\n{}",
                    self.log()
                );
            }
            let said = std::fs::read_to_string(&ready).ok()?;
            said.contains("ready http=").then_some(())
        });
    }

    /// A field of the ready line, such as `https`.
    pub(crate) fn ready(&self, field: &str) -> String {
        let said = std::fs::read_to_string(self.folder.path().join("ready")).unwrap_or_default();
        let line = said.lines().find(|line| line.starts_with("ready ")).expect("a ready line");
        let mut fields = line.split(' ').filter_map(|word| word.split_once('='));
        let found = fields.find(|(name, _)| *name == field);
        found.unwrap_or_else(|| panic!("no {field} in {line}")).1.to_owned()
    }

    /// SIGTERM to the parent, and waits for it.
    pub(crate) fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(child.id(), "TERM");
            until("minid stops", || child.try_wait().expect("its state"));
        }
    }

    /// `kill -9` of all three processes.
    pub(crate) fn kill_everything(&mut self) {
        let children = [self.pid_of("controller"), self.pid_of("proxy")];
        if let Some(mut child) = self.child.take() {
            kill(child.id(), "KILL");
            child.wait().expect("its end");
        }
        for pid in children {
            kill(pid, "KILL");
            // Its parent is gone too: until it has ended it still holds the ports.
            until("it has ended", || {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
                let Ok(stat) = stat else { return Some(()) };
                let state = stat.rsplit(')').next()?.trim_start().chars().next()?;
                matches!(state, 'Z' | 'X').then_some(())
            });
        }
    }

    /// The process id of a child, `controller` or `proxy`.
    pub(crate) fn pid_of(&self, name: &str) -> u32 {
        let parent = self.child.as_ref().expect("minid runs").id();
        until("the child is there", || {
            let children =
                std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
            let mut pids = children.split_whitespace().filter_map(|p| p.parse().ok());
            pids.find(|pid: &u32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split(|b| *b == 0).any(|arg| arg == name.as_bytes())
            })
        })
    }

    pub(crate) fn kill_controller(&self) {
        kill(self.pid_of("controller"), "KILL");
    }

    pub(crate) fn new_token(&self, name: &str) -> String {
        let made = Command::new(env!("CARGO_BIN_EXE_minid"))
            .args(["token", "create", "--name", name])
            .env("MINID_DATA_DIR", self.data())
            .output()
            .expect("minid token runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("a token").trim().to_owned()
    }

    /// The CLI, set up for this platform.
    pub(crate) fn mini(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries().join("mini"));
        command
            .args(arguments)
            .env("MINI_HOST", format!("http://127.0.0.1:{}", self.port))
            .env("MINI_TOKEN", &self.token)
            .env("MINI_CONFIG", self.folder.path().join("mini-config.toml"))
            .env_remove("MINI_APP")
            .env_remove("MINI_SERVER")
            .stdin(Stdio::null());
        command
    }

    /// Runs the CLI, which must end well.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Said {
        let said = Said::from(self.mini(arguments).output().expect("mini runs"));
        assert_eq!(said.code, 0, "mini {arguments:?}:\n{said:?}\nserver:\n{}", tail(&self.log()));
        said
    }

    /// Runs the CLI, which must fail.
    pub(crate) fn fails(&self, arguments: &[&str]) -> Said {
        let said = Said::from(self.mini(arguments).output().expect("mini runs"));
        assert_ne!(said.code, 0, "mini {arguments:?} went well:\n{said:?}");
        said
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let said = self.ok(&all);
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {}", said.out))
    }

    /// A request to an app.
    pub(crate) fn get(&self, app: &str, path: &str) -> Answer {
        self.try_get(app, path)
            .unwrap_or_else(|e| panic!("GET {app}{path}: {e}\n{}", tail(&self.log())))
    }

    pub(crate) fn try_get(&self, app: &str, path: &str) -> std::io::Result<Answer> {
        http::request(self.port, &format!("{app}.localhost"), ("GET", path), &[], b"")
    }

    /// A request to the API through the door.
    pub(crate) fn api(&self, what: (&str, &str), headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend(headers);
        http::request(self.port, "localhost", what, &all, body).expect("the API answers")
    }

    pub(crate) fn server_id(&self) -> String {
        self.server.clone()
    }

    /// `minid VERB…` on this platform's data folder, where it runs.
    pub(crate) fn minid(&self, arguments: &[&str]) -> Output {
        let mut command = self.minid_command();
        command.args(arguments).env("MINID_DATA_DIR", self.data());
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.output().expect("minid runs")
    }

    fn minid_command(&self) -> Command {
        let minid = env!("CARGO_BIN_EXE_minid");
        let Some((namespace, ..)) = &self.beside else { return Command::new(minid) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.display())).arg(minid);
        command
    }

    /// The engine, as if it were this server. Asked directly, also where a test's platform reaches
    /// it by a detour.
    pub(crate) fn engine(&self, server: &str) -> Docker {
        Docker::connect(DockerConfig {
            server: server.parse().expect("an id"),
            host: self.beside.as_ref().map(|(_, host, _)| host.clone()),
            default_memory_bytes: None,
        })
        .expect("the engine's address is good")
    }

    /// Containers, networks and images with this server's label.
    pub(crate) fn left_on_engine(&self) -> (usize, usize, usize) {
        let docker = self.engine(&self.server_id());
        block_on(async {
            (
                docker.observe().await.expect("a look").len(),
                docker.networks().await.expect("a look").len(),
                docker.images().await.expect("a look").len(),
            )
        })
    }
}

#[expect(clippy::print_stderr, reason = "the runner shows it beside the failure")]
impl Drop for Platform {
    fn drop(&mut self) {
        self.down();
        if self.server.is_empty() {
            return;
        }
        // It outlives the server on purpose. Without a data folder left there is nobody to say it of.
        let _ = self.minid(&["firewall", "remove"]);
        let docker = self.engine(&self.server);
        block_on(async {
            for instance in docker.observe().await.unwrap_or_default() {
                let _ = docker.remove(instance.id).await;
            }
            for app in docker.networks().await.unwrap_or_default() {
                let _ = docker.remove_network(app).await;
            }
            for image in docker.images().await.unwrap_or_default() {
                let _ = docker.remove_image(image).await;
            }
            for volume in docker.volumes().await.unwrap_or_default() {
                let _ = docker.remove_volume(volume).await;
            }
        });
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", tail(&self.log()));
        }
    }
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

pub(crate) fn kill(pid: u32, signal: &str) {
    let done = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).output();
    done.expect("kill runs");
}

/// The end of a long text.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A folder with the fixture app; `environment` becomes `ENV` lines.
pub(crate) fn fixture(environment: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_fixture(folder.path(), environment);
    folder
}

/// Writes the fixture app into a folder, again with other settings if it was there.
pub(crate) fn write_fixture(folder: &Path, environment: &[(&str, &str)]) {
    let app = binaries().join("mini-fixture");
    assert!(app.is_file(), "scripts/build-static makes {}", app.display());
    if !folder.join("app").exists() {
        std::fs::copy(app, folder.join("app")).expect("a copy");
    }
    let mut dockerfile = "FROM scratch\nCOPY app /app\nEXPOSE 8080\n".to_owned();
    for (name, value) in environment {
        dockerfile.push_str(&format!("ENV {name}=\"{value}\"\n"));
    }
    dockerfile.push_str("CMD [\"/app\"]\n");
    std::fs::write(folder.join("Dockerfile"), dockerfile).expect("a Dockerfile");
}

/// `mini deploy FOLDER --app APP`'s arguments.
pub(crate) fn deploy<'a>(folder: &'a Path, app: &'a str) -> [&'a str; 4] {
    ["deploy", folder.to_str().expect("a plain path"), "--app", app]
}
