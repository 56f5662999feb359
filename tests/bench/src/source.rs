//! A source of 1 GB, packed, sent and built: what each side holds in memory meanwhile.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::Value;

use crate::output::{self, Row};
use crate::platform::Platform;
use crate::{SOURCE_APP, machine, megabytes};

const FILES: u64 = 200;
const FILE_BYTES: usize = 5_000_000;
const GOAL: u64 = 64_000_000;
const LIMIT: Duration = Duration::from_secs(600);
/// The source itself, the server's copies, and the engine's.
const DISK: u64 = 8_000_000_000;

pub(crate) async fn measure(platform: &Platform, bin: &Path, folder: &Path) -> Result<Vec<Row>> {
    if machine::free_disk(folder)? < DISK {
        bail!("{} has less than {} free", folder.display(), megabytes(DISK));
    }
    output::say("packing, sending and building a source of 1 GB");
    let source = folder.join("source");
    tokio::task::spawn_blocking({
        let (source, fixture) = (source.clone(), bin.join("mini-fixture"));
        move || make(&source, &fixture)
    })
    .await??;
    let processes = platform.processes()?;
    for (pid, _) in &processes {
        machine::reset_peak(*pid)?;
    }
    let words = ["deploy", &source.to_string_lossy(), "--app", SOURCE_APP];
    let begun = Instant::now();
    let mut mini = platform.command(&words)?.spawn().context("mini")?;
    let pid = mini.id().context("mini ended at once")?;
    let mut peak = 0;
    let mut sent = None;
    let mut accepted_at = begun;
    let running = async {
        loop {
            // Only what was read while it ran is known; the peak never falls meanwhile.
            if let Ok(now) = machine::peak(pid) {
                peak = peak.max(now);
            }
            if sent.is_none() && accepted_at.elapsed() > Duration::from_millis(100) {
                accepted_at = Instant::now();
                sent = accepted(platform).await?.then(|| begun.elapsed());
            }
            if mini.try_wait()?.is_some() {
                return Ok::<_, anyhow::Error>(begun.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = tokio::time::timeout(LIMIT, running).await.context("it took over ten minutes")??;
    platform.ended(&mut mini, LIMIT).await?;
    let row = |name: &str, peak: u64, beside: String| Row {
        what: format!("1 GB of source, peak of {name}"),
        measured: megabytes(peak),
        beside,
        goal: format!("< {}", megabytes(GOAL)),
        met: peak < GOAL,
    };
    let sent = sent.unwrap_or(all);
    let bytes = kept(&folder.join("data"))?;
    if bytes < FILES * FILE_BYTES as u64 {
        bail!("the server has only {} of the source", megabytes(bytes));
    }
    let mut rows = vec![row(
        "mini",
        peak,
        format!(
            "VmHWM; {FILES} files, {} as a tar, half of it random; packed and sent after {:.1} s, live after {:.1} s",
            megabytes(bytes),
            sent.as_secs_f64(),
            all.as_secs_f64()
        ),
    )];
    for (pid, name) in processes.iter().filter(|(_, name)| name != "run") {
        rows.push(row(&format!("minid {name}"), machine::peak(*pid)?, "VmHWM".into()));
    }
    Ok(rows)
}

/// Whether the deployment was accepted: the source is there, whole.
async fn accepted(platform: &Platform) -> Result<bool> {
    let path = format!("/v1/apps/{SOURCE_APP}/deployments?n=1");
    let (status, list) = platform.admin.ask(Method::GET, &path, &Value::Null).await?;
    if status != 200 {
        // The app is not there yet.
        return Ok(false);
    }
    let list: Value = serde_json::from_slice(&list)?;
    Ok(list["deployments"][0]["id"].is_string())
}

/// The bytes of what the server keeps of it, uncompressed.
fn kept(data: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(data.join("sources"))? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// Writes the folder: an app that needs only the fixture, and much that only has to be sent.
fn make(folder: &Path, fixture: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("data"))?;
    fs::copy(fixture, folder.join("mini-fixture"))
        .with_context(|| fixture.display().to_string())?;
    fs::write(
        folder.join("Dockerfile"),
        "FROM scratch\nCOPY mini-fixture /\nEXPOSE 8080\nCMD [\"/mini-fixture\"]\n",
    )?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for n in 0..FILES {
        let mut file = BufWriter::new(File::create(folder.join(format!("data/{n:03}")))?);
        let mut left = FILE_BYTES;
        while left > 0 {
            let piece = match n % 2 {
                0 => noise.next().to_le_bytes().to_vec(),
                _ => {
                    format!("{n} {left} the quick brown fox jumps over the lazy dog\n").into_bytes()
                }
            };
            let take = piece.len().min(left);
            file.write_all(&piece[..take])?;
            left -= take;
        }
        file.flush()?;
    }
    Ok(())
}

/// xorshift64* (Vigna 2016): noise that no compressor shortens.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
