//! Keeping a child going: restarted at once, with a pause from the third time in a minute; and
//! replacing one that runs by a new one, which takes over its sockets.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::activation;
use crate::handover::{self, Listeners, READY};
use crate::notify;
use crate::program::Program;

const MINUTE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a new process may take until it has the place of the old one. The old one's own
/// patience is shorter.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(10);

/// How a child is started.
pub(crate) struct Launch {
    pub(crate) name: &'static str,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    pub(crate) listeners: Listeners,
}

/// Whose place a new process takes, and what it does when the process that started it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nobody's; it then ends.
    Child,
    /// That of an older child; it then ends.
    NewChild,
    /// That of the process which starts it; it goes on.
    Successor,
}

impl Start {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Child => &["--from-parent"],
            Self::NewChild => &["--from-parent", "--succeeds"],
            Self::Successor => &["--from-predecessor", "--succeeds"],
        }
    }
}

/// A process that was started, and the tie to it.
pub(crate) struct Running {
    child: Child,
    tie: UnixStream,
}

impl Launch {
    pub(crate) fn start(&self, program: &Program, how: Start) -> io::Result<Running> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let mut command = Command::new(program.path());
        command
            .arg0(program.name())
            .arg(self.name)
            .args(how.arguments())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            // A terminal's Ctrl-C is for the parent, which stops its children in order.
            .process_group(0);
        for variable in activation::VARIABLES {
            command.env_remove(variable);
        }
        if how != Start::Successor {
            // The parent speaks for its children.
            command.env_remove(notify::SOCKET);
        }
        let child = command.spawn()?;
        if !self.listeners.is_empty() {
            handover::send(&ours, &self.listeners)?;
        }
        ours.set_nonblocking(true)?;
        tracing::info!(pid = child.id(), "{} started", self.name);
        Ok(Running { child, tie: UnixStream::from_std(ours)? })
    }

    /// Starts a new process that takes the place of the one that runs, and waits until it has it.
    /// One that does not come about is gone after this.
    pub(crate) async fn replace(&self, program: &Program, how: Start) -> Result<Running, String> {
        let start = self.start(program, how);
        let mut new = start.map_err(|error| format!("it could not be started: {error}"))?;
        let mut said = [0];
        let ready = tokio::time::timeout(HAND_OVER, new.tie.read_exact(&mut said)).await;
        match ready {
            Ok(Ok(_)) if said == [READY] => Ok(new),
            Ok(_) => {
                let _ = new.child.start_kill();
                Err(format!("it did not serve: {}", told(new.child.wait().await)))
            }
            Err(_) => {
                let _ = new.child.kill().await;
                Err(format!("it did not serve within {} s", HAND_OVER.as_secs()))
            }
        }
    }
}

impl Running {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its end; SIGKILL after `grace`.
    async fn end(mut self, name: &'static str, grace: Duration) {
        match tokio::time::timeout(grace, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(ended) => tracing::error!(status = %told(ended), "the old {name} ended"),
            Err(_) => {
                tracing::warn!("the old {name} did not end in time and is killed");
                let _ = self.child.kill().await;
            }
        }
        drop(self.tie);
    }
}

/// One child process: `minid controller` or `minid proxy`.
pub(crate) struct Supervised {
    launch: Launch,
    /// What is started after a crash: what has run.
    program: Program,
    starts: VecDeque<Instant>,
    running: Option<Running>,
    /// Those that finish what they have begun.
    leaving: JoinSet<()>,
}

impl Supervised {
    pub(crate) fn new(launch: Launch) -> io::Result<Self> {
        Ok(Self {
            launch,
            program: Program::of_this_process()?,
            starts: VecDeque::new(),
            running: None,
            leaving: JoinSet::new(),
        })
    }

    pub(crate) fn start(&mut self) -> io::Result<()> {
        self.running = Some(self.launch.start(&self.program, Start::Child)?);
        self.starts.push_back(Instant::now());
        Ok(())
    }

    /// Waits for the child to die, and starts it anew. Never returns; safe to drop.
    pub(crate) async fn keep_going(&mut self) {
        let name = self.launch.name;
        loop {
            if let Some(running) = &mut self.running {
                let ended = running.child.wait().await;
                self.running = None;
                tracing::error!(status = %told(ended), "{name} ended");
            }
            let now = Instant::now();
            while self.starts.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
                self.starts.pop_front();
            }
            tokio::time::sleep(pause(self.starts.len())).await;
            if let Err(error) = self.start() {
                tracing::error!(%error, "{name} could not be started");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Replaces the child by a new one of the program that is on disk now. The old one finishes
    /// what it has begun, at most for `grace`. If the new one does not come about, all is as before.
    pub(crate) async fn hand_over(&mut self, grace: Duration) {
        let name = self.launch.name;
        let program = match Program::on_disk() {
            Ok(program) => program,
            Err(error) => {
                return tracing::error!(%error, "no reload: the program cannot be opened");
            }
        };
        match self.launch.replace(&program, Start::NewChild).await {
            Ok(new) => {
                tracing::info!(pid = new.pid(), "a new {name} has taken over");
                self.program = program;
                if let Some(old) = self.running.replace(new) {
                    self.leaving.spawn(old.end(name, grace));
                }
            }
            Err(why) => tracing::error!(why, "no reload: the {name} that runs goes on"),
        }
        // Those that have ended by now.
        while self.leaving.try_join_next().is_some() {}
    }

    /// SIGTERM, and wait; SIGKILL after `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) {
        let name = self.launch.name;
        if let Some(running) = &mut self.running {
            let pid = running.pid().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            if let Some(pid) = pid
                && let Err(error) = kill_process(pid, Signal::TERM)
            {
                tracing::warn!(%error, "{name} could not be told to stop");
            }
            if tokio::time::timeout(grace, running.child.wait()).await.is_err() {
                tracing::warn!("{name} did not stop in time and is killed");
                let _ = running.child.kill().await;
            }
        }
        // Each has a time of its own.
        while self.leaving.join_next().await.is_some() {}
    }
}

fn told(ended: io::Result<ExitStatus>) -> String {
    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The pause before the next start, after `starts` starts within the last minute.
fn pause(starts: usize) -> Duration {
    match starts {
        0..=2 => Duration::ZERO,
        n => Duration::from_millis(500).saturating_mul(1 << (n - 3).min(10)).min(LONGEST_PAUSE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_restart_in_a_minute_waits() {
        assert_eq!(pause(1), Duration::ZERO);
        assert_eq!(pause(2), Duration::ZERO);
        assert_eq!(pause(3), Duration::from_millis(500));
        assert_eq!(pause(100), LONGEST_PAUSE);
    }
}
