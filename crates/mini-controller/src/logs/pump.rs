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
use mini_core::ports::{Instance, InstanceState, Runtime};
use mini_core::time::Millis;
use tokio::task::JoinHandle;

use super::{Logs, Record};

/// How long a removal waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(10);

struct Pump {
    /// Which start of the instance it reads.
    started: Option<Millis>,
    task: JoinHandle<()>,
}

pub(crate) struct Pumps {
    runtime: Arc<dyn Runtime>,
    logs: Logs,
    running: Mutex<HashMap<InstanceId, Pump>>,
}

impl Pumps {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, logs: Logs) -> Self {
        Self { runtime, logs, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<InstanceId, Pump>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the instance's output is being read.
    pub(crate) fn ensure(&self, instance: &Instance) {
        let started = match instance.state {
            InstanceState::Running { since } => Some(since),
            // Its last lines may not have been read by the controller before this one.
            InstanceState::Exited { .. } => None,
            _ => return,
        };
        let mut running = self.running();
        let stale = running.get(&instance.id).is_none_or(|pump| {
            pump.task.is_finished() && started.is_some() && pump.started != started
        });
        if stale {
            let task =
                tokio::spawn(pump(self.runtime.clone(), self.logs.clone(), instance.clone()));
            running.insert(instance.id.clone(), Pump { started, task });
        }
    }

    /// Waits until the last line of an instance that has stopped is kept, or it took too long.
    pub(crate) async fn finish(&self, instance: &Instance) {
        self.ensure(instance);
        let pump = self.running().remove(&instance.id);
        if let Some(mut pump) = pump
            && tokio::time::timeout(LAST_LINES, &mut pump.task).await.is_err()
        {
            pump.task.abort();
            tracing::warn!(instance = %instance.id, "its last log lines could not be read in time");
        }
        self.logs.flush().await;
    }
}

async fn pump(runtime: Arc<dyn Runtime>, logs: Logs, instance: Instance) {
    let (app, id) = (instance.app.clone(), instance.id.clone());
    let looked = {
        let (logs, app, id) = (logs.clone(), app.clone(), id.clone());
        tokio::task::spawn_blocking(move || logs.last_of(&app, &id)).await
    };
    let mut last = looked.ok().flatten();
    for follow in [true, false] {
        let mut lines = runtime.logs(id.clone(), last, follow);
        // What was kept before the stream began may come again.
        let kept = last;
        while let Some(item) = lines.next().await {
            match item {
                Ok(line) if kept.is_some_and(|kept| line.at_nanos <= kept) => {}
                Ok(line) => {
                    last = Some(last.map_or(line.at_nanos, |l| l.max(line.at_nanos)));
                    let record = Record::of_app(line.at_nanos, instance.label(), &id, &line.text);
                    logs.append(&app, record).await;
                }
                Err(error) => {
                    tracing::debug!(instance = %id, %error, "the log stream ended");
                    break;
                }
            }
        }
    }
}
