//! Keeping a child going: restarted at once, with a pause from the third time in a minute.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::handover;

const MINUTE: Duration = Duration::from_secs(60);
const SELF: &str = "/proc/self/exe";
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One child process: `minid controller` or `minid proxy`.
pub(crate) struct Supervised {
    name: &'static str,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    listeners: Vec<std::net::TcpListener>,
    starts: VecDeque<Instant>,
    child: Option<Child>,
    /// Held open: its end tells the child that we are gone.
    tie: Option<std::os::unix::net::UnixStream>,
}

impl Supervised {
    pub(crate) fn new(
        name: &'static str,
        environment: Vec<(&'static str, std::ffi::OsString)>,
        listeners: Vec<std::net::TcpListener>,
    ) -> Self {
        Self { name, environment, listeners, starts: VecDeque::new(), child: None, tie: None }
    }

    pub(crate) fn start(&mut self) -> std::io::Result<()> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let mut command = Command::new(own_program());
        command
            .arg(self.name)
            .arg("--from-parent")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            // A terminal's Ctrl-C is for the parent, which stops its children in order.
            .process_group(0);
        let child = command.spawn()?;
        if !self.listeners.is_empty() {
            handover::send(&ours, &self.listeners)?;
        }
        tracing::info!(pid = child.id(), "{} started", self.name);
        self.starts.push_back(Instant::now());
        self.child = Some(child);
        self.tie = Some(ours);
        Ok(())
    }

    /// Waits for the child to die, and starts it anew. Never returns; safe to drop.
    pub(crate) async fn keep_going(&mut self) {
        loop {
            if let Some(child) = &mut self.child {
                let ended = child.wait().await;
                self.child = None;
                tracing::error!(status = %told(ended), "{} ended", self.name);
            }
            let now = Instant::now();
            while self.starts.front().is_some_and(|at| now.duration_since(*at) > MINUTE) {
                self.starts.pop_front();
            }
            tokio::time::sleep(pause(self.starts.len())).await;
            if let Err(error) = self.start() {
                tracing::error!(%error, "{} could not be started", self.name);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// SIGTERM, and wait; SIGKILL after `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) {
        let Some(child) = &mut self.child else { return };
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, Signal::TERM)
        {
            tracing::warn!(%error, "{} could not be told to stop", self.name);
        }
        if tokio::time::timeout(grace, child.wait()).await.is_err() {
            tracing::warn!("{} did not stop in time and is killed", self.name);
            let _ = child.kill().await;
        }
    }
}

/// The program that runs now, even if its file was replaced meanwhile: parent and children are of
/// one version.
fn own_program() -> PathBuf {
    let same = |path: &PathBuf| {
        let [now, then] = [path.metadata().ok()?, std::fs::metadata(SELF).ok()?];
        Some(now.ino() == then.ino() && now.dev() == then.dev())
    };
    let path = std::env::current_exe().ok().filter(|path| same(path) == Some(true));
    path.unwrap_or_else(|| SELF.into())
}

fn told(ended: std::io::Result<ExitStatus>) -> String {
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
