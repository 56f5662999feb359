//! The Procfile's `release`: its output for those who follow the deployment, and why it failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use mini_core::cause::{Cause, exit_words};
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::ports::{Instance, InstanceState};
use tokio::task::JoinHandle;

use crate::actions::log_tail;
use crate::core::Core;
use crate::deployer::OutputSink;

/// How long the end of a deployment waits for the output of its release command.
const PATIENCE: Duration = Duration::from_secs(5);

/// The release commands whose output is on its way to those who follow their deployments.
#[derive(Default)]
pub(crate) struct Telling(Mutex<HashMap<InstanceId, JoinHandle<()>>>);

impl Telling {
    fn tasks(&self) -> MutexGuard<'_, HashMap<InstanceId, JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until followers were told all that a command which has ended wrote: a stream of events
    /// ends with the deployment.
    pub(crate) async fn told(&self, id: &InstanceId) {
        let task = self.tasks().remove(id);
        if let Some(task) = task
            && tokio::time::timeout(PATIENCE, task).await.is_err()
        {
            tracing::warn!(instance = %id, "followers miss the end of a release command's output");
        }
    }
}

/// Shows the deployment's followers what the command writes, beside the pump that keeps it in the
/// app's log. Ends with the instance; after a crash of the controller the log alone has the rest.
pub(crate) fn tell_output(core: &Arc<Core>, rollout: &DeploymentId, instance: &Instance) {
    let id = instance.id.clone();
    let (told_by, rollout, instance) = (core.clone(), rollout.clone(), instance.clone());
    let task = tokio::spawn(async move {
        let core = told_by;
        let mut lines = core.runtime.logs(instance.id.clone(), None, true);
        let mut sink = OutputSink::for_followers(&core, &instance.app, &rollout);
        let mut told = 0;
        loop {
            let line = tokio::select! {
                line = lines.next() => line,
                () = sink.due() => {
                    if sink.flush().await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(Ok(line)) = line else { break };
            let text = String::from_utf8_lossy(&line.text).into_owned();
            if sink.line(text).await.is_err() {
                return;
            }
            told += 1;
        }
        // A stream that is followed may lack the last lines.
        let mut rest = core.runtime.logs(instance.id.clone(), None, false).skip(told);
        while let Some(Ok(line)) = rest.next().await {
            if sink.line(String::from_utf8_lossy(&line.text).into_owned()).await.is_err() {
                return;
            }
        }
        // What cannot be written down is in the app's log all the same.
        let _ = sink.flush().await;
    });
    let mut tasks = core.telling.tasks();
    tasks.retain(|_, task| !task.is_finished());
    tasks.insert(id, task);
}

/// Why the command failed: it ended badly, or ran longer than `limit_ms`.
pub(crate) async fn cause(core: &Core, id: &InstanceId, limit_ms: Option<u64>) -> Cause {
    let Some(instance) = core.world.get(id) else {
        return Cause::new(
            "release_command_failed",
            "the release command was removed from the engine by somebody else",
        );
    };
    if instance.state.is_running() {
        core.logs.flush().await;
    } else {
        core.pumps.finish(&instance).await;
        core.telling.told(id).await;
    }
    let mut cause = match (instance.state, limit_ms) {
        (InstanceState::Exited { code, oom, .. }, _) => {
            let why = if oom && code == 137 { ": it ran out of memory" } else { "" };
            let message = format!("the release command {}{why}", exit_words(code));
            Cause::new("release_command_failed", message)
                .hint("its output stands above and in `mini logs -p release`")
        }
        (_, limit_ms) => {
            let seconds = limit_ms.unwrap_or_default().div_ceil(1000);
            let message = format!("the release command did not end within {seconds} s");
            Cause::new("release_command_timeout", message).hint(
                "see what it waits for, or give it more time: [timing] release_s in mini.toml",
            )
        }
    };
    cause.log_tail = log_tail(core, &instance).await;
    cause
}
