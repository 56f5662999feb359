//! What a proxy holds: doing nothing, with 10,000 idle clients, while a gigabyte goes through.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::contender::{Contender, Kind, Setting};
use crate::process::Process;
use crate::report::{Row, Target, say};
use crate::upstream::Upstream;
use crate::{HOST, http};

/// Before a look at what does nothing.
const QUIET: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CLIENTS: u64 = 10_000;
const GIGABYTE: u64 = 1 << 30;
/// All that can hold 10,000 clients: nginx as packaged takes 768 connections.
const KINDS: [Kind; 4] = [Kind::Tuned, Kind::Haproxy, Kind::Caddy, Kind::Mini(10)];

pub(crate) fn measure(setting: &Setting, upstream: &Upstream) -> Result<Vec<Row>> {
    let bulk = http::bulk()?;
    // A proxy may need two files for each, and mini takes no more connections than that allows.
    let clients = CLIENTS.min(setting.files * 9 / 20);
    let mut columns = Vec::new();
    for kind in KINDS {
        say(&format!("memory of {}", kind.name()));
        let figures = of(setting, kind, clients, upstream.at, bulk).with_context(|| kind.name())?;
        columns.push((kind, figures));
    }
    let names = [
        ("Pss, idle, just started".to_owned(), 20.0),
        (format!("Pss, {clients} idle keep-alive clients"), 60.0),
        ("Pss at most, 1 GiB download".to_owned(), 30.0),
        ("Pss at most, 1 GiB upload".to_owned(), 30.0),
    ];
    let row = |(n, (what, most)): (usize, (String, f64))| Row {
        what,
        unit: "MB",
        of: columns.iter().map(|(kind, all)| (*kind, vec![all[n]])).collect(),
        target: Some(Target::Absolute(most)),
    };
    Ok(names.into_iter().enumerate().map(row).collect())
}

fn of(
    setting: &Setting,
    kind: Kind,
    clients: u64,
    upstream: SocketAddr,
    bulk: SocketAddr,
) -> Result<[f64; 4]> {
    let contender = Contender::start(setting, kind, upstream, "/1k")?;
    std::thread::sleep(QUIET);
    let idle = contender.process.pss()?;
    let count = clients;
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = http::connect(contender.http)?;
        http::ask(&mut client, HOST, "/1k")?;
        clients.push(client);
    }
    std::thread::sleep(QUIET);
    let with_clients = contender.process.pss()?;
    // All of them are still there.
    for client in clients.iter_mut().step_by(100) {
        http::ask(client, HOST, "/1k").context("an idle connection was closed")?;
    }
    drop(clients);
    drop(contender);
    let contender = Contender::start(setting, kind, bulk, "/1")?;
    let to = contender.http;
    let down =
        at_most(&contender.process, || http::get(to, HOST, &format!("/{GIGABYTE}")).map(drop))?;
    let up = at_most(&contender.process, || http::put(to, HOST, "/up", GIGABYTE))?;
    Ok([idle, with_clients, down, up].map(|bytes| bytes as f64 / 1e6))
}

/// The most that was held while something was done.
fn at_most(process: &Process, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(process.pss()?);
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(most)
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        let most = looking.join().map_err(|_| anyhow::anyhow!("the look broke off"))?;
        worked.and(most)
    })
}
