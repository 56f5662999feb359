//! Router lines on their way to the controller: a bounded buffer per thread.
//!
//! Writing never waits for a reader. While nobody fetches lines they wait, and if they become too
//! many the oldest go; how many of which app is told with the next ones that are fetched.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mini_core::name::AppName;
use tokio::sync::Notify;

use super::line::MAX_LINE;
use crate::shared::lock;

/// What waits in all buffers together, in bytes.
const MAX_WAITING: usize = 8 << 20;
const CHUNK: usize = 64 << 10;
/// How much is fetched at once, about.
const BATCH: usize = 1 << 20;
/// How long lines wait for others before they are fetched.
const GATHER: Duration = Duration::from_millis(50);

pub(crate) struct Backlog {
    parts: Box<[Part]>,
    /// Told when there are lines where none were.
    news: Notify,
    /// What was fetched and then not kept.
    back: Mutex<Vec<Batch>>,
    /// How many batches are fetched and not yet known to be kept.
    fetched: AtomicU64,
    lost: AtomicU64,
    chunks_each: usize,
}

#[derive(Default)]
#[repr(align(128))]
struct Part(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Oldest first.
    full: VecDeque<Vec<u8>>,
    open: Vec<u8>,
    /// How many lines went, by app.
    lost: HashMap<AppName, u64>,
}

/// Lines as [`super::line`] writes them, and how many are missing before them.
#[derive(Default, Debug)]
pub(crate) struct Batch {
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) lost: HashMap<AppName, u64>,
}

impl Batch {
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.lost.is_empty()
    }
}

impl Backlog {
    pub(super) fn new(parts: usize) -> Self {
        Self {
            parts: (0..parts).map(|_| Part::default()).collect(),
            news: Notify::new(),
            back: Mutex::default(),
            fetched: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            chunks_each: (MAX_WAITING / CHUNK / parts.max(1)).max(1),
        }
    }

    /// Adds what `write` appends, one line.
    pub(super) fn write(&self, part: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let mut guard = lock(&self.parts[part].0);
        let waiting = &mut *guard;
        let first = waiting.open.is_empty() && waiting.full.is_empty();
        if waiting.open.len() + MAX_LINE > waiting.open.capacity() {
            let begun = std::mem::replace(&mut waiting.open, Vec::with_capacity(CHUNK));
            if !begun.is_empty() {
                waiting.full.push_back(begun);
            }
            if waiting.full.len() > self.chunks_each
                && let Some(oldest) = waiting.full.pop_front()
            {
                self.lost.fetch_add(count(&oldest, &mut waiting.lost), Relaxed);
            }
        }
        write(&mut waiting.open);
        drop(guard);
        if first {
            self.news.notify_one();
        }
    }

    /// The next lines, when there are some.
    pub(crate) async fn next(&self) -> Batch {
        loop {
            if let Some(batch) = self.take() {
                return batch;
            }
            self.news.notified().await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// What is there, if anything. Ends with [`Backlog::kept`] or [`Backlog::put_back`].
    pub(crate) fn take(&self) -> Option<Batch> {
        let mut batch = lock(&self.back).pop().unwrap_or_default();
        let mut bytes = batch.bytes();
        for part in &self.parts {
            let mut waiting = lock(&part.0);
            for (app, n) in waiting.lost.drain() {
                *batch.lost.entry(app).or_default() += n;
            }
            while bytes < BATCH
                && let Some(chunk) = waiting.full.pop_front()
            {
                bytes += chunk.len();
                batch.chunks.push(chunk);
            }
            if bytes < BATCH && !waiting.open.is_empty() {
                bytes += waiting.open.len();
                batch.chunks.push(std::mem::take(&mut waiting.open));
            }
            if !waiting.open.is_empty() || !waiting.full.is_empty() {
                // What is left is fetched next.
                self.news.notify_one();
            }
        }
        if batch.is_empty() {
            return None;
        }
        self.fetched.fetch_add(1, Relaxed);
        Some(batch)
    }

    pub(crate) fn kept(&self) {
        self.fetched.fetch_sub(1, Relaxed);
    }

    /// It was not kept: it is fetched again before all others.
    pub(crate) fn put_back(&self, batch: Batch) {
        lock(&self.back).push(batch);
        self.fetched.fetch_sub(1, Relaxed);
        self.news.notify_one();
    }

    /// Whether every line is known to be kept.
    pub(crate) fn is_empty(&self) -> bool {
        let waits = |part: &Part| !lock(&part.0).open.is_empty();
        self.fetched.load(Relaxed) == 0
            && lock(&self.back).is_empty()
            && !self.parts.iter().any(waits)
    }

    /// Lines that went since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// Counts the lines of a chunk, by app and in all.
fn count(chunk: &[u8], by_app: &mut HashMap<AppName, u64>) -> u64 {
    let mut all = 0;
    for line in chunk.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let name = line.split(|b| *b == b'\t').next().unwrap_or_default();
        let app = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
        if let Some(app) = app {
            *by_app.entry(app).or_default() += 1;
        }
        all += 1;
    }
    all
}
