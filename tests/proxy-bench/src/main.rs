//! Puts mini's proxy beside nginx, haproxy and caddy.
//!
//! `mini-proxy-bench BIN [--quick] [http] [latency] [tls] [routes] [memory]`, where BIN is the
//! folder with a release build of `minid`. Prints tables in Markdown to stdout; a target that is
//! missed is said there and is no failure. `mini-proxy-bench BIN hold NAME` starts one proxy for a
//! profiler, until Enter is pressed.

mod contender;
mod control;
mod http;
mod lines;
mod load;
mod memory;
mod paced;
mod process;
mod random;
mod report;
mod rows;
mod tls;
mod upstream;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::contender::{Contender, Kind, Setting};
use crate::random::Random;
use crate::report::{Row, line, say};
use crate::upstream::{Certificate, Upstream};

/// Each contender has this CPU to itself; the load and the upstream share the other.
const PROXY_CPU: usize = 0;
const LOAD_CPU: usize = 1;
/// What all requests ask for.
const HOST: &str = "app-0.localhost";
const CONNECTIONS: usize = 64;
/// What the 64 connections need, and some to spare. With 25,000 there are 10,000 idle clients.
const FILES: u64 = 4096;
const PARTS: [&str; 5] = ["http", "latency", "tls", "routes", "memory"];

/// How long and how often.
struct Lengths {
    rounds: usize,
    round: Duration,
    latency_rounds: usize,
    latency: Duration,
}

const FULL: Lengths = Lengths {
    rounds: 7,
    round: Duration::from_secs(2),
    latency_rounds: 5,
    latency: Duration::from_secs(4),
};
const QUICK: Lengths = Lengths {
    rounds: 3,
    round: Duration::from_secs(1),
    latency_rounds: 3,
    latency: Duration::from_secs(1),
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let [bin, words @ ..] = words else {
        bail!("usage: mini-proxy-bench BIN [--quick] [{}] | BIN hold NAME", PARTS.join("] ["));
    };
    let files = prepare()?;
    let folder = tempfile::Builder::new().prefix("mini-proxy-bench-").tempdir()?;
    let bin = Path::new(bin);
    let mini_https = contender::mini_has_https(bin)?;
    let certificate = Certificate::make(folder.path())?;
    let setting = Setting {
        bin: bin.to_owned(),
        folder: folder.path().to_owned(),
        certificate,
        mini_https,
        files,
    };
    let upstream = Upstream::start(folder.path())?;
    if let ["hold", name] = words {
        return hold(&setting, &upstream, name);
    }
    let parts: Vec<&str> = words.iter().copied().filter(|word| *word != "--quick").collect();
    if let Some(other) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("no part {other:?}: {}", PARTS.join(", "));
    }
    let lengths = if words.contains(&"--quick") { &QUICK } else { &FULL };
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    measure(&setting, &upstream, lengths, wanted)
}

/// This process stays on the CPU of the load, and may open as many files as it needs; so may all
/// that it starts.
fn prepare() -> Result<u64> {
    let mut cpus = CpuSet::new();
    cpus.set(LOAD_CPU);
    sched_setaffinity(None, &cpus)
        .context("two CPUs are needed: one for the proxy, one for the load")?;
    let have = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: have.maximum, ..have })?;
    let files = have.maximum.unwrap_or(u64::MAX);
    if files < FILES {
        bail!("{FILES} open files are needed; raise the limit (`ulimit -Hn`), or run as root");
    }
    Ok(files)
}

fn measure(
    setting: &Setting,
    upstream: &Upstream,
    lengths: &Lengths,
    wanted: impl Fn(&str) -> bool,
) -> Result<()> {
    let begun = Instant::now();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
    let mut random = Random::new(seed);
    let load = process::load();
    let mut rows: Vec<Row> = Vec::new();
    let mut more = Vec::new();
    if ["http", "latency", "tls"].iter().any(|part| wanted(part)) {
        let mut turns = rows::start(setting, &Kind::ALL, upstream)?;
        let mut saturation = None;
        if wanted("http") {
            let (measured, at_most) = rows::http(&mut turns, lengths, &mut random)?;
            rows.extend(measured);
            saturation = Some(at_most);
        }
        if wanted("latency") {
            let saturation = match saturation {
                Some(saturation) => saturation,
                None => rows::saturation(&turns, lengths)?,
            };
            rows.extend(rows::latency(&mut turns, lengths, &mut random, saturation)?);
        }
        if wanted("tls") {
            turns.retain(|(_, contender)| contender.https.is_some());
            rows.extend(rows::tls(&mut turns, setting, lengths, &mut random)?);
        }
        more.push(rows::lines(&turns)?);
        more.push(String::new());
    }
    if wanted("routes") {
        more.extend(rows::routes(setting, upstream, lengths, &mut random)?);
    }
    if wanted("memory") {
        rows.extend(memory::measure(setting, upstream)?);
    }
    let commit = std::env::var("MINI_BENCH_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    line(&format!(
        "mini {} ({commit}), release build, on one CPU one worker",
        env!("CARGO_PKG_VERSION")
    ));
    line(&format!(
        "{}; load {load:.1} before, {:.1} after; {} rounds of {} s, {} s in all",
        process::machine(),
        process::load(),
        lengths.rounds,
        lengths.round.as_secs(),
        begun.elapsed().as_secs()
    ));
    line("");
    report::table(&rows);
    line("");
    more.iter().for_each(|text| line(text));
    Ok(())
}

/// One proxy, for whatever looks at it from outside.
fn hold(setting: &Setting, upstream: &Upstream, name: &str) -> Result<()> {
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.with_context(|| format!("no contender {name:?}"))?;
    let contender = Contender::start(setting, kind, upstream.at, "/1k")?;
    line(&format!("{name}: pids {:?}, http://{}", contender.process.all(), contender.http));
    if let Some(https) = contender.https {
        line(&format!("https://{HOST}:{}", https.port()));
    }
    line(&format!("wrk -t1 -c{CONNECTIONS} -d5s -H 'Host: {HOST}' http://{}/1k", contender.http));
    line("Enter ends it");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
