//! The log of each app: what its processes wrote and what the platform did, in one stream that
//! outlives containers.
//!
//! One append-only file per app, in segments, inside a budget. A record is a line of tab-separated
//! fields; its *number* is the offset of its end in the whole stream, so that a reader resumes by
//! `after=NUMBER` and knows how much it missed. Whoever writes puts records into a bounded queue;
//! one thread takes them to the disk. Readers read the files at their own pace and can hold
//! nobody up.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mini_core::id::InstanceId;
use mini_core::name::AppName;
use tokio::sync::{mpsc, oneshot, watch};

mod pump;
mod read;
mod record;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use pump::Pumps;
pub(crate) use read::{Filter, Reader};
pub(crate) use record::{Record, RouterLine};

/// What one app's log may take (CONTRACTS, "Logs").
pub(crate) const BUDGET_BYTES: u64 = 100 << 20;
const MAX_AGE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Records that may wait for the disk: 40 MB of the longest ones at worst.
const QUEUE: usize = 4096;

enum Job {
    Append(AppName, Record),
    Router(AppName, Vec<RouterLine>),
    /// Answers when everything before it is in the files.
    Flush(oneshot::Sender<()>),
    Remove(AppName, oneshot::Sender<()>),
    Tidy,
}

/// A handle on the log writer; cheap to clone.
#[derive(Clone)]
pub(crate) struct Logs {
    queue: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

struct Shared {
    folder: PathBuf,
    ends: Mutex<HashMap<AppName, watch::Sender<u64>>>,
}

impl Shared {
    fn ends(&self) -> MutexGuard<'_, HashMap<AppName, watch::Sender<u64>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells readers how far the stream goes.
    fn set_end(&self, app: &AppName, end: u64) {
        let mut ends = self.ends();
        match ends.get(app) {
            Some(sender) => {
                sender.send_replace(end);
            }
            None => {
                ends.insert(app.clone(), watch::Sender::new(end));
            }
        }
    }
}

impl Logs {
    pub(crate) fn open(folder: PathBuf, budget_bytes: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared { folder, ends: Mutex::default() });
        let writer = segment::Writer::new(shared.clone(), budget_bytes);
        std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run(jobs))?;
        Ok(Self { queue, shared })
    }

    /// Adds a record, waiting while the queue is full.
    pub(crate) async fn append(&self, app: &AppName, record: Record) {
        // The writer ends with the process only.
        let _ = self.queue.send(Job::Append(app.clone(), record)).await;
    }

    /// Adds lines of the router, waiting while the queue is full.
    pub(crate) async fn append_router(&self, app: &AppName, lines: Vec<RouterLine>) {
        let _ = self.queue.send(Job::Router(app.clone(), lines)).await;
    }

    /// A line of the platform's own, `mini[process]`; lost rather than waited for.
    pub(crate) fn say(&self, app: &AppName, process: &str, text: impl Into<String>) {
        let record = Record::platform(process, text.into());
        if self.queue.try_send(Job::Append(app.clone(), record)).is_err() {
            tracing::warn!(%app, "the log queue is full: a line of the platform's own is lost");
        }
    }

    /// Waits until what was appended before is in the files.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Job::Flush(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    pub(crate) async fn remove(&self, app: &AppName) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Job::Remove(app.clone(), done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Drops what fell out of the budget by age.
    pub(crate) async fn tidy(&self) {
        let _ = self.queue.send(Job::Tidy).await;
    }

    /// How far the app's stream goes, now and later.
    pub(crate) fn end(&self, app: &AppName) -> watch::Receiver<u64> {
        let mut ends = self.shared.ends();
        let sender = ends.entry(app.clone()).or_insert_with(|| {
            watch::Sender::new(segment::stream_end(&self.folder_of(app)).unwrap_or(0))
        });
        sender.subscribe()
    }

    pub(crate) fn reader(&self, app: &AppName) -> Reader {
        Reader::new(self.folder_of(app))
    }

    fn folder_of(&self, app: &AppName) -> PathBuf {
        self.shared.folder.join(app.as_str())
    }

    /// The timestamp up to which an instance's lines are kept, in nanoseconds. Blocking.
    pub(crate) fn last_of(&self, app: &AppName, instance: &InstanceId) -> Option<i64> {
        self.reader(app).last_of(record::short(instance), read::LOOK_BACK)
    }
}
