//! A server of its own: how long an installation and an upgrade take on a host like a cloud VM, and what
//! clients notice of the upgrade.
//!
//! The host and the pipeline are those of the VM-like test. They end the process where a step fails, so this
//! runs in a process of its own, and the one that started it cleans up.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a child process that cannot go on ends there"
)]

#[path = "../../../crates/minid/tests/vm/host.rs"]
#[allow(dead_code, reason = "of the VM-like test's host, what a bench needs")]
mod host;
#[path = "../../../crates/minid/tests/e2e/http.rs"]
#[allow(dead_code, reason = "of the client, how it reads an answer")]
mod http;
#[path = "../../../crates/minid/tests/vm/load.rs"]
mod load;
#[path = "../../../crates/minid/tests/vm/pipeline.rs"]
mod pipeline;
#[path = "../../../crates/minid/tests/e2e/said.rs"]
mod said;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::process::Command;

use self::host::{Host, Site, fixture, release};
use self::load::Load;
use crate::output::{self, Row};

/// The first argument of the process that does it.
pub(crate) const CHILD: &str = "on-a-host";
/// Where the programs lie, for that process.
const BIN: &str = "MINI_BENCH_BIN";
const LIMIT: Duration = Duration::from_secs(300);
const INSTALL_GOAL_S: f64 = 60.0;
const UPGRADE_GOAL_S: f64 = 10.0;
/// To and fro.
const UPGRADES: usize = 3;

fn binaries() -> PathBuf {
    PathBuf::from(std::env::var_os(BIN).expect("the parent says where the programs lie"))
}

/// Two rows. The image of the host is in the environment: `scripts/bench` makes it.
pub(crate) async fn measure(bin: &Path) -> Result<Vec<Row>> {
    output::say("an installation and upgrades on a host like a cloud VM");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(CHILD).env(BIN, bin).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.stdout(Stdio::piped()).spawn()?;
    let made = Made(child.id().context("a process that runs")?);
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    drop(made);
    let ended = ended.context("the installation and the upgrades do not end")??;
    if !ended.status.success() {
        bail!("the installation or an upgrade failed, see above");
    }
    let said: Value = serde_json::from_slice(&ended.stdout)?;
    let seconds = |key: &str| said[key].as_f64().with_context(|| format!("no {key}"));
    let (install, worst) = (seconds("install")?, seconds("upgrade")?);
    Ok(vec![
        Row {
            what: "mini server install, a host with an engine".into(),
            measured: format!("{install:.1} s"),
            beside: "over ssh, from the programs until the door answers and `doctor` has looked"
                .into(),
            goal: format!("< {INSTALL_GOAL_S} s"),
            met: install < INSTALL_GOAL_S,
        },
        Row {
            what: "minid upgrade, shipped over ssh, under load".into(),
            measured: format!("{worst:.1} s"),
            beside: format!(
                "the longest of {UPGRADES}: {}; of it `minid upgrade` itself {}; {} requests \
                 meanwhile, each on a connection of its own, none failed",
                said["upgrades"], said["own"], said["requests"]
            ),
            goal: format!("< {UPGRADE_GOAL_S} s, none failed"),
            met: worst < UPGRADE_GOAL_S,
        },
    ])
}

/// What the child `0` makes on the engine.
struct Made(u32);

impl Drop for Made {
    fn drop(&mut self) {
        host::clear(&host::site_of(self.0));
    }
}

/// In the child: does it all, and prints the figures.
pub(crate) fn on_a_host() {
    let site = Site::new();
    let programs = site.laptop.path().join("release");
    let app = site.laptop.path().join("app");
    release(&programs);
    fixture(&app);
    let host = site.host("bench", 10);
    let from = programs.to_str().unwrap();
    let (_, install) =
        timed(|| site.mini(&["server", "install", &host.url(), "--from", from]).ok());
    site.mini(&["deploy", app.to_str().unwrap(), "--app", "blue"]).ok();
    let key = pipeline::sign_for(&site, &host);
    let other = pipeline::variant(&programs, site.laptop.path().join("other"), None);
    let archives = [
        pipeline::package(&site, &other, "package-other", &key),
        pipeline::package(&site, &programs, "package-first", &key),
    ];
    let load = Load::start(&host.address, "blue");
    let (mut all, mut own) = (Vec::new(), Vec::new());
    for n in 0..UPGRADES {
        let (seconds, took) = upgraded(&site, &host, &archives[n % 2]);
        all.push(tenths(took));
        own.push(seconds);
    }
    let requests = load.finish("the upgrades");
    let upgrade = all.iter().copied().fold(0.0, f64::max);
    let figures = json!({
        "install": tenths(install), "upgrade": upgrade, "upgrades": all, "own": own, "requests": requests,
    });
    output::line(&figures.to_string());
}

/// By its own clock, and with the shipping.
fn upgraded(site: &Site, host: &Host<'_>, archive: &Path) -> (f64, Duration) {
    let known = site.known_hosts();
    let (said, took) = timed(|| pipeline::ship(site, host, archive, &known).ok());
    let line = said.lines().find(|line| line.starts_with("upgraded to")).unwrap();
    (line.rsplit(' ').nth(1).unwrap().parse().unwrap(), took)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}

fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
