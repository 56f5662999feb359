//! `minid reload`: a new proxy takes the place of the one that runs, without a request noticing.

use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::status::processes::{ask_proxy, is_run, listener, parent_of};
use crate::output::{self, Fault};
use crate::settings::Settings;

/// Longer than the new proxy has.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn run(settings: Settings) -> Result<ExitCode, Fault> {
    let Some(Some(old)) = listener(&settings.proxy_sockets.live("control.sock")).await else {
        return Err(Fault::new("no proxy runs on this data folder")
            .hint("`minid status` says what runs; --data-dir names another folder"));
    };
    // Under `minid run` it is the parent that holds the sockets.
    let whom = parent_of(old).filter(|parent| is_run(*parent)).unwrap_or(old);
    let pid = i32::try_from(whom).ok().and_then(Pid::from_raw);
    let sent = pid.map_or(Err(Errno::SRCH), |pid| kill_process(pid, Signal::HUP));
    sent.map_err(|error| {
        let fault = Fault::new(format!("process {whom} cannot be told to reload: {error}"));
        if error == Errno::PERM {
            fault.hint("do it as root, or as the user it runs as")
        } else {
            fault
        }
    })?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let socket = settings.proxy_sockets.live("control.sock");
        match listener(&socket).await.flatten() {
            Some(new) if new != old => {
                let version = ask_proxy(&socket).await.map(|status| status.version);
                let version = version.map(|v| format!(", version {v}")).unwrap_or_default();
                output::line(&format!(
                    "reloaded: the proxy is process {new}{version}; process {old} finishes its requests"
                ));
                return Ok(ExitCode::SUCCESS);
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Err(Fault::new(format!("no new proxy has taken over; process {old} goes on"))
        .hint("`minid status` shows the last errors"))
}
