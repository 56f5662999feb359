//! The proxy upgrades in place, and is back at once after a crash.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::crash::tell;
use crate::load::{Done, Load};
use crate::platform::{PATIENCE, Platform, deploy, fixture, kill, until, write_fixture};
use crate::said::Said;
use crate::websocket::{Message, WebSocket};

const RELOADS: usize = 3;
const DRAIN: Duration = Duration::from_secs(3);

fn minid(platform: &Platform, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minid"));
    command.args(arguments).env("MINID_DATA_DIR", platform.data());
    Said::from(command.output().unwrap())
}

fn status(platform: &Platform) -> serde_json::Value {
    let said = minid(platform, &["status", "--json"]);
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"))
}

/// Whether the process is there and no zombie.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// What `minid reload` says: the new process, and the old one.
fn reload(platform: &Platform) -> (u32, u32) {
    let said = minid(platform, &["reload"]);
    assert_eq!(said.code, 0, "{said:?}\n{}", platform.log());
    let words = said.out.split("process ").skip(1);
    let pids: Vec<u32> = words
        .map(|w| w.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap())
        .collect();
    assert!(said.out.starts_with("reloaded: ") && pids.len() == 2, "{said:?}");
    (pids[0], pids[1])
}

#[test]
fn reloads_under_load_drop_nothing_and_a_websocket_lives_on_until_the_drain() {
    let platform = Platform::start_with(&["--drain-s", "3"], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let load = Load::start(platform.port, "app", DRAIN);
    let good = |what: &str| {
        let failures = load.failures();
        assert!(failures.is_empty(), "{what}: {}\n{}", failures.join("\n"), platform.log());
    };
    for round in 0..RELOADS {
        let stream = TcpStream::connect(("127.0.0.1", platform.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut socket = WebSocket::open(stream, "app.localhost", "/ws").unwrap();
        let (new, old) = reload(&platform);
        assert!(new != old && lives(old), "it has WebSockets to see to");
        socket.send(b"still there").unwrap();
        let said = socket.read().unwrap();
        assert!(matches!(&said, Message::Data(d) if d == b"still there"), "{said:?}");
        good(&format!("reload {round}"));
        if round == 1 {
            // What the old process still has in flight holds back what the new one says is drained.
            write_fixture(folder.path(), &[("ROUND", "1")]);
            platform.ok(&deploy(folder.path(), "app"));
            assert_eq!(platform.get("app", "/env").json()["ROUND"], "1");
        }
        let said = socket.read().unwrap();
        assert!(matches!(said, Message::Close(1001)), "{said:?}");
        until("the old one has drained", || (!lives(old)).then_some(()));
        good(&format!("the end of {old}"));
        assert!(lives(new));
    }
    let Done { lines, reopened, .. } = load.stop();
    tell(&format!("\n{}\n{RELOADS} reloads, drain 3 s: no failure", lines.join("\n")));
    assert!(reopened > 0, "no WebSocket outlived a drain time: nothing was tried");
    // A crash after it starts what was started last, and nothing was left half done.
    let pid = status(&platform)["processes"][2]["pid"].as_u64().unwrap();
    kill(u32::try_from(pid).unwrap(), "KILL");
    assert_eq!(platform.get("app", "/").status, 200);
}

/// In milliseconds: from the kill to an answer. The contract lets two restarts within a minute
/// come at once, so each platform is killed twice.
const BACK_WITHIN: u128 = 100;
const PLATFORMS: usize = 3;
/// Who come while nobody is there.
const CALLERS: usize = 20;

#[test]
fn after_a_crash_the_proxy_serves_again_within_a_tenth_of_a_second() {
    let folder = fixture(&[]);
    let mut times = Vec::new();
    for _ in 0..PLATFORMS {
        let platform = Platform::start();
        platform.ok(&deploy(folder.path(), "app"));
        for _ in 0..2 {
            let pid = platform.pid_of("proxy");
            // It starts with what is on disk, which is written behind the memory.
            until("the table is on disk", || {
                let proxy = &status(&platform)["proxy"];
                let known = proxy["generation"].as_u64().is_some_and(|n| n > 0);
                (known && proxy["durable"] == proxy["generation"]).then_some(())
            });
            kill(pid, "KILL");
            let begun = Instant::now();
            let mut callers: Vec<TcpStream> = (0..CALLERS)
                .map(|_| {
                    let mut stream = TcpStream::connect(("127.0.0.1", platform.port)).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    let head =
                        b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
                    stream.write_all(head).unwrap();
                    stream
                })
                .collect();
            for (n, caller) in callers.iter_mut().enumerate() {
                let mut answer = String::new();
                caller.read_to_string(&mut answer).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200 "), "caller {n}: {answer}");
                if n == 0 {
                    times.push(begun.elapsed().as_millis());
                }
            }
            until("another proxy", || (platform.pid_of("proxy") != pid).then_some(()));
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    tell(&format!(
        "\n{} proxies killed: an answer after {times:?} ms, median {median} ms; {} connections \
         waited meanwhile and none failed",
        times.len(),
        times.len() * CALLERS
    ));
    assert!(median <= BACK_WITHIN, "{times:?} ms");
}

/// A proxy alone, as a unit of systemd has it: sockets by `LISTEN_FDS`, and told what happens.
struct Alone {
    folder: tempfile::TempDir,
    program: PathBuf,
    port: u16,
    notify: UnixDatagram,
    child: Child,
}

/// Puts the socket at descriptor 3 and says so to whom it becomes.
const ACTIVATE: &str = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 </dev/null"#;

fn activated(program: &Path, socket: OwnedFd, names: &str, data: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", ACTIVATE])
        .arg(program)
        .args(["proxy", "--drain-s", "2"])
        .env("LISTEN_FDNAMES", names)
        .env("MINID_DATA_DIR", data)
        .stdin(Stdio::from(socket));
    command
}

impl Alone {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("minid");
        std::fs::copy(env!("CARGO_BIN_EXE_minid"), &program).unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let data = folder.path().join("data");
        let child = activated(&program, listener.into(), "http", &data)
            .env("NOTIFY_SOCKET", folder.path().join("notify"))
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { folder, program, port, notify, child }
    }

    fn told(&self) -> String {
        let mut buf = [0; 256];
        let n = self.notify.recv(&mut buf).unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    /// Has the process replace itself; the new one, as it is told to the service manager.
    fn reloaded(&self, main: u32) -> u32 {
        kill(main, "HUP");
        assert!(self.told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        let told = self.told();
        let new = told.strip_prefix("MAINPID=").and_then(|t| t.strip_suffix("\nREADY=1"));
        new.unwrap_or_else(|| panic!("{told}\n{}", self.log())).parse().unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Replaces the program's file, as an upgrade does.
    fn put(&self, program: &str) {
        let new = self.program.with_extension("new");
        std::fs::copy(program, &new).unwrap();
        std::fs::rename(new, &self.program).unwrap();
    }
}

/// One request on a connection of its own; the table is empty, so that the answer is a 404.
fn ask(port: u16) -> Result<(), String> {
    let told = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(told)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(told)?;
    let head = b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head).map_err(told)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(told)?;
    if answer.starts_with("HTTP/1.1 404 ") { Ok(()) } else { Err(format!("{answer:?}")) }
}

#[test]
fn a_proxy_of_the_service_manager_starts_its_successor_and_says_which_it_is() {
    let mut alone = Alone::start();
    assert_eq!(alone.told(), "READY=1");
    ask(alone.port).unwrap();
    // One with nothing left to do still says who comes after it before it ends.
    let mut main = alone.reloaded(alone.child.id());
    let ended = until("the old one ends", || alone.child.try_wait().unwrap());
    assert!(ended.success(), "{ended}: {}", alone.log());
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (over, asked, port) = (over.clone(), asked.clone(), alone.port);
            std::thread::spawn(move || {
                while !over.load(SeqCst) {
                    ask(port)?;
                    asked.fetch_add(1, SeqCst);
                }
                Ok::<_, String>(())
            })
        })
        .collect();
    for _ in 0..RELOADS {
        let before = asked.load(SeqCst);
        until("some load", || (asked.load(SeqCst) > before + 50).then_some(()));
        // A new file in the place of the one that runs.
        alone.put(env!("CARGO_BIN_EXE_minid"));
        let new = alone.reloaded(main);
        until("the old one ends", || (!lives(main)).then_some(()));
        main = new;
    }
    // One that does not come about changes nothing.
    alone.put("/bin/false");
    kill(main, "HUP");
    assert!(alone.told().starts_with("RELOADING=1\n"));
    assert_eq!(alone.told(), "READY=1");
    assert!(lives(main));
    assert!(alone.log().contains("no reload: the proxy that runs goes on"), "{}", alone.log());
    let before = asked.load(SeqCst);
    until("it goes on", || (asked.load(SeqCst) > before + 50).then_some(()));
    over.store(true, SeqCst);
    for caller in callers {
        caller.join().unwrap().unwrap_or_else(|e| panic!("{e}\n{}", alone.log()));
    }
    tell(&format!("\n{RELOADS} successors, {} connections: none failed", asked.load(SeqCst)));
    kill(main, "TERM");
    assert_eq!(alone.told(), "STOPPING=1");
    until("it ends", || (!lives(main)).then_some(()));
}

#[test]
fn sockets_that_cannot_be_used_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |socket: OwnedFd, names: &str| {
        let minid = Path::new(env!("CARGO_BIN_EXE_minid"));
        let said = Said::from(activated(minid, socket, names, folder.path()).output().unwrap());
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains("error: ") && said.err.contains("hint: "), "{said:?}");
        said.err
    };
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let said = refused(listener().into(), "minid.socket");
    assert!(
        said.contains("named \"minid.socket\"") && said.contains("FileDescriptorName="),
        "{said}"
    );
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let said = refused(udp.into(), "http");
    assert!(said.contains("descriptor 3"), "{said}");
    let busy = listener();
    let connected = TcpStream::connect(busy.local_addr().unwrap()).unwrap();
    let said = refused(connected.into(), "http");
    assert!(said.contains("does not listen"), "{said}");
}
