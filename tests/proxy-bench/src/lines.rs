//! What a controller does with the router's lines: takes every batch and says that it has it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use mini_core::control::{FromProxy, ToProxy};

/// The lines that came, and those that the proxy had to drop since the bench was too slow.
#[derive(Default)]
struct Counts {
    came: AtomicU64,
    lost: AtomicU64,
}

pub(crate) struct Lines(Arc<Counts>);

impl Lines {
    /// Takes the lines on a connection and a thread of their own until the proxy ends.
    pub(crate) fn follow(socket: &Path) -> Result<Self> {
        let mut to = UnixStream::connect(socket).context("for the router's lines")?;
        let mut from = BufReader::new(to.try_clone()?);
        let FromProxy::Hello { .. } = document(&mut from)? else { bail!("no hello") };
        say(&mut to, &ToProxy::FollowRequests)?;
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        std::thread::spawn(move || -> Result<()> {
            let mut batch = Vec::new();
            loop {
                let FromProxy::Requests { bytes, lost } = document(&mut from)? else {
                    bail!("it said something else than lines")
                };
                batch.resize(bytes as usize, 0);
                from.read_exact(&mut batch)?;
                let lines = batch.iter().filter(|b| **b == b'\n').count() as u64;
                counted.came.fetch_add(lines, Ordering::Relaxed);
                let lost = lost.iter().map(|(_, count)| *count).sum();
                counted.lost.fetch_add(lost, Ordering::Relaxed);
                say(&mut to, &ToProxy::Kept)?;
            }
        });
        Ok(Self(counts))
    }

    /// (came, lost) so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.0.came.load(Ordering::Relaxed), self.0.lost.load(Ordering::Relaxed))
    }
}

fn document(from: &mut BufReader<UnixStream>) -> Result<FromProxy> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

fn say(to: &mut UnixStream, document: &ToProxy) -> Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(to.write_all(&line)?)
}
