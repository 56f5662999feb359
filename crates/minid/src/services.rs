//! The two services, as systemd runs them (`packaging/systemd`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use crate::commands::status::processes::listener;
use crate::output::Fault;
use crate::settings::Settings;

const CONTROLLER: &str = "mini-controller.service";
const PROXY: &str = "mini-proxy.service";
/// There is one where systemd is process 1 (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const LOOK: Duration = Duration::from_millis(50);
/// Lines of a service's log.
const LAST_WORDS: &str = "6";

pub(crate) struct Services<'a> {
    pub(crate) settings: &'a Settings,
}

impl Services<'_> {
    /// The units are there, whatever state they are in.
    pub(crate) async fn check(&self) -> Result<(), Fault> {
        let by_hand = "without the installer's units put the new programs in the old ones' place \
                       and restart";
        if !Path::new(BOOTED).exists() {
            return Err(Fault::new("systemd does not run here").hint(by_hand));
        }
        for unit in [CONTROLLER, PROXY] {
            systemctl(&["cat", unit]).await.map_err(|fault| fault.hint(by_hand))?;
        }
        Ok(())
    }

    pub(crate) async fn restart_controller(&self) -> Result<(), Fault> {
        // One that failed too often would not be started again.
        systemctl(&["reset-failed", CONTROLLER]).await?;
        systemctl(&["restart", CONTROLLER]).await
    }

    /// Both, and the sockets stay open: what arrives meanwhile waits.
    pub(crate) async fn stop(&self) -> Result<(), Fault> {
        systemctl(&["stop", CONTROLLER, PROXY]).await
    }

    pub(crate) async fn start(&self) -> Result<(), Fault> {
        systemctl(&["reset-failed", CONTROLLER, PROXY]).await?;
        systemctl(&["start", PROXY, CONTROLLER]).await
    }

    pub(crate) async fn stop_controller(&self) -> Result<(), Fault> {
        systemctl(&["stop", CONTROLLER]).await
    }

    /// Hands the sockets of the proxy that runs to a new one of the current release.
    pub(crate) async fn reload_proxy(&self) -> Result<(), Fault> {
        systemctl(&["reload-or-restart", PROXY]).await
    }

    /// Waits until the controller that answers is one of the release in `folder`.
    pub(crate) async fn controller_of(&self, folder: &Path, until: Instant) -> Result<(), String> {
        loop {
            let socket = self.settings.sockets.live("admin.sock");
            let program = listening(&socket).await;
            if program.as_deref().is_some_and(|p| p.starts_with(folder))
                && crate::admin::server(&socket).await.is_some()
            {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(why_not(CONTROLLER, program.as_deref()).await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn proxy_of(&self, folder: &Path, until: Instant) -> Result<(), String> {
        loop {
            let program = listening(&self.settings.proxy_sockets.live("control.sock")).await;
            if program.as_deref().is_some_and(|p| p.starts_with(folder)) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(why_not(PROXY, program.as_deref()).await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether the proxy that runs is one of the release in `folder`.
    pub(crate) async fn has_proxy_of(&self, folder: &Path) -> bool {
        let program = listening(&self.settings.proxy_sockets.live("control.sock")).await;
        program.is_some_and(|program| program.starts_with(folder))
    }
}

/// The program of the process that listens at a socket.
async fn listening(socket: &Path) -> Option<PathBuf> {
    let pid = listener(socket).await.flatten()?;
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Why a service does not answer as the new release: the last that it said.
async fn why_not(unit: &str, found: Option<&Path>) -> String {
    let what = match found {
        Some(program) => format!("{unit} is still {}", program.display()),
        None => format!("{unit} does not answer"),
    };
    match last_words(unit).await {
        Some(words) => format!("{what}; the last that it said:\n{words}"),
        None => what,
    }
}

async fn last_words(unit: &str) -> Option<String> {
    let mut command = Command::new("journalctl");
    command.args(["--unit", unit, "--lines", LAST_WORDS, "--output", "cat", "--no-pager"]);
    let said = command.stdin(std::process::Stdio::null()).output().await.ok()?;
    let lines = String::from_utf8_lossy(&said.stdout);
    let lines: Vec<String> = lines.lines().map(|line| format!("  {line}")).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

async fn systemctl(arguments: &[&str]) -> Result<(), Fault> {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(std::process::Stdio::null());
    let said = command
        .output()
        .await
        .map_err(|error| Fault::new(format!("systemctl cannot be started: {error}")))?;
    if said.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&said.stderr);
    Err(Fault::new(format!("systemctl {}: {}", arguments.join(" "), why.trim())))
}
