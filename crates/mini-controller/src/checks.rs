//! The images' own checks: HEALTHCHECK commands, run inside the instances by the controller.
//!
//! One task per running instance that has a check, one run of it at a time: one that hangs is
//! killed at its timeout before the next begins. What they say goes to the planner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use mini_core::control::Verdict;
use mini_core::id::InstanceId;
use mini_core::name::AppName;
use mini_core::plan::{Checked, Checks as Known, Intent};
use mini_core::ports::{ExecSpec, Instance, Runtime, RuntimeErrorKind, Session, SessionOutput};
use mini_core::release::CommandCheck;
use mini_core::time::Millis;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::core::Core;

/// Until it passes (CONTRACTS, "Health").
const WHILE_STARTING: Duration = Duration::from_secs(1);
/// How much of a check's output is kept: its end says most.
const SAID_BYTES: usize = 1024;

/// Every check that runs.
#[derive(Default)]
pub(crate) struct Checks {
    running: Mutex<HashMap<InstanceId, Running>>,
}

struct Running {
    app: AppName,
    started: Millis,
    said: Arc<Mutex<Option<Checked>>>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checks {
    /// Sees to it that those of the app's instances are checked that have a check and run, and no
    /// others; what is known of them.
    pub(crate) fn keep(core: &Arc<Core>, intent: &Intent, instances: &[Instance]) -> Known {
        let mut running = lock(&core.checks.running);
        let wanted = |i: &Instance| intent.check_of(i).map(|(check, since)| (check.clone(), since));
        running.retain(|id, r| {
            r.app != intent.app
                || instances
                    .iter()
                    .any(|i| i.id == *id && wanted(i).is_some_and(|(_, since)| since == r.started))
        });
        for instance in instances {
            let Some((check, started)) = wanted(instance) else { continue };
            running.entry(instance.id.clone()).or_insert_with(|| {
                let said = Arc::new(Mutex::new(None));
                let of = Of { id: instance.id.clone(), app: instance.app.clone(), started };
                let task = tokio::spawn(watch(core.clone(), of, check, said.clone()));
                Running { app: instance.app.clone(), started, said, task: task.abort_handle() }
            });
        }
        let own = running.iter().filter(|(_, r)| r.app == intent.app);
        own.filter_map(|(id, r)| Some((id.clone(), lock(&r.said).clone()?))).collect()
    }

    /// What the check of an instance says, if it has one; the inner none is: nothing yet.
    pub(crate) fn of(&self, id: &InstanceId) -> Option<Option<Checked>> {
        lock(&self.running).get(id).map(|r| lock(&r.said).clone())
    }

    /// The app is gone.
    pub(crate) fn forget(&self, app: &AppName) {
        lock(&self.running).retain(|_, r| r.app != *app);
    }
}

struct Of {
    id: InstanceId,
    app: AppName,
    started: Millis,
}

/// How one run of a check ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    /// The engine did not answer: nothing is known.
    Unknown,
}

/// Runs the check again and again. Ends with the task.
async fn watch(core: Arc<Core>, of: Of, check: CommandCheck, said: Arc<Mutex<Option<Checked>>>) {
    let mut failures = 0_u32;
    loop {
        let begun = Instant::now();
        let outcome = once(&*core.runtime, &of.id, &check).await;
        let passed = lock(&said).as_ref().is_some_and(|c| c.passed);
        let verdict = match outcome {
            Outcome::Passed => {
                failures = 0;
                Some(Verdict::Healthy)
            }
            Outcome::Failed(why) => {
                failures = failures.saturating_add(1);
                // One that was healthy is given its retries.
                (!passed || failures >= check.retries).then_some(Verdict::Unhealthy { why })
            }
            Outcome::Unknown => None,
        };
        if let Some(verdict) = verdict {
            let passed = passed || verdict == Verdict::Healthy;
            let now = Checked { started: of.started, verdict, passed };
            let before = lock(&said).replace(now.clone());
            if before.as_ref() != Some(&now) {
                core.drivers.wake(&of.app);
            }
        }
        let starting = !lock(&said).as_ref().is_some_and(|c| c.passed);
        let pause =
            if starting { WHILE_STARTING } else { Duration::from_millis(check.interval_ms) };
        tokio::time::sleep_until(begun + pause).await;
    }
}

/// Runs the check once. Dropping its session at the timeout kills it.
async fn once(runtime: &dyn Runtime, id: &InstanceId, check: &CommandCheck) -> Outcome {
    let limit = Duration::from_millis(check.timeout_ms);
    let spec = ExecSpec { command: check.command.clone(), env: Vec::new(), terminal: None };
    let run = async {
        let input = Box::pin(futures_util::stream::empty());
        match runtime.exec(id.clone(), spec, input).await {
            Ok(session) => listen(session).await,
            // It may have exited just now, which is told elsewhere.
            Err(error) => match error.kind {
                RuntimeErrorKind::Unreachable
                | RuntimeErrorKind::NotFound
                | RuntimeErrorKind::Conflict => Outcome::Unknown,
                _ => Outcome::Failed(error.message),
            },
        }
    };
    let late = || Outcome::Failed(format!("it did not end within {} s", limit.as_secs_f32()));
    timeout(limit, run).await.unwrap_or_else(|_| late())
}

async fn listen(mut session: Session) -> Outcome {
    let mut said = Vec::new();
    while let Some(output) = session.next().await {
        match output {
            Ok(SessionOutput::Stdout(data) | SessionOutput::Stderr(data)) => {
                said.extend_from_slice(&data);
                let over = said.len().saturating_sub(SAID_BYTES);
                said.drain(..over);
            }
            Ok(SessionOutput::Exited(0)) => return Outcome::Passed,
            Ok(SessionOutput::Exited(code)) => {
                let said = String::from_utf8_lossy(&said);
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("");
                let last = last.trim();
                return Outcome::Failed(match last {
                    "" => format!("exit code {code}"),
                    last => format!("exit code {code}: {last}"),
                });
            }
            Err(_) => return Outcome::Unknown,
        }
    }
    Outcome::Unknown
}

#[cfg(test)]
mod tests {
    use mini_core::name::ProcessType;
    use mini_core::ports::{ImageInfo, InstanceSpec, NetworkSpec};
    use mini_core::release::Limits;
    use mini_core::testing::{Behaviour, Call, FakeRuntime};

    use super::*;

    async fn instance(engine: &FakeRuntime) -> InstanceId {
        let app: AppName = "blue".parse().unwrap();
        let image = ImageInfo {
            id: "sha256:1".into(),
            ports: vec![8080],
            has_command: true,
            check: None,
            volumes: Vec::new(),
            size_bytes: 1,
            os: "linux".into(),
            arch: "amd64".into(),
            built: false,
        };
        engine.add_image("hello", image);
        let subnet = "10.210.0.0/26".parse().unwrap();
        engine.ensure_network(NetworkSpec { app: app.clone(), subnet }).await.unwrap();
        let spec = InstanceSpec {
            id: "i1".parse().unwrap(),
            app,
            rollout: "d1".parse().unwrap(),
            release: 1,
            process: ProcessType::web(),
            ordinal: 1,
            image: "sha256:1".into(),
            command: None,
            env: Vec::new(),
            address: "10.210.0.2".parse().unwrap(),
            port: Some(8080),
            limits: Limits::default(),
            alone: false,
            volumes: Vec::new(),
            one_off: None,
        };
        engine.start(spec).await.unwrap().id
    }

    fn check(timeout_ms: u64) -> CommandCheck {
        let command = vec!["/check".to_owned()];
        CommandCheck { command, interval_ms: 30_000, timeout_ms, start_period_ms: 0, retries: 3 }
    }

    fn says(lines: &[&str], code: i64) -> Behaviour {
        Behaviour::Exits { lines: lines.iter().map(|line| (*line).to_owned()).collect(), code }
    }

    #[tokio::test]
    async fn a_check_passes_by_its_exit_code_and_its_last_words_are_kept() {
        let engine = FakeRuntime::new();
        let id = instance(&engine).await;
        let once = async || once(&engine, &id, &check(10_000)).await;
        engine.exec_does("/check", says(&["fine"], 0));
        assert_eq!(once().await, Outcome::Passed);
        engine.exec_does("/check", says(&["trying", "no database", ""], 1));
        assert_eq!(once().await, Outcome::Failed("exit code 1: no database".into()));
        engine.exec_does("/check", says(&[], 2));
        assert_eq!(once().await, Outcome::Failed("exit code 2".into()));
        engine.fail_next(Call::Exec, RuntimeErrorKind::Unreachable, "away");
        assert_eq!(once().await, Outcome::Unknown);
        engine.crash(&id, 1, false);
        assert_eq!(once().await, Outcome::Unknown, "that it exited is told elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_given_up_at_its_timeout_and_let_go() {
        let engine = FakeRuntime::new();
        let id = instance(&engine).await;
        engine.exec_does("/check", Behaviour::Lives);
        let outcome = once(&engine, &id, &check(1_500)).await;
        assert_eq!(outcome, Outcome::Failed("it did not end within 1.5 s".into()));
        assert_eq!(engine.execs_running(), 0, "its session is dropped, which kills it");
    }
}
