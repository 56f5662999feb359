//! Volumes: what is in them outlives everything but the user's word.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use mini_core::ports::Runtime;

use crate::http;
use crate::platform::{Platform, block_on, deploy, fixture, until, write_fixture};

/// An app that keeps rows in a SQLite file: `POST /` adds one and answers when it is on the disk,
/// `GET /` counts them, `GET /check` lets SQLite look at its own file.
const APP: &str = r#"
import http.server, os, sqlite3

PATH = "/data/app.db"

def connect():
    db = sqlite3.connect(PATH, timeout=10)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, release TEXT)")
    return db

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, text):
        body = str(text).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        db = connect()
        with db:
            db.execute("INSERT INTO rows (release) VALUES (?)", (os.environ["MINI_RELEASE"],))
        db.close()
        self.answer("stored")

    def do_GET(self):
        db = connect()
        sql = "PRAGMA integrity_check" if self.path == "/check" else "SELECT count(*) FROM rows"
        self.answer(db.execute(sql).fetchone()[0])
        db.close()

    def log_message(self, *arguments):
        pass

connect().close()
server = http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler)
import signal, threading
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
server.server_close()
"#;

fn write_app(folder: &Path, round: u32) {
    std::fs::write(folder.join("app.py"), APP).unwrap();
    let dockerfile = format!(
        "FROM python:3.11-slim\nCOPY app.py /app.py\nENV ROUND={round}\nEXPOSE 8000\n\
         CMD [\"python3\", \"/app.py\"]\n"
    );
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
}

/// Adds rows without pause, and counts those that the app said are stored.
struct Writer {
    stored: Arc<AtomicU64>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn start(port: u16, host: &'static str) -> Self {
        let (stored, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (rows, stop, failed) = (stored.clone(), over.clone(), failures.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(SeqCst) {
                match http::request(port, host, ("POST", "/"), &[], b"row") {
                    Ok(answer) if answer.status == 200 => drop(rows.fetch_add(1, SeqCst)),
                    Ok(answer) => failed.lock().unwrap().push(format!("{}", answer.status)),
                    Err(error) => failed.lock().unwrap().push(error.to_string()),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stored, failures, over, thread: Some(thread) }
    }

    fn end(mut self) -> (u64, Vec<String>) {
        self.over.store(true, SeqCst);
        self.thread.take().unwrap().join().unwrap();
        (self.stored.load(SeqCst), std::mem::take(&mut *self.failures.lock().unwrap()))
    }
}

#[test]
fn a_database_file_under_load_loses_nothing_through_deploys_rollbacks_and_dead_controllers() {
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    write_app(folder.path(), 1);
    platform.ok(&["apps", "create", "rows"]);
    let said = platform.ok(&["volumes", "add", "data:/data", "--app", "rows"]);
    assert!(said.err.contains("Volume data is at /data"), "{said:?}");
    platform.ok(&deploy(folder.path(), "rows"));
    let writer = Writer::start(platform.port, "rows.localhost");
    for round in 2..=4 {
        write_app(folder.path(), round);
        platform.ok(&deploy(folder.path(), "rows"));
    }
    platform.ok(&["rollback", "--app", "rows"]);
    platform.ok(&["env", "set", "A=1", "--app", "rows"]);
    platform.kill_controller();
    platform.ok(&["restart", "--app", "rows"]);
    platform.ok(&["ps", "restart", "web.1", "--app", "rows"]);
    let (stored, failures) = writer.end();
    let counted: u64 = platform.get("rows", "/").text().parse().unwrap();
    println!("{stored} rows were said to be stored, {counted} are there; failures: {failures:?}");
    assert_eq!(platform.get("rows", "/check").text(), "ok");
    assert_eq!(failures, Vec::<String>::new());
    assert!(stored > 20 && counted == stored, "{stored} said to be stored, {counted} there");
}

fn read(platform: &Platform, app: &str) -> String {
    platform.get(app, "/read?path=/data/note").text().trim().to_owned()
}

#[test]
fn a_volume_outlives_its_app_and_goes_when_the_user_says_so() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    platform.ok(&["volumes", "add", "data:/data", "--app", "blue"]);
    assert_eq!(platform.get("blue", "/write?path=/data/note&text=kept").text().trim(), "written");
    platform.ok(&["restart", "--app", "blue"]);
    assert_eq!(read(&platform, "blue"), "kept");

    // Unmounted it is kept, mounted again it is the same.
    let said = platform.ok(&["volumes", "remove", "data", "--app", "blue"]);
    assert!(said.err.contains("its data stay"), "{said:?}");
    assert_ne!(platform.get("blue", "/read?path=/data/note").status, 200);
    let list = platform.ok(&["volumes", "--app", "blue"]).out;
    assert!(list.contains("not mounted"), "{list}");
    platform.ok(&["rollback", "v2", "--app", "blue"]);
    assert_eq!(read(&platform, "blue"), "kept", "a rollback brings it back");

    // Another app cannot have it; the next one of that name does.
    platform.ok(&deploy(folder.path(), "green"));
    let said = platform.fails(&["volumes", "add", "blue/data:/data", "--app", "green"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("the volume data belongs to the app blue"), "{said:?}");
    let said = platform.ok(&["apps", "destroy", "blue", "--yes"]);
    assert!(said.err.contains("Kept: the volume data"), "{said:?}");
    platform.ok(&["volumes", "add", "blue/data:/data", "--app", "green"]);
    assert_eq!(read(&platform, "green"), "kept", "what a destroyed app left is taken over");

    let said = platform.fails(&["volumes", "remove", "data", "--delete-data", "--app", "green"]);
    assert!(said.err.contains("--yes"), "{said:?}");
    platform.ok(&["apps", "destroy", "green", "--with-volumes", "--yes"]);
    let engine = platform.engine(&platform.server_id());
    until("no volume is left", || block_on(engine.volumes()).ok()?.is_empty().then_some(()));
    let said = platform.ok(&["volumes", "list", "--all"]);
    assert!(said.err.contains("No volumes"), "{said:?}");
}

#[test]
fn what_a_volume_may_not_be_is_refused_with_a_way_out() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    for (wish, why) in [
        ("data", "NAME:/path"),
        ("data:relative", "it is not absolute"),
        ("data:/", "the whole file system"),
        ("data:/a/../b", "dotted parts"),
        ("data:/proc/x", "belongs to the system"),
        ("Data:/data", "volume name \"Data\" is not allowed"),
        ("gone/data:/data", "gone left no volume named data"),
    ] {
        let said = platform.fails(&["volumes", "add", wish, "--app", "blue"]);
        assert!(said.err.contains(why), "{wish}: {said:?}");
    }
    let said = platform.fails(&["volumes", "remove", "data", "--app", "blue"]);
    assert!(said.code == 4 && said.err.contains("blue has no volume named data"), "{said:?}");
    platform.ok(&["volumes", "add", "data:/data", "--app", "blue"]);
    let said = platform.fails(&["volumes", "add", "other:/data/", "--app", "blue"]);
    assert!(said.err.contains("/data holds the volume data"), "{said:?}");
    let said = platform.ok(&["volumes", "add", "data:/data", "--app", "blue"]);
    assert!(said.err.contains("Nothing changed"), "{said:?}");

    // Two releases at once must not write it, unless the user says that they may.
    write_fixture(folder.path(), &[("ROUND", "2")]);
    let mut rolling = deploy(folder.path(), "blue").to_vec();
    rolling.extend(["--strategy", "rolling"]);
    let said = platform.fails(&rolling);
    assert!(said.err.contains("would both write the volume data"), "{said:?}");
    assert!(said.err.contains("mini volumes add data:/data --shared"), "{said:?}");
    platform.ok(&["volumes", "add", "data:/data", "--shared", "--app", "blue"]);
    platform.ok(&rolling);
}
