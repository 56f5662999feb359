//! A command in an instance that runs.

use std::path::Path;
use std::time::Duration;

use http::Method;
use mini_core::id::InstanceId;
use mini_core::ports::{
    ExecSpec, Items, RuntimeError, RuntimeErrorKind, RuntimeResult, Session, SessionInput,
    TerminalSize,
};
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use serde_json::{Value, json};

use super::{DETACH_KEYS, Exit, Process, session};
use crate::engine::{Docker, LOOK};
use crate::labels;
use crate::raw::Query;

/// How often the end of a command that has closed its output is asked for, at first and later.
const SOON: Duration = Duration::from_millis(5);
const LATER: Duration = Duration::from_secs(1);
/// From SIGTERM (SIGHUP with a terminal) to SIGKILL for a command that nobody is attached to.
const ABANDONED: Duration = Duration::from_secs(3);

impl Docker {
    pub(crate) async fn exec_in(
        &self,
        id: InstanceId,
        spec: ExecSpec,
        input: Items<SessionInput>,
    ) -> RuntimeResult<Session> {
        let what = labels::instance_words(&id);
        let size = spec.terminal.map(|t| [t.rows, t.columns]);
        let env: Vec<String> = spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let create = json!({
            "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
            "Tty": spec.terminal.is_some(), "Cmd": spec.command, "Env": env,
            "DetachKeys": DETACH_KEYS,
            // From API 1.42 on; before, the size comes after the start.
            "ConsoleSize": size,
        })
        .to_string();
        let made = self
            .on_container(&id, |container| {
                let (what, create) = (&what, create.clone());
                async move {
                    let target = Query::new(&["containers", &container, "exec"]);
                    let raw = &self.inner.raw;
                    raw.json(what, Method::POST, target.target(), Some(create), LOOK).await
                }
            })
            .await?
            .ok_or_else(|| {
                RuntimeError::new(RuntimeErrorKind::NotFound, format!("{what} is not there"))
            })?;
        let exec = made.get("Id").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
            RuntimeError::new(RuntimeErrorKind::Other, format!("{what}: the engine named no exec"))
        })?;
        let start = json!({ "Detach": false, "Tty": spec.terminal.is_some(), "ConsoleSize": size });
        let target = Query::new(&["exec", &exec, "start"]);
        let hijacked = self.hijack(&what, target.target(), Some(start.to_string())).await?;
        let tty = spec.terminal.is_some();
        let process = Command { docker: self.clone(), what: what.clone(), exec, tty };
        Ok(session(what, process, hijacked, (spec.terminal, input)))
    }

    /// What the engine says of an exec.
    async fn look_at_exec(&self, what: &str, exec: &str) -> RuntimeResult<Value> {
        let target = Query::new(&["exec", exec, "json"]);
        self.inner.raw.json(what, Method::GET, target.target(), None, LOOK).await
    }

    /// Kills a command that nobody is attached to any more. The engine has no call for that, so
    /// it is done by its process id, which is used only while it is seen in its container.
    async fn kill_exec(&self, what: &str, exec: &str, tty: bool) -> RuntimeResult<()> {
        let gentle = if tty { Signal::HUP } else { Signal::TERM };
        for signal in [gentle, Signal::KILL] {
            let seen = self.look_at_exec(what, exec).await?;
            let Some(pid) = running(&seen) else { return Ok(()) };
            let container = seen.get("ContainerID").and_then(Value::as_str).unwrap_or_default();
            let init = self.inspect(what, container).await?.state.and_then(|state| state.pid);
            let Some(init) = init.filter(|pid| *pid > 0) else { return Ok(()) };
            if !same_namespace(init, pid.as_raw_nonzero().get().into()) {
                let message = format!("{what}: its process {pid:?} is not seen from here");
                return Err(RuntimeError::new(RuntimeErrorKind::Unsupported, message));
            }
            // The engine makes it the head of a session of its own, and so of a group.
            let whole_group = getpgid(Some(pid)).is_ok_and(|group| group == pid);
            let killed = if whole_group {
                kill_process_group(pid, signal)
            } else {
                kill_process(pid, signal)
            };
            if let Err(error) = killed {
                tracing::debug!(%error, what, "a command was gone before it was killed");
            }
            if signal != Signal::KILL {
                let gone = async {
                    loop {
                        tokio::time::sleep(SOON * 10).await;
                        let seen = self.look_at_exec(what, exec).await;
                        if seen.is_ok_and(|seen| running(&seen).is_none()) {
                            return;
                        }
                    }
                };
                if tokio::time::timeout(ABANDONED, gone).await.is_ok() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The process id of an exec that runs.
fn running(seen: &Value) -> Option<Pid> {
    let runs = seen.get("Running").and_then(Value::as_bool).unwrap_or(false);
    let pid = seen.get("Pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
    pid.filter(|_| runs).and_then(Pid::from_raw)
}

/// Whether two processes share a PID namespace: the number of an exec may be somebody else's by
/// now, but not inside the same container.
fn same_namespace(one: i64, other: i64) -> bool {
    let of = |pid: i64| std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns/pid"));
    matches!((of(one), of(other)), (Ok(one), Ok(other)) if one == other)
}

struct Command {
    docker: Docker,
    what: String,
    exec: String,
    tty: bool,
}

impl Process for Command {
    async fn resize(&self, size: TerminalSize) -> RuntimeResult<()> {
        let query = Query::new(&["exec", &self.exec, "resize"])
            .with("h", &size.rows.to_string())
            .with("w", &size.columns.to_string());
        super::resize(&self.docker, &self.what, query.target()).await
    }

    async fn exit(&self) -> RuntimeResult<Exit> {
        let mut pause = SOON;
        loop {
            let seen = self.docker.look_at_exec(&self.what, &self.exec).await?;
            let runs = seen.get("Running").and_then(Value::as_bool).unwrap_or(false);
            if !runs {
                let code = seen.get("ExitCode").and_then(Value::as_i64).unwrap_or(-1);
                let pid = seen.get("Pid").and_then(Value::as_i64).unwrap_or(0);
                return Ok(Exit { code, started: pid > 0 });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    fn abandoned(&self) {
        let Ok(threads) = tokio::runtime::Handle::try_current() else { return };
        let (docker, what) = (self.docker.clone(), self.what.clone());
        let (exec, tty) = (self.exec.clone(), self.tty);
        threads.spawn(async move {
            if let Err(error) = docker.kill_exec(&what, &exec, tty).await {
                tracing::warn!(%error, "a command that nobody is attached to runs on");
            }
        });
    }
}
