//! The performance table: what mini takes and holds, beside the engine alone.
//!
//! `mini-bench BIN [deploy] [rollback] [memory] [source] [planner] [routes] [start] [backup] [server]`, where BIN is the folder with the release builds.
//! Prints the table to stdout; a goal that is missed is said there and is no failure.

mod backup;
mod deploy;
mod engine;
mod fake_proxy;
mod http;
mod machine;
mod memory;
mod output;
mod planner;
mod platform;
mod routes;
mod server;
mod source;
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::deploy::Way;
use crate::engine::Engine;
use crate::output::Row;
use crate::platform::Platform;

/// How often something is asked for that is waited for: of mini and of the engine alike.
const POLL: Duration = Duration::from_millis(1);
/// The whole run, whatever happens; cleaning up comes on top.
const LIMIT: Duration = Duration::from_secs(1800);
const APP: &str = "bench";
const SOURCE_APP: &str = "bench-source";
const PARTS: [&str; 9] =
    ["deploy", "rollback", "memory", "source", "planner", "routes", "start", "backup", "server"];
/// Those that need a platform of their own on the engine.
const ON_A_PLATFORM: [&str; 6] = ["deploy", "rollback", "memory", "source", "start", "backup"];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == server::CHILD) {
        server::on_a_host();
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(run(&words));
        runtime.shutdown_timeout(Duration::from_millis(100));
        done
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[String]) -> Result<()> {
    let Some((bin, parts)) = words.split_first() else {
        bail!("usage: mini-bench BIN [{}]", PARTS.join("] ["));
    };
    if let Some(other) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("no part {other:?}: {}", PARTS.join(", "));
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let folder = tempfile::Builder::new().prefix("mini-bench-").tempdir()?;
    let bin = copies(Path::new(bin), folder.path())?;
    let mark = std::process::id().to_string();
    let mut engine = Engine::connect(&mark).await.context("the engine")?;
    let mut platform = Platform::new(&bin, folder.path())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut table = Table::default();
    let load = machine::load();
    let measured = tokio::select! {
        done = measure(&mut platform, &mut engine, (&bin, folder.path()), &mut table, wanted) => done,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("told to stop")),
        () = tokio::time::sleep(LIMIT) => Err(anyhow::anyhow!("given up after {} s", LIMIT.as_secs())),
    };
    output::say("cleaning up");
    platform.stop(&[APP, SOURCE_APP]).await;
    let cleaned = engine.clean(platform.server.as_deref()).await;
    if !table.rows.is_empty() {
        let commit = std::env::var("MINI_BENCH_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
        output::line(&format!("mini {} ({commit}), release build", env!("CARGO_PKG_VERSION")));
        output::line(&format!("Docker Engine {}", engine.version));
        output::line(&format!(
            "{}; load {load:.1} before, {:.1} after",
            machine::describe(),
            machine::load()
        ));
        output::line("");
        output::table(&table.rows);
        for note in &table.notes {
            output::line(note);
        }
    }
    measured?;
    cleaned.context("cleaning up")
}

/// Programs of our own: a build that runs meanwhile changes nothing, and no other platform on this
/// machine shares their pages, which would make Pss look smaller.
fn copies(from: &Path, folder: &Path) -> Result<PathBuf> {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin)?;
    for name in ["mini", "minid", "mini-static", "mini-fixture"] {
        std::fs::copy(from.join(name), bin.join(name))
            .with_context(|| format!("{} in {}; scripts/bench builds it", name, from.display()))?;
    }
    Ok(bin)
}

#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    notes: Vec<String>,
}

async fn measure(
    platform: &mut Platform,
    engine: &mut Engine,
    (bin, folder): (&Path, &Path),
    table: &mut Table,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    // Before anything else of ours runs.
    if wanted("planner") {
        table.rows.push(planner::measure());
    }
    if wanted("routes") {
        table.rows.extend(routes::measure(bin, folder).await?);
    }
    if wanted("server") {
        table.rows.extend(server::measure(bin).await?);
    }
    if wanted("start") {
        table.rows.push(start::a_thousand_in_the_store(folder).await?);
    }
    if !ON_A_PLATFORM.iter().any(|part| wanted(part)) {
        return Ok(());
    }
    engine.make_image(&bin.join("mini-fixture")).await?;
    platform.start().await?;
    let image = engine.image();
    platform.mini(&["deploy", "--image", &image, "--app", APP]).await?;
    for (part, way) in [("deploy", Way::Deploy), ("rollback", Way::Rollback)] {
        if wanted(part) {
            if part == "rollback" {
                // Something to go back to.
                platform.mini(&["deploy", "--image", &image, "--app", APP]).await?;
            }
            let (row, notes) = deploy::measure(platform, engine, way).await?;
            table.rows.push(row);
            table.notes.push(String::new());
            table.notes.extend(notes);
        }
    }
    if wanted("memory") {
        table.rows.extend(memory::measure(platform).await?);
    }
    if wanted("source") {
        table.rows.extend(source::measure(platform, bin, folder).await?);
    }
    if wanted("start") {
        table.rows.push(start::fifty_live(platform, &image).await?);
    }
    if wanted("backup") {
        table.rows.extend(backup::measure(platform, folder).await?);
    }
    Ok(())
}

/// `12.3 MB`, of a million bytes each.
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
