//! `minid status`: how the server is. Every part is asked by itself, so that whatever is dead, the
//! rest is told.

use std::process::ExitCode;

use mini_core::control::ProxyStatus;
use serde::Serialize;

use crate::output::{self, Fault};
use crate::schedule::{self, Last};
use crate::settings::{Flags, Settings, VERSION};
use crate::troubles::{self, Trouble};
use crate::upgrade;

mod apps;
mod parts;
pub(crate) mod processes;
mod words;

/// How many of the last troubles are shown.
const TROUBLES: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    /// What its objects on the engine are labelled with (`mini.server`).
    server_id: Option<String>,
    /// No fault was found.
    well: bool,
    /// What is down or about to be, in words.
    faults: Vec<String>,
    processes: Vec<Process>,
    proxy: Option<ProxyStatus>,
    /// SHA-256 of the certificate that the proxy made for itself, in hex: what clients pin.
    fingerprint: Option<String>,
    engine: Engine,
    disks: Vec<Disk>,
    store: Store,
    apps: Apps,
    /// What the controller says is wrong.
    problems: Vec<String>,
    /// How the last return of the engine went.
    recovery: Option<mini_api::Recovery>,
    /// What came of the last backup that the controller made by itself.
    backup: Option<Last>,
    /// The release to which an upgrade was begun that nobody is at any more.
    upgrade_cut_off: Option<String>,
    last_errors: Vec<Trouble>,
}

#[derive(Debug, Serialize)]
struct Process {
    /// `run` (the parent of both others, where there is one), `controller`, `proxy`.
    name: &'static str,
    state: ProcessState,
    pid: Option<u32>,
    uptime_seconds: Option<u64>,
    version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ProcessState {
    Up,
    /// It is there and does not answer.
    Silent,
    Down,
}

#[derive(Debug, Serialize)]
struct Engine {
    reachable: bool,
    version: Option<String>,
    api_version: Option<String>,
    /// Why it is not reachable.
    error: Option<String>,
    /// Instances of this server.
    running: usize,
    exited: usize,
}

#[derive(Debug, Serialize)]
struct Disk {
    what: &'static str,
    path: std::path::PathBuf,
    /// `None`: it cannot be told.
    free_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Store {
    readable: bool,
    /// As far as can be told without writing.
    writable: bool,
    /// Why not.
    error: Option<String>,
    schema: Option<i64>,
}

#[derive(Debug, Default, Serialize)]
struct Apps {
    all: usize,
    /// Those of which something should run.
    wanted: usize,
    /// Of these, those that nobody can tell of, since the engine is away.
    unknown: usize,
    down: Vec<AppDown>,
}

#[derive(Debug, Serialize)]
struct AppDown {
    app: String,
    why: String,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Fault> {
    let settings = args.flags.resolve()?;
    let status = gather(&settings).await;
    if args.json {
        let text = serde_json::to_string_pretty(&status);
        output::line(&text.map_err(|e| Fault::new(format!("it cannot be written: {e}")))?);
    } else {
        for line in words::lines(&status) {
            output::line(&line);
        }
    }
    Ok(if status.well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The apps of which nothing serves, and why; none if this program cannot read the database.
pub(crate) async fn apps_down(settings: &Settings) -> Option<Vec<(String, String)>> {
    let glance = parts::store(settings).await.1?;
    let (_, _, observed) = parts::engine(settings, Some(&glance)).await;
    let apps = apps::look(&glance, observed.as_deref()).await;
    Some(apps.down.into_iter().map(|down| (down.app, down.why)).collect())
}

async fn gather(settings: &Settings) -> Status {
    let (store, glance) = parts::store(settings).await;
    let ((processes, proxy, server), (engine, docker, observed)) =
        tokio::join!(processes::look(settings), parts::engine(settings, glance.as_ref()));
    let disks = parts::disks(settings, docker.as_deref());
    let apps = match &glance {
        Some(glance) => apps::look(glance, observed.as_deref()).await,
        None => Apps::default(),
    };
    let mut status = Status {
        version: VERSION,
        server_id: glance.and_then(|glance| glance.server),
        well: true,
        faults: Vec::new(),
        processes,
        proxy,
        fingerprint: mini_proxy::fingerprint(&settings.tls_dir()),
        engine,
        disks,
        store,
        apps,
        problems: server.as_ref().map(|s| s.problems.clone()).unwrap_or_default(),
        recovery: server.and_then(|s| s.recovery),
        backup: schedule::last(&settings.data_dir),
        upgrade_cut_off: upgrade::cut_off(&settings.data_dir).map(|begun| begun.to),
        last_errors: troubles::last(&[&settings.data_dir, &settings.proxy_dir], TROUBLES),
    };
    status.faults = words::faults(&status);
    status.well = status.faults.is_empty();
    status
}
