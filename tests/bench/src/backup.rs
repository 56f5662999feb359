//! A backup of a platform with fifty live apps, and what their clients notice of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::deploy::{median, millis};
use crate::http::Connection;
use crate::output::{self, Row};
use crate::platform::Platform;
use crate::start::LIVE;

const GOAL_S: f64 = 5.0;
const P99_GOAL: f64 = 1.2;
/// Each app was deployed from a folder with a file of this many bytes that cannot be compressed.
const SOURCE: usize = 256 << 10;
/// Backups, each in a round with as much time that is quiet.
const ROUNDS: usize = 30;
const CLIENTS: usize = 8;
/// Between a client's requests: the machine is not full.
const PAUSE: Duration = Duration::from_millis(5);
const REST: Duration = Duration::from_millis(500);
const COMMAND: Duration = Duration::from_secs(60);

/// One request: when it was asked, and how long it took.
type Asked = (Instant, Duration);

/// Deploys fifty apps from folders, and backs them up.
pub(crate) async fn measure(platform: &Platform, folder: &Path) -> Result<Vec<Row>> {
    output::say("50 live apps with sources; backups while one of them is asked");
    let source = folder.join("page");
    std::fs::create_dir(&source)?;
    std::fs::write(source.join("index.html"), "hello")?;
    for n in 0..LIVE {
        std::fs::write(source.join("noise"), noise(n as u64))?;
        let path = source.to_str().context("a path in UTF-8")?;
        platform.mini(&["deploy", path, "--app", &format!("live-{n}")]).await?;
    }
    let file = folder.join("backup.tar.gz");
    let mut clients = JoinSet::new();
    let over = tokio_util::sync::CancellationToken::new();
    for _ in 0..CLIENTS {
        clients.spawn(ask(platform.port, over.clone()));
    }
    tokio::time::sleep(REST).await;
    let mut rounds: Vec<Round> = Vec::new();
    for number in 0..ROUNDS {
        // The quiet stretch comes first and last in turns: a drift is not taken for an effect.
        let round = if number % 2 == 0 {
            let busy = backup(platform, &file).await?;
            tokio::time::sleep(REST).await;
            Round { busy, quiet: stretch(busy.1 - busy.0).await }
        } else {
            let as_long = rounds.last().map_or(REST, |last| last.busy.1 - last.busy.0);
            let quiet = stretch(as_long).await;
            tokio::time::sleep(REST).await;
            Round { busy: backup(platform, &file).await?, quiet }
        };
        rounds.push(round);
        tokio::time::sleep(REST).await;
    }
    over.cancel();
    let mut asked = Vec::new();
    while let Some(client) = clients.join_next().await {
        asked.extend(client??);
    }
    let times: Vec<f64> =
        rounds.iter().map(|Round { busy: (from, to), .. }| (*to - *from).as_secs_f64()).collect();
    let worst = times.iter().copied().fold(0.0, f64::max);
    let (mut busy, mut quiet, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in &rounds {
        let meanwhile = percentile(&within(&asked, round.busy), 0.99)?;
        let beside = percentile(&within(&asked, round.quiet), 0.99)?;
        busy.push(meanwhile);
        quiet.push(beside);
        ratios.push(meanwhile / beside);
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = median(ratios.iter().copied());
    let size = std::fs::metadata(&file)?.len();
    Ok(vec![
        Row {
            what: format!("backup, {LIVE} live apps, without images"),
            measured: format!("{worst:.2} s"),
            beside: format!(
                "the longest of {ROUNDS}, the median {:.2} s; {} with a source of {} each",
                median(times.iter().copied()),
                crate::megabytes(size),
                crate::megabytes(SOURCE as u64)
            ),
            goal: format!("< {GOAL_S} s"),
            met: worst < GOAL_S,
        },
        Row {
            what: "p99 of an app's answers meanwhile".into(),
            measured: format!("{ratio:.2} x"),
            beside: format!(
                "of each backup to that of a quiet stretch of the same length beside it, the median of \
                 {ROUNDS} (quartiles {:.2} and {:.2}); in the median {:.2} and {:.2} ms, {} requests in all",
                percentile(&ratios, 0.25)?,
                percentile(&ratios, 0.75)?,
                median(busy.iter().copied()),
                median(quiet.iter().copied()),
                asked.len(),
            ),
            goal: format!("< {P99_GOAL} x"),
            met: ratio < P99_GOAL,
        },
    ])
}

/// A backup and a quiet stretch beside it, each from when to when.
struct Round {
    busy: Stretch,
    quiet: Stretch,
}

type Stretch = (Instant, Instant);

async fn backup(platform: &Platform, file: &Path) -> Result<Stretch> {
    let begun = Instant::now();
    let mut minid =
        platform.minid(&["backup", file.to_str().context("a path in UTF-8")?])?.spawn()?;
    platform.ended(&mut minid, COMMAND).await?;
    Ok((begun, Instant::now()))
}

async fn stretch(length: Duration) -> Stretch {
    let begun = Instant::now();
    tokio::time::sleep(length).await;
    (begun, Instant::now())
}

/// One client with one kept connection.
async fn ask(port: u16, over: tokio_util::sync::CancellationToken) -> Result<Vec<Asked>> {
    let mut connection = Connection::on(TcpStream::connect(("127.0.0.1", port)).await?).await?;
    let mut asked = Vec::new();
    while !over.is_cancelled() {
        let begun = Instant::now();
        let (status, _) = connection.get("live-0.localhost", "/").await?;
        if !status.is_success() {
            bail!("an app answered {status}");
        }
        asked.push((begun, begun.elapsed()));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(asked)
}

/// Milliseconds of the requests that were under way at some time within the stretch; sorted.
fn within(asked: &[Asked], (from, to): Stretch) -> Vec<f64> {
    let inside = |(at, took): &&Asked| *at < to && *at + *took > from;
    let mut found: Vec<f64> = asked.iter().filter(inside).map(|(_, took)| millis(*took)).collect();
    found.sort_by(f64::total_cmp);
    found
}

fn percentile(sorted: &[f64], share: f64) -> Result<f64> {
    let at = (sorted.len() as f64 * share) as usize;
    sorted.get(at).copied().context("no request was under way")
}

/// Bytes that no compressor makes smaller (xorshift).
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..SOURCE / 8).flat_map(|_| next().to_le_bytes()).collect()
}
