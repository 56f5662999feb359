//! The controller's end of a proxy's control socket: the bench tells mini its routes.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mini_core::control::{Certificate, FromProxy, SecretPem, ToProxy, Verdict};
use mini_core::release::HealthSpec;
use mini_core::route::{AppRoute, Role, Target, WebState};
use mini_core::time::Millis;

use crate::HOST;

const PATIENCE: Duration = Duration::from_secs(20);
/// The apps that have an instance; the rest of a larger table are stopped.
const RUNNING: usize = 10;
/// What the bench reads of all that a proxy says. The rest, a line for each request, goes by.
const HEARD: [&str; 4] = ["hello", "applied", "health", "refused"];

pub(crate) struct Controls {
    to: UnixStream,
    heard: Receiver<FromProxy>,
    generation: u64,
}

impl Controls {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let begun = Instant::now();
        let to = loop {
            match UnixStream::connect(socket) {
                Ok(to) => break to,
                Err(_) if begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                Err(error) => return Err(error).context(format!("{}", socket.display())),
            }
        };
        let from = BufReader::new(to.try_clone()?);
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            for line in from.split(b'\n').map_while(Result::ok) {
                let wanted = |kind: &str| {
                    line.strip_prefix(br#"{"type":""#)
                        .is_some_and(|l| l.starts_with(kind.as_bytes()))
                };
                if HEARD.iter().any(|kind| wanted(kind))
                    && let Ok(said) = serde_json::from_slice(&line)
                    && tell.send(said).is_err()
                {
                    return;
                }
            }
        });
        let mut this = Self { to, heard, generation: 0 };
        let server = "bench".parse().map_err(|e| anyhow::anyhow!("{e}"))?;
        this.send(&ToProxy::Hello { server, version: "bench".into() })?;
        match this.heard.recv_timeout(PATIENCE).context("the proxy says nothing")? {
            FromProxy::Hello { generation, .. } => this.generation = generation,
            other => bail!("no hello: {other:?}"),
        }
        Ok(this)
    }

    pub(crate) fn send(&mut self, document: &ToProxy) -> Result<()> {
        let mut line = serde_json::to_vec(document)?;
        line.push(b'\n');
        Ok(self.to.write_all(&line)?)
    }

    fn until(&self, wanted: impl Fn(&FromProxy) -> bool) -> Result<()> {
        loop {
            let said = self.heard.recv_timeout(PATIENCE).context("the proxy says nothing")?;
            if matches!(said, FromProxy::Refused { .. }) {
                bail!("refused: {said:?}");
            }
            if wanted(&said) {
                return Ok(());
            }
        }
    }

    pub(crate) fn certificate(&mut self, made: &crate::upstream::Certificate) -> Result<()> {
        let certificate = Certificate {
            names: vec![HOST.to_owned()],
            chain: std::fs::read_to_string(&made.chain)?,
            key: SecretPem(std::fs::read_to_string(&made.key)?),
        };
        self.send(&ToProxy::Certificates { certificates: vec![certificate] })
    }

    /// A table of `apps` apps, `app-0` and so on, those that run all at one address; comes back
    /// when `app-0` gets requests.
    pub(crate) fn table(&mut self, apps: usize, at: SocketAddr) -> Result<()> {
        self.generation += 1;
        let generation = self.generation;
        let apps = (0..apps).map(|n| route(n, (n < RUNNING).then_some(at), 1)).collect();
        self.send(&ToProxy::Table { generation, apps })?;
        self.until(|said| {
            matches!(said, FromProxy::Health { instance, verdict: Verdict::Healthy, .. }
                if instance.as_str() == "app-0-1")
        })
    }

    /// Changes the route of one app again and again until the handle is dropped.
    pub(crate) fn change_every(mut self, pause: Duration, app: usize, at: SocketAddr) -> Changing {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || -> Result<Self> {
            for release in 2.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                self.generation += 1;
                let (generation, route) = (self.generation, route(app, Some(at), release));
                self.send(&ToProxy::App { generation, route })?;
                self.until(|said| *said == FromProxy::Applied { generation })?;
                std::thread::sleep(pause);
            }
            Ok(self)
        });
        Changing { stop, thread }
    }
}

pub(crate) struct Changing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Controls>>,
}

impl Changing {
    pub(crate) fn stop(self) -> Result<Controls> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the thread of changes broke off"))?
    }
}

fn route(n: usize, at: Option<SocketAddr>, release: u32) -> AppRoute {
    let target = |addr| Target {
        instance: format!("app-{n}-{release}").parse().expect("an id"),
        started: Millis(1),
        addr,
        process: "web.1".into(),
        release,
        role: Role::Serve,
    };
    AppRoute {
        app: format!("app-{n}").parse().expect("a name"),
        hosts: Vec::new(),
        web: if at.is_some() { WebState::Serving } else { WebState::Stopped },
        targets: at.map(target).into_iter().collect(),
        health: HealthSpec::default(),
        rules: Box::default(),
    }
}
