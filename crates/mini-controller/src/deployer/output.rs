//! Build output on its way to followers and to the app's log: in batches, since each batch is a
//! transaction, and inside a bound.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mini_api::EventBody;
use mini_core::id::DeploymentId;
use mini_core::name::AppName;
use tokio::time::Instant;

use super::Stopped;
use crate::clock;
use crate::core::Core;
use crate::logs::Record;
use crate::store;

/// A line waits this long at most.
const DELAY: Duration = Duration::from_millis(100);
const BATCH: usize = 500;
/// Kept of one deployment's output; the build goes on, its output is no longer kept.
const MAX_BYTES: usize = 10 << 20;
const MAX_LINE: usize = 10_000;
/// How many of the last lines go with a failed build.
const TAIL: usize = 20;

pub(crate) struct OutputSink<'a> {
    core: &'a Arc<Core>,
    app: &'a AppName,
    id: &'a DeploymentId,
    waiting: Vec<String>,
    due: Option<Instant>,
    tail: VecDeque<String>,
    bytes: usize,
    /// Whether the lines go into the app's log here, and not by themselves.
    logged: bool,
}

impl<'a> OutputSink<'a> {
    pub(super) fn new(core: &'a Arc<Core>, app: &'a AppName, id: &'a DeploymentId) -> Self {
        let (waiting, tail) = (Vec::new(), VecDeque::new());
        Self { core, app, id, waiting, due: None, tail, bytes: 0, logged: true }
    }

    /// For output that the app's log has already.
    pub(crate) fn for_followers(
        core: &'a Arc<Core>,
        app: &'a AppName,
        id: &'a DeploymentId,
    ) -> Self {
        Self { logged: false, ..Self::new(core, app, id) }
    }

    pub(crate) async fn line(&mut self, mut line: String) -> Result<(), Stopped> {
        if line.len() > MAX_LINE {
            let end = (0..=MAX_LINE).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            line.truncate(end);
        }
        self.tail.push_back(line.clone());
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
        let before = self.bytes;
        self.bytes += line.len();
        if self.bytes > MAX_BYTES {
            if before > MAX_BYTES {
                return Ok(());
            }
            line = format!("(output beyond {} MB is not kept)", MAX_BYTES >> 20);
        }
        self.waiting.push(line);
        self.due.get_or_insert_with(|| Instant::now() + DELAY);
        if self.waiting.len() >= BATCH { self.flush().await } else { Ok(()) }
    }

    /// Comes when the waiting lines should be flushed.
    pub(crate) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), Stopped> {
        self.due = None;
        let lines = std::mem::take(&mut self.waiting);
        if lines.is_empty() {
            return Ok(());
        }
        for line in lines.iter().filter(|_| self.logged) {
            let record = Record::platform("build", line.clone());
            self.core.logs.append(self.app, record).await;
        }
        let (id, now) = (self.id.clone(), clock::now());
        self.core
            .store
            .write(move |tx| {
                for line in lines {
                    store::add_event(tx, &id, &EventBody::Output { line }, now)?;
                }
                Ok(())
            })
            .await?;
        self.core.events_stored();
        Ok(())
    }

    pub(super) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}
