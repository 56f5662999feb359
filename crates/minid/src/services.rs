//! The two services, as systemd runs them (`packaging/systemd`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use crate::commands::status::processes::listener;
use crate::output::Fault;
use crate::settings::Settings;

pub(crate) const CONTROLLER: &str = "mini-controller.service";
const PROXY: &str = "mini-proxy.service";
/// There is one where systemd is process 1 (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const LOOK: Duration = Duration::from_millis(50);
const LOOK_AT_RESTARTS: Duration = Duration::from_secs(1);
/// So often a service may end before it is taken to do so always; its unit has half a second between.
const IN_VAIN: u32 = 5;
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

    /// Whether it stands then is seen by whoever waits for it: systemd tries one that ends again.
    pub(crate) async fn restart_controller(&self) -> Result<(), Fault> {
        // One that failed too often would not be started again; and what is counted are new failures.
        systemctl(&["reset-failed", CONTROLLER]).await?;
        let _ = systemctl(&["restart", CONTROLLER]).await;
        Ok(())
    }

    /// Both, and the sockets stay open: what arrives meanwhile waits.
    pub(crate) async fn stop(&self) -> Result<(), Fault> {
        systemctl(&["stop", CONTROLLER, PROXY]).await.map(drop)
    }

    pub(crate) async fn start(&self) -> Result<(), Fault> {
        systemctl(&["reset-failed", CONTROLLER, PROXY]).await?;
        systemctl(&["start", PROXY, CONTROLLER]).await.map(drop)
    }

    pub(crate) async fn stop_controller(&self) -> Result<(), Fault> {
        systemctl(&["stop", CONTROLLER]).await.map(drop)
    }

    /// Has systemd read the units again: what has changed holds from the next start of each.
    pub(crate) async fn reread_units(&self) -> Result<(), Fault> {
        systemctl(&["daemon-reload"]).await.map(drop)
    }

    pub(crate) async fn enable(&self, units: &[&str]) -> Result<(), Fault> {
        systemctl(&[&["enable"], units].concat()).await.map(drop)
    }

    /// Not at the next boot any more, and not now; whether they have stopped is not waited for.
    pub(crate) async fn disable(&self, units: &[&str]) -> Result<(), Fault> {
        systemctl(&[&["disable"], units].concat()).await?;
        systemctl(&[&["stop", "--no-block"], units].concat()).await.map(drop)
    }

    pub(crate) async fn is_active(&self, unit: &str) -> bool {
        systemctl(&["is-active", "--quiet", unit]).await.is_ok()
    }

    /// Whether a controller runs, of whatever release.
    pub(crate) async fn has_controller(&self) -> bool {
        listening(&self.settings.sockets.live("admin.sock")).await.is_some()
    }

    /// Hands the sockets of the proxy that runs to a new one of the current release.
    pub(crate) async fn reload_proxy(&self) -> Result<(), Fault> {
        systemctl(&["reload-or-restart", PROXY]).await.map(drop)
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

    /// Ends when the controller has ended again and again since it was restarted, and says so.
    pub(crate) async fn controller_fails(&self) -> String {
        loop {
            tokio::time::sleep(LOOK_AT_RESTARTS).await;
            if restarts(CONTROLLER).await.is_some_and(|times| times >= IN_VAIN) {
                return why_not(CONTROLLER, None).await;
            }
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

/// How often systemd has started a unit again by itself, since somebody did.
async fn restarts(unit: &str) -> Option<u32> {
    systemctl(&["show", "--property", "NRestarts", "--value", unit]).await.ok()?.trim().parse().ok()
}

/// What it printed.
async fn systemctl(arguments: &[&str]) -> Result<String, Fault> {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(std::process::Stdio::null());
    let said = command
        .output()
        .await
        .map_err(|error| Fault::new(format!("systemctl cannot be started: {error}")))?;
    if said.status.success() {
        return Ok(String::from_utf8_lossy(&said.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&said.stderr);
    Err(Fault::new(format!("systemctl {}: {}", arguments.join(" "), why.trim())))
}
