//! Pumps: one per instance, from the engine to the app's log.
//!
//! A pump resumes by the timestamp of the last line that is kept, so that a controller that was
//! killed loses and repeats nothing. The engine's stream may end early or lack the last lines, so
//! one read without `follow` always comes after it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use mini_core::id::InstanceId;
use mini_core::ports::{Instance, InstanceState, OneOff, Runtime};
use mini_core::time::Millis;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Logs, Record};

/// How long a removal waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(10);

/// What a pump reads: the output of one run, to its end, or what an exit left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Run(Millis),
    Exit(Millis),
}

/// How far an instance's output was read, and what of it is being read.
struct Reading {
    of: Of,
    /// What is read after that: the instance exited or started again meanwhile.
    next: Option<Of>,
    over: bool,
    /// The timestamp of the last line that was kept.
    last: Option<i64>,
}

struct Pump {
    reading: Arc<Mutex<Reading>>,
    task: AbortHandle,
    /// Closes when the task is over.
    ended: watch::Receiver<()>,
}

fn lock(reading: &Mutex<Reading>) -> MutexGuard<'_, Reading> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Pumps {
    runtime: Arc<dyn Runtime>,
    logs: Logs,
    pumps: Mutex<HashMap<InstanceId, Pump>>,
}

impl Pumps {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, logs: Logs) -> Self {
        Self { runtime, logs, pumps: Mutex::default() }
    }

    fn pumps(&self) -> MutexGuard<'_, HashMap<InstanceId, Pump>> {
        self.pumps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the instance's output is being read; there is never more than one reader.
    pub(crate) fn ensure(&self, instance: &Instance) {
        if instance.one_off == Some(OneOff::Attached) {
            // What it says is for whoever is attached alone, and not kept by the engine.
            return;
        }
        let of = match instance.state {
            InstanceState::Running { since } => Of::Run(since),
            // Its last lines may not have been read: the stream broke, or the controller did.
            InstanceState::Exited { at, .. } => Of::Exit(at),
            _ => return,
        };
        let mut pumps = self.pumps();
        let reading = match pumps.get(&instance.id) {
            None => Arc::new(Mutex::new(Reading { of, next: None, over: false, last: None })),
            Some(pump) => {
                let mut reading = lock(&pump.reading);
                if !reading.over {
                    reading.next = (reading.of != of).then_some(of);
                    return;
                }
                // One that is over although its instance runs lost its stream.
                if reading.of == of && matches!(of, Of::Exit(_)) {
                    return;
                }
                (reading.of, reading.over) = (of, false);
                pump.reading.clone()
            }
        };
        let (alive, ended) = watch::channel(());
        let (runtime, logs, shared) = (self.runtime.clone(), self.logs.clone(), reading.clone());
        let of_instance = instance.clone();
        let task = tokio::spawn(async move {
            pump(runtime, logs, of_instance, shared).await;
            drop(alive);
        });
        pumps.insert(instance.id.clone(), Pump { reading, task: task.abort_handle(), ended });
    }

    /// Waits until the last line of an instance that has stopped is kept, or it took too long.
    pub(crate) async fn finish(&self, instance: &Instance) {
        // A stream that does not end is given up; then one read gets what is there.
        for _ in 0..2 {
            self.ensure(instance);
            let pump = self.pumps().get(&instance.id).map(|p| (p.ended.clone(), p.task.clone()));
            let Some((mut ended, task)) = pump else { break };
            if tokio::time::timeout(LAST_LINES, ended.changed()).await.is_ok() {
                break;
            }
            task.abort();
            if let Some(pump) = self.pumps().get(&instance.id) {
                let mut reading = lock(&pump.reading);
                (reading.of, reading.over) = (Of::Exit(Millis(0)), true);
            }
            tracing::warn!(instance = %instance.id, "its last log lines could not be read in time");
        }
        self.logs.flush().await;
    }

    /// An instance is gone, and its lines are read.
    pub(crate) fn forget(&self, id: &InstanceId) {
        if let Some(pump) = self.pumps().remove(id) {
            pump.task.abort();
        }
    }

    /// Forgets those that are over and whose instance is not there any more.
    pub(crate) fn keep(&self, instances: &[Instance]) {
        let is_there = |id: &InstanceId| instances.iter().any(|i| i.id == *id);
        self.pumps().retain(|id, pump| !lock(&pump.reading).over || is_there(id));
    }
}

/// Reads on while there is something to read.
async fn pump(
    runtime: Arc<dyn Runtime>,
    logs: Logs,
    instance: Instance,
    reading: Arc<Mutex<Reading>>,
) {
    if lock(&reading).last.is_none() {
        let (reader, app, id) = (logs.clone(), instance.app.clone(), instance.id.clone());
        let looked = tokio::task::spawn_blocking(move || reader.last_of(&app, &id)).await;
        lock(&reading).last = looked.ok().flatten();
    }
    loop {
        if matches!(lock(&reading).of, Of::Run(_)) {
            read(&runtime, &logs, &instance, &reading, true).await;
        }
        read(&runtime, &logs, &instance, &reading, false).await;
        let mut reading = lock(&reading);
        match reading.next.take() {
            Some(next) => reading.of = next,
            None => return reading.over = true,
        }
    }
}

async fn read(
    runtime: &Arc<dyn Runtime>,
    logs: &Logs,
    instance: &Instance,
    reading: &Mutex<Reading>,
    follow: bool,
) {
    // What was kept before the stream began may come again.
    let kept = lock(reading).last;
    let mut lines = runtime.logs(instance.id.clone(), kept, follow);
    while let Some(item) = lines.next().await {
        match item {
            Ok(line) if kept.is_some_and(|kept| line.at_nanos <= kept) => {}
            Ok(line) => {
                let (at, label) = (line.at_nanos, instance.label());
                let record = Record::of_app(at, label, &instance.id, &line.text);
                logs.append(&instance.app, record).await;
                let last = &mut lock(reading).last;
                *last = Some(last.map_or(at, |l| l.max(at)));
            }
            Err(error) => {
                tracing::debug!(instance = %instance.id, %error, "the log stream ended");
                break;
            }
        }
    }
}
