//! The binary, driven as a user drives it, against a fake server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use fake::{Asked, Fake, Reply};
use serde_json::{Value, json};

/// A user's machine: a home with a config file, and a folder to work in.
struct Machine {
    _root: tempfile::TempDir,
    config: PathBuf,
    work: PathBuf,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let work = root.path().join("work");
        fs::create_dir(&work).unwrap();
        Self { config: root.path().join("mini/config.toml"), work, _root: root }
    }

    /// One that uses `fake`, with the token `mini_good`.
    fn of(fake: &Fake) -> Self {
        let machine = Self::new();
        machine.configure(&format!(
            "current = \"local\"\n[servers.local]\nhost = \"{}\"\ntoken = \"mini_good\"\n",
            fake.url
        ));
        machine
    }

    fn configure(&self, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(self.config.parent().unwrap()).unwrap();
        fs::write(&self.config, text).unwrap();
        fs::set_permissions(&self.config, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.work.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mini"));
        command.args(args).current_dir(&self.work).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("MINI_CONFIG", &self.config);
        // No server of this machine may be found instead of the fake.
        command.env("MINID_DATA_DIR", self.work.join("no-server"));
        command
    }

    fn mini(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    fn mini_with_stdin(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap().into()
    }
}

fn app(name: &str, release: Option<&str>) -> Value {
    json!({
        "name": name, "urls": [format!("http://{name}.localhost:8080")], "domains": [],
        "state": if release.is_some() { "running" } else { "empty" }, "release": release,
        "image": null, "created_at": "2026-11-23T09:00:00Z", "deployed_at": null,
        "env_staged": false
    })
}

fn deployment(app: &str, kind: &str, status: &str) -> Value {
    json!({
        "id": "d1", "app": app, "kind": kind, "status": status, "release": "v4",
        "created_at": "2026-11-23T09:00:00Z", "finished_at": null,
        "url": format!("http://{app}.localhost:8080"), "cause": null, "description": "Deploy",
        "created_by": "laptop"
    })
}

fn event(number: u64, mut body: Value) -> Value {
    body["number"] = json!(number);
    body["at"] = json!("2026-11-23T09:00:00Z");
    body
}

fn status(number: u64, status: &str) -> Value {
    event(number, json!({ "type": "status", "status": status }))
}

/// The events of a deploy that goes well.
fn good_events() -> Vec<Value> {
    vec![
        status(1, "queued"),
        status(2, "building"),
        event(3, json!({ "type": "output", "line": "Step 1/2 : FROM scratch" })),
        event(4, json!({ "type": "output", "line": "Step 2/2 : COPY . /" })),
        status(5, "starting"),
        event(6, json!({ "type": "healthy", "after_ms": 412 })),
        event(
            7,
            json!({ "type": "live", "release": "v4", "url": "http://blue-sky.localhost:8080" }),
        ),
        status(8, "live"),
    ]
}

/// A server with one app at most, as the controller behaves; `end` is how its deployments end, and
/// `events` answers the event stream.
struct Platform {
    apps: Mutex<BTreeSet<String>>,
    sources: Mutex<BTreeSet<String>>,
    last_digest: Mutex<String>,
    end: Value,
    events: Box<dyn Fn(&Asked) -> Reply + Send + Sync>,
}

impl Platform {
    fn good() -> Self {
        Self::ending(deployment("blue-sky", "deploy", "live"), |_| Reply::lines(&good_events()))
    }

    fn ending(end: Value, events: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let (apps, sources, last_digest) = Default::default();
        Self { apps, sources, last_digest, end, events: Box::new(events) }
    }

    fn with_app(self, name: &str) -> Self {
        self.apps.lock().unwrap().insert(name.to_owned());
        self
    }

    fn start(self) -> Fake {
        Fake::start(move |asked| self.answer(asked))
    }

    fn answer(&self, asked: &Asked) -> Reply {
        if asked.token.as_deref() != Some("mini_good") {
            return Reply::error(401, "unauthorized", "the token is unknown");
        }
        let path = asked.path.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let mut apps = self.apps.lock().unwrap();
        match (asked.method.as_str(), parts.as_slice()) {
            ("POST", ["apps"]) => {
                let new: Value = serde_json::from_slice(&asked.body).unwrap();
                let name = new["name"].as_str().unwrap_or("blue-sky").to_owned();
                apps.insert(name.clone());
                Reply::json(201, &app(&name, None))
            }
            (_, ["apps", name, ..]) if !apps.contains(*name) => {
                Reply::error(404, "not_found", &format!("there is no app named {name}"))
            }
            ("GET", ["apps", name]) => Reply::json(200, &app(name, Some("v3"))),
            ("GET", ["apps", _, "sources", digest]) => {
                *self.last_digest.lock().unwrap() = (*digest).to_owned();
                if self.sources.lock().unwrap().contains(*digest) {
                    Reply::json(200, &json!({ "digest": digest, "files": 2, "bytes": 10 }))
                } else {
                    Reply::error(404, "not_found", "the server does not have that source")
                }
            }
            ("POST", ["apps", _, "sources"]) => {
                let digest = self.last_digest.lock().unwrap().clone();
                self.sources.lock().unwrap().insert(digest.clone());
                Reply::json(201, &json!({ "digest": digest, "files": 2, "bytes": 10 }))
            }
            ("POST", ["apps", name, "deployments" | "restart" | "start"]) => {
                Reply::json(202, &deployment(name, "deploy", "queued"))
            }
            ("PATCH", ["apps", name, "env"]) => {
                let change: Value = serde_json::from_slice(&asked.body).unwrap();
                let changed: Vec<_> = change["vars"].as_object().unwrap().keys().collect();
                let deployment = deployment(name, "config", "queued");
                Reply::json(200, &json!({ "changed": changed, "deployment": deployment }))
            }
            ("GET", ["deployments", _, "events"]) => (self.events)(asked),
            ("GET", ["deployments", _]) => Reply::json(200, &self.end),
            ("DELETE", ["apps", name]) => {
                let gone = app(name, None);
                apps.remove(*name);
                Reply::json(202, &gone)
            }
            _ => Reply::error(404, "not_found", &format!("there is nothing at {path}")),
        }
    }
}

fn assert_in(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is missing in:\n{text}");
}

// Deploying.

#[test]
fn a_first_deploy_makes_a_name_remembers_it_and_goes_live() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    machine.file("Dockerfile", "FROM scratch\nCOPY . /\n");
    machine.file("src/.hidden", "x");
    let ran = machine.mini(&["deploy", "."]);
    assert_eq!(
        ran.err,
        "Created app blue-sky; ./mini.toml remembers it\n\
         [1/3] Packing source code... 3 files, 40 B\n\
         [2/3] Building image \"app-blue-sky\"...\n\
         \x20 Step 1/2 : FROM scratch\n\
         \x20 Step 2/2 : COPY . /\n\
         [3/3] Starting container... healthy in 0.4 s\n\
         \n"
    );
    assert_eq!(ran.out, "Your app is live at: http://blue-sky.localhost:8080\n");
    assert_eq!(ran.code, 0);
    assert_eq!(fs::read_to_string(machine.work.join("mini.toml")).unwrap(), "app = \"blue-sky\"\n");

    let asked = fake.asked();
    let upload = asked.iter().find(|a| a.line() == "POST /v1/apps/blue-sky/sources").unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(upload.body.as_slice()));
    let paths = tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string());
    assert_eq!(paths.collect::<Vec<_>>(), ["Dockerfile", "mini.toml", "src", "src/.hidden"]);
    let deploy = asked.iter().find(|a| a.line() == "POST /v1/apps/blue-sky/deployments").unwrap();
    assert_eq!(deploy.key.as_ref().unwrap().len(), 32);

    let again = machine.mini(&["deploy", "."]);
    assert_in(&again.err, "[1/3] Packing source code... 3 files, 40 B (unchanged, not sent)\n");
    assert_eq!(fake.lines().iter().filter(|l| l.ends_with("/sources")).count(), 1);
}

#[test]
fn json_is_one_document_on_stdout() {
    let fake = Platform::good().with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "--app", "blue-sky", "--json"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &document["status"]), (0, &json!("live")));
    assert_in(&ran.err, "[3/3] Starting container... healthy in 0.4 s\n");
}

#[test]
fn an_event_stream_that_breaks_goes_on_where_it_was() {
    let times = AtomicUsize::new(0);
    let platform = Platform::ending(deployment("blue-sky", "deploy", "live"), move |asked| {
        let events = good_events();
        match times.fetch_add(1, Ordering::SeqCst) {
            // Lost in the middle of a line.
            0 => {
                let mut lines = events[..3].to_vec();
                lines.push(json!("torn"));
                Reply::lines(&lines[..3]).cut()
            }
            1 => Reply::error(503, "controller_unavailable", "the controller is away"),
            2 => {
                assert!(asked.path.contains("after=3"), "{}", asked.path);
                // A controller that stops ends its streams in order.
                Reply::lines(&events[3..5])
            }
            _ => {
                assert!(asked.path.contains("after=5"), "{}", asked.path);
                Reply::lines(&events[5..])
            }
        }
    });
    let fake = platform.with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "-a", "blue-sky"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err.matches("Step 1/2").count(), 1, "{}", ran.err);
    assert_eq!(ran.err.matches("Step 2/2").count(), 1, "{}", ran.err);
    assert_eq!(ran.out, "Your app is live at: http://blue-sky.localhost:8080\n");
    assert_in(&ran.err, "trying again for up to 30 s");
}

#[test]
fn a_failed_deploy_says_why_and_what_still_serves() {
    let mut end = deployment("blue-sky", "deploy", "failed");
    end["cause"] = json!({
        "code": "exited", "message": "web.1 exited with code 1",
        "hint": "the reason should be in its last log lines", "log_tail": ["boom", "\u{1b}[2Jbang"]
    });
    let events = [
        status(1, "building"),
        status(2, "starting"),
        event(3, json!({ "type": "failed", "cause": end["cause"] })),
        status(4, "failed"),
    ];
    let fake = Platform::ending(end, move |_| Reply::lines(&events)).with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let ran = machine.mini(&["deploy", "-a", "blue-sky"]);
    assert_in(
        &ran.err,
        "[3/3] Starting container...\n  boom\n  bang\n\
         error: web.1 exited with code 1\n\
         hint: the reason should be in its last log lines\n\
         note: v3 still serves http://blue-sky.localhost:8080\n",
    );
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
}

#[test]
fn superseded_is_5_and_cancelled_is_1() {
    for (end, code) in [("superseded", 5), ("cancelled", 1)] {
        let events = [status(1, "queued"), status(2, end)];
        let platform =
            Platform::ending(deployment("blue-sky", "deploy", end), move |_| Reply::lines(&events));
        let fake = platform.with_app("blue-sky").start();
        let machine = Machine::of(&fake);
        machine.file("index.html", "hi");
        assert_eq!(machine.mini(&["deploy", "-a", "blue-sky"]).code, code, "{end}");
    }
}

#[test]
fn ctrl_c_leaves_the_deploy_running_and_says_so() {
    let events = good_events()[..5].to_vec();
    let platform = Platform::ending(deployment("blue-sky", "deploy", "starting"), move |_| {
        Reply::lines(&events).hang()
    });
    let fake = platform.with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let mut command = machine.command(&["deploy", "-a", "blue-sky"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("Step 2/2") {
        assert_ne!(stderr.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    stderr.read_to_string(&mut seen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_in(&seen, "error: interrupted; the deployment d1 goes on\n");
    assert_in(&seen, "`mini deploys follow d1`");
    assert_in(&seen, "`mini deploys cancel d1`");
}

#[test]
fn no_wait_prints_the_id_and_the_key_is_the_users() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    machine.file("index.html", "hi");
    let args = ["deploy", "-a", "new-app", "--no-wait", "--idempotency-key", "build-7"];
    let ran = machine.mini(&args);
    assert_eq!((ran.code, ran.out.as_str()), (0, "d1\n"));
    assert_in(&ran.err, "Created app new-app\n");
    assert_eq!(fake.asked().last().unwrap().key.as_deref(), Some("build-7"));
    assert!(!machine.work.join("mini.toml").exists(), "a name that was given is not written down");
}

#[test]
fn an_image_is_deployed_without_packing() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    let ran = machine.mini(&["deploy", "--image", "nginx:1.29"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.err, "[1/2] Getting the image");
    assert_in(&ran.err, "[2/2] Starting container... healthy in 0.4 s\n");
    assert!(fake.lines().iter().all(|l| !l.contains("/sources")));
    let deploy = fake.asked().into_iter().find(|a| a.path.ends_with("/deployments")).unwrap();
    let body: Value = serde_json::from_slice(&deploy.body).unwrap();
    assert_eq!(body["image"], "nginx:1.29");
    assert_eq!(fs::read_to_string(machine.work.join("mini.toml")).unwrap(), "app = \"blue-sky\"\n");
}

#[test]
fn a_refusal_during_the_upload_is_told_as_it_is() {
    let platform = Platform::good().with_app("blue-sky");
    let fake = Fake::start_unread(move |asked| {
        if asked.method == "POST" {
            Reply::error(413, "too_large", "the source is larger than 2.0 GB")
                .header("connection", "close")
        } else {
            platform.answer(asked)
        }
    });
    let machine = Machine::of(&fake);
    // Random enough not to shrink, and more than all buffers between hold.
    let noise: String = (0..8_000_000u64)
        .map(|i| char::from(b' ' + (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as u8))
        .collect();
    machine.file("noise", &noise);
    let ran = machine.mini(&["deploy", "-a", "blue-sky"]);
    assert_in(&ran.err, "error: the source is larger than 2.0 GB\n");
    assert_eq!(ran.code, 1);
}

#[test]
fn folders_that_cannot_be_deployed_are_told() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    let empty = machine.mini(&["deploy", "."]);
    assert_eq!(empty.code, 1);
    assert_in(&empty.err, "error: . holds nothing to deploy\n");
    assert_eq!(machine.mini(&["deploy", "nowhere"]).code, 2);
    machine.file("file", "x");
    assert_in(&machine.mini(&["deploy", "file"]).err, "file is not a folder");
    assert!(fake.lines().is_empty(), "no app is made for what cannot be deployed");
}

// Who answers.

#[test]
fn a_refused_token_is_3_and_names_login() {
    let fake = Platform::good().start();
    let machine = Machine::new();
    machine.configure(&format!("current = 'a'\n[servers.a]\nhost = '{}'\n", fake.url));
    let ran = machine.mini(&["apps"]);
    assert_eq!(ran.code, 3);
    assert_in(&ran.err, "error: the token is unknown\nhint: `mini login`");
}

#[test]
fn a_wrong_host_is_6_at_once() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let machine = Machine::new();
    let began = std::time::Instant::now();
    let ran = machine.mini(&["apps", "--host", &format!("http://{gone}")]);
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, &format!("error: cannot reach http://{gone}: connection refused\n"));
    assert!(began.elapsed().as_secs() < 10);
}

#[test]
fn what_is_no_mini_server_is_told() {
    let fake = Fake::start(|_| Reply::bare(200, "<html>hello</html>"));
    let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, "is not a mini server");
    let fake = Fake::start(|_| Reply::bare(302, "").header("location", "https://x.test/"));
    let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
    assert_in(&ran.err, "it redirects to \"https://x.test/\"");
    let fake = Fake::start(|_| Reply::bare(404, "<html>").header("x-mini-error", "H404"));
    let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
    assert_in(&ran.err, "that name is not its API's");
}

#[test]
fn servers_of_another_level_are_told() {
    for (level, words, hint) in [
        ("2", "too new for this client", "update this client"),
        ("0", "too old", "update the server"),
    ] {
        let fake = Fake::start(move |_| {
            Reply::json(200, &json!({ "apps": [] }))
                .header("mini-api-level", level)
                .header("mini-version", "9.9.9")
        });
        let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
        assert_eq!(ran.code, 6);
        assert_in(&ran.err, "runs mini 9.9.9");
        assert_in(&ran.err, words);
        assert_in(&ran.err, &format!("hint: {hint}"));
    }
}

#[test]
fn a_server_that_restarts_is_waited_for() {
    let times = AtomicUsize::new(0);
    let fake = Fake::start(move |_| match times.fetch_add(1, Ordering::SeqCst) {
        // As the proxy's door answers, which knows no API level.
        0 => Reply::bare(503, r#"{"code":"controller_unavailable","message":"it is away"}"#)
            .header("x-mini-error", "H99"),
        1 => Reply::lines(&[]).cut(),
        _ => Reply::json(200, &json!({ "apps": [app("blue-sky", Some("v3"))] })),
    });
    let ran = Machine::of(&fake).mini(&["apps"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.out, "APP       STATE    RELEASE  DEPLOYED  URL\nblue-sky  running  v3");
    assert_eq!(fake.lines().len(), 3);
}

#[test]
fn an_unknown_app_is_4_and_names_the_list() {
    let fake = Platform::good().start();
    let ran = Machine::of(&fake).mini(&["ps", "-a", "nobody"]);
    assert_eq!(ran.code, 4);
    assert_in(&ran.err, "error: there is no app named nobody\nhint: `mini apps`");
}

#[test]
fn without_a_server_or_an_app_the_next_step_is_named() {
    let machine = Machine::new();
    let ran = machine.mini(&["apps"]);
    assert_eq!(ran.code, 1);
    assert_in(&ran.err, "error: no server is configured\nhint: `mini config set-host URL`");
    let fake = Platform::good().start();
    let ran = Machine::of(&fake).mini(&["logs"]);
    assert_eq!(ran.code, 2);
    assert_in(&ran.err, "error: no app is named\nhint: pass --app NAME");
    assert_eq!(machine.mini(&["deploy", "--nonsense"]).code, 2);
}

// Servers and tokens.

#[test]
fn a_server_is_set_and_logged_in_to_and_its_token_stays_its_own() {
    let healthy = |_: &Asked| {
        Reply::json(
            200,
            &json!({
                "status": "ok", "version": "0.1.0", "api_level": 1, "id": "s1", "domains": [],
                "engine": null, "token": "laptop", "problems": []
            }),
        )
    };
    let (first, second) = (Fake::start(healthy), Fake::start(healthy));
    let machine = Machine::new();
    let set = machine.mini(&["config", "set-host", &first.url]);
    assert_eq!(set.code, 0, "{}", set.err);
    assert_in(&set.err, &format!("Server \"local\" is {} (mini 0.1.0).", first.url));
    let login = machine.mini_with_stdin(&["login"], "mini_secret\n");
    assert_eq!(login.code, 0, "{}", login.err);
    assert_eq!(first.asked().last().unwrap().token.as_deref(), Some("mini_secret"));
    assert!(!login.err.contains("mini_secret") && login.out.is_empty());
    let listed = machine.mini(&["config", "list"]).out;
    assert_in(&listed, "local  ");
    assert_in(&listed, "yes    current");

    machine.mini(&["apps", "--host", &second.url]);
    let moved = machine.mini(&["config", "set-host", &second.url]);
    assert_in(&moved.err, &format!("\"local\" was {}; the token for it is forgotten.", first.url));
    machine.mini(&["apps"]);
    assert!(second.asked().len() >= 3);
    assert!(second.asked().iter().all(|a| a.token.is_none()), "{:?}", second.asked());
}

#[test]
fn a_token_that_is_refused_is_not_stored() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    let before = fs::read_to_string(&machine.config).unwrap();
    let ran = machine.mini(&["login", "--token", "mini_bad"]);
    assert_eq!(ran.code, 3);
    assert_in(&ran.err, "minid token create");
    assert_eq!(fs::read_to_string(&machine.config).unwrap(), before);
}

#[test]
fn a_host_that_is_no_server_is_not_stored() {
    let fake = Fake::start(|_| Reply::bare(200, "<html>"));
    let machine = Machine::new();
    assert_eq!(machine.mini(&["config", "set-host", &fake.url]).code, 6);
    assert_eq!(machine.mini(&["config", "set-host", "https://example.com"]).code, 2);
    assert!(!machine.config.exists());
}

// The other verbs.

#[test]
fn destroying_asks_and_without_a_terminal_refuses() {
    let fake = Platform::good().with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    let refused = machine.mini(&["apps", "destroy", "blue-sky"]);
    assert_eq!(refused.code, 2);
    assert_in(&refused.err, "hint: pass --yes if you mean it");
    assert!(fake.lines().iter().all(|l| !l.starts_with("DELETE")));
    let done = machine.mini(&["apps", "destroy", "blue-sky", "--yes"]);
    assert_eq!((done.code, done.err.as_str()), (0, "Destroying blue-sky... gone\n"));
    assert_eq!(machine.mini(&["apps", "destroy", "blue-sky", "--yes"]).code, 4);
}

#[test]
fn env_set_sends_files_and_words_and_tells_the_release() {
    let events = [
        status(1, "starting"),
        event(2, json!({ "type": "healthy", "after_ms": 90 })),
        status(3, "live"),
    ];
    let end = deployment("blue-sky", "config", "live");
    let fake = Platform::ending(end, move |_| Reply::lines(&events)).with_app("blue-sky").start();
    let machine = Machine::of(&fake);
    machine.file("mini.toml", "app = 'blue-sky'\n");
    machine.file(".env", "export A=1 # one\nB=\"two\nlines\"\nGREETING=old\n");
    let ran = machine.mini(&["env", "set", "GREETING=hello = world", "--file", ".env"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(
        ran.err,
        "Set A, B, GREETING in v4\nStarting container... healthy in 0.1 s\n\
         v4 is live at http://blue-sky.localhost:8080\n"
    );
    let sent = fake.asked().into_iter().find(|a| a.method == "PATCH").unwrap();
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body["vars"], json!({ "A": "1", "B": "two\nlines", "GREETING": "hello = world" }));
    assert_eq!(machine.mini(&["env", "set", "1BAD=x"]).code, 2);
    machine.mini(&["env", "unset", "A", "--no-wait"]);
    let body: Value = serde_json::from_slice(&fake.asked().last().unwrap().body).unwrap();
    assert_eq!(body["vars"], json!({ "A": null }));
}

#[test]
fn logs_are_data_and_resume_behind_the_last_line() {
    let line = |number: u64, text: &str| {
        json!({
            "type": "line", "number": number, "at": "2026-11-23T09:30:00.123456Z",
            "source": "app", "process": "web.1", "text": text
        })
    };
    let fake = Fake::start(move |asked| {
        if asked.path.contains("after=10") {
            Reply::lines(&[json!({ "type": "heartbeat" }), line(20, "second")])
        } else {
            Reply::lines(&[line(10, "first"), json!({ "type": "missed", "bytes": 2000 })]).cut()
        }
    });
    let machine = Machine::of(&fake);
    let ran = machine.mini(&["logs", "-a", "blue-sky", "-n", "5", "-p", "web.1", "--since", "1h"]);
    assert_eq!(
        ran.out,
        "2026-11-23T09:30:00.123456+00:00 app[web.1]: first\n\
         2026-11-23T09:30:00.123456+00:00 app[web.1]: second\n"
    );
    assert_eq!(ran.code, 0);
    assert_in(&fake.lines()[0], "?n=5&since=");
    assert_in(&fake.lines()[0], "&process=web.1");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let line = json!({
        "type": "line", "number": 1, "at": "2026-11-23T09:30:00Z",
        "source": "app", "process": "web.1", "text": "x".repeat(1000)
    });
    let fake = Fake::start(move |_| Reply::lines(&vec![line.clone(); 1000]));
    let machine = Machine::of(&fake);
    let mut command = machine.command(&["logs", "-a", "blue-sky"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn every_verb_has_help_with_an_example() {
    let machine = Machine::new();
    let help = machine.mini(&["--help"]).out;
    let verbs = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    let verbs: Vec<&str> =
        verbs.take_while(|l| !l.is_empty()).filter_map(|l| l.split_whitespace().next()).collect();
    assert!(verbs.len() >= 16, "{verbs:?}");
    for verb in verbs {
        let help = machine.mini(&[verb, "--help"]);
        assert_eq!(help.code, 0);
        assert_in(&help.out, "Examples:\n  mini");
    }
    assert_in(&machine.mini(&["completions", "bash"]).out, "_mini()");
    let version = machine.mini(&["version"]);
    assert_eq!(version.code, 0);
    assert_in(&version.out, concat!("client  ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_git_remote_names_the_app_but_the_folder_does_not() {
    let fake = Platform::good().with_app("of-remote").start();
    let machine = Machine::of(&fake);
    let git = |args: &[&str]| {
        let done = Command::new("git").args(args).current_dir(&machine.work).output().unwrap();
        assert!(done.status.success(), "git {args:?}");
    };
    git(&["init", "-q"]);
    git(&["remote", "add", "mini", "http://mini.example.com/of-remote.git"]);
    let ran = machine.mini(&["apps", "info"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.out, "app       of-remote\n");
    assert!(!Path::new(&machine.work).join("mini.toml").exists());
}
