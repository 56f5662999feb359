//! A Docker Engine of a test's own, beside the machine's: its own data, socket and network
//! namespace, so that it can be stopped and killed. Needs root.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::platform::{kill, until};

pub(crate) struct Beside {
    folder: PathBuf,
    namespace: String,
    live_restore: bool,
    /// What it is told beside.
    more: Vec<String>,
    dockerd: Option<Child>,
}

/// Runs a program, which must end well.
fn run(program: &str, arguments: &[&str]) {
    let said = Command::new(program).args(arguments).output();
    let said = said.unwrap_or_else(|error| panic!("{program}: {error} (needs iproute2)"));
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{program} {arguments:?} (needs root): {err}");
}

/// Whether a process is gone, or waits for nothing but its parent's attention.
fn ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

impl Beside {
    pub(crate) fn start(live_restore: bool) -> Self {
        Self::start_with(live_restore, &[])
    }

    pub(crate) fn start_with(live_restore: bool, more: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("mini-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(&namespace);
        std::fs::create_dir(&folder).unwrap();
        let more = more.iter().map(|word| (*word).to_owned()).collect();
        let mut engine = Self { folder, namespace, live_restore, more, dockerd: None };
        run("ip", &["netns", "add", &engine.namespace]);
        run("ip", &["-n", &engine.namespace, "link", "set", "lo", "up"]);
        engine.up();
        engine
    }

    /// The namespace's file.
    pub(crate) fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// What `DOCKER_HOST` names it by.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("sock"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().expect("a plain path").to_owned()
    }

    pub(crate) fn up(&mut self) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.path("log"));
        let log = log.unwrap();
        let mut command = Command::new("nsenter");
        command
            // Not `ip netns exec`, which would hide the control groups.
            .arg(format!("--net={}", self.namespace().display()))
            .args(["dockerd", "--data-root", &self.path("data")])
            .args(["--exec-root", &self.path("exec"), "--pidfile", &self.path("pid")])
            .args(["-H", &self.host()])
            .args(self.live_restore.then_some("--live-restore"))
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.dockerd = Some(command.spawn().expect("nsenter and dockerd are there"));
        until("the second engine answers", || {
            let dockerd = self.dockerd.as_mut()?;
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(dockerd.try_wait().unwrap().is_none(), "dockerd ended:\n{}", log());
            crate::http::over_unix(&self.folder.join("sock"), ("GET", "/_ping"), &[], b"").ok()
        });
    }

    /// Sends the engine a signal, and waits for its end.
    pub(crate) fn down(&mut self, signal: &str) {
        if let Some(mut dockerd) = self.dockerd.take() {
            kill(dockerd.id(), signal);
            until("dockerd ends", || dockerd.try_wait().unwrap());
            // What a killed one leaves: its containerd, which dies right after it, and the files
            // with their numbers. The next would wait for whoever has such a number, which may be
            // a dead process that its new parent has not looked after yet.
            let containerd = self.folder.join("exec/containerd/containerd.pid");
            let number = std::fs::read_to_string(&containerd).unwrap_or_default();
            until("containerd ends", || ended(number.trim()).then_some(()));
            let _ = std::fs::remove_file(containerd);
            let _ = std::fs::remove_file(self.folder.join("pid"));
        }
    }

    /// What of this engine still runs: its command line names our folder.
    fn processes(&self) -> Vec<u32> {
        let ours = self.folder.to_str().expect("a plain path");
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(ours)
        })
        .collect()
    }

    fn unmount(&self) {
        let ours = format!("{}/", self.folder.display());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut points: Vec<&str> = mounts.lines().filter_map(|m| m.split(' ').nth(1)).collect();
        points.retain(|point| point.starts_with(&ours));
        points.sort_unstable();
        for point in points.into_iter().rev() {
            let _ = Command::new("umount").args(["--lazy", point]).output();
        }
    }

    /// Makes `port` of this machine's loopback lead to the same port in the namespace.
    pub(crate) fn relay(&self, port: u16) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let namespace = std::fs::File::open(self.namespace()).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        std::thread::spawn(move || {
            // Of this thread and those that it starts; the listener stays where it was made.
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).expect("needs root");
            for client in listener.incoming().map_while(Result::ok) {
                if seen.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                if let (Ok(a), Ok(b)) = (client.try_clone(), server.try_clone()) {
                    pipe(a, b);
                    pipe(server, client);
                }
            }
        });
        Relay { port, over }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.down("TERM");
        // First those that hold containers: what they hold dies with them.
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(10) && !self.processes().is_empty() {
            self.processes().into_iter().for_each(|pid| kill(pid, "KILL"));
            std::thread::sleep(Duration::from_millis(50));
        }
        self.unmount();
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).output();
        if let Err(error) = std::fs::remove_dir_all(&self.folder)
            && !std::thread::panicking()
        {
            panic!("{} stays: {error}", self.folder.display());
        }
    }
}

/// A port that leads into a namespace, until this is dropped.
pub(crate) struct Relay {
    port: u16,
    over: Arc<AtomicBool>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // One last connection lets the accepting thread see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Copies one way, and passes the end on.
fn pipe(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}
