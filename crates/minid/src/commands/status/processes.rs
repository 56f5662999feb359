//! The processes: who listens at their sockets, as the kernel says, and whether they answer.

use std::path::Path;
use std::time::Duration;

use mini_core::control::{FromProxy, ProxyStatus, ToProxy};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Process, ProcessState};
use crate::admin;
use crate::settings::Settings;

const DEADLINE: Duration = Duration::from_secs(2);
/// The proxy's hello names every target that serves.
const MAX_LINE: u64 = 16 << 20;

/// The three processes, and what proxy and controller say of themselves.
pub(super) async fn look(
    settings: &Settings,
) -> (Vec<Process>, Option<ProxyStatus>, Option<mini_api::Server>) {
    let admin_socket = settings.sockets.live("admin.sock");
    let control_socket = settings.proxy_sockets.live("control.sock");
    let (controller_pid, proxy_pid) =
        tokio::join!(listener(&admin_socket), listener(&control_socket));
    let (server, proxy) = tokio::join!(
        tokio::time::timeout(DEADLINE, admin::server(&admin_socket)),
        tokio::time::timeout(DEADLINE, ask_proxy(&control_socket)),
    );
    let (server, proxy) = (server.ok().flatten(), proxy.ok().flatten());
    let version = server.as_ref().map(|s| s.version.clone());
    let controller = process("controller", controller_pid, version);
    let version = proxy.as_ref().map(|p| p.version.clone());
    let proxy_process = process("proxy", proxy_pid, version);
    let parents = [controller.pid, proxy_process.pid].into_iter().flatten();
    let parent = parents.filter_map(parent_of).find(|pid| is_run(*pid));
    let mut all = Vec::new();
    if let Some(pid) = parent {
        // It has nobody to ask. After a reload the proxy may be newer than it.
        all.push(Process {
            name: "run",
            state: ProcessState::Up,
            pid: Some(pid),
            uptime_seconds: uptime(pid),
            version: None,
        });
    }
    all.extend([controller, proxy_process]);
    (all, proxy, server)
}

/// Who listens at a socket; the outer `None` is nobody.
pub(crate) async fn listener(socket: &Path) -> Option<Option<u32>> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    Some(pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
}

fn process(name: &'static str, pid: Option<Option<u32>>, version: Option<String>) -> Process {
    let state = match (pid, &version) {
        (None, _) => ProcessState::Down,
        (Some(_), None) => ProcessState::Silent,
        (Some(_), Some(_)) => ProcessState::Up,
    };
    let pid = pid.flatten();
    Process { name, state, pid, uptime_seconds: pid.and_then(uptime), version }
}

pub(in crate::commands) async fn ask_proxy(socket: &Path) -> Option<ProxyStatus> {
    let (reader, mut writer) = UnixStream::connect(socket).await.ok()?.into_split();
    let mut ask = serde_json::to_vec(&ToProxy::Status).ok()?;
    ask.push(b'\n');
    writer.write_all(&ask).await.ok()?;
    let mut lines = BufReader::new(reader.take(MAX_LINE)).lines();
    while let Some(line) = lines.next_line().await.ok()? {
        if let Ok(FromProxy::Status(status)) = serde_json::from_str(&line) {
            return Some(status);
        }
    }
    None
}

/// The fields of `/proc/PID/stat` from the third on: the name before them may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

pub(in crate::commands) fn parent_of(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

pub(in crate::commands) fn is_run(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"run")
}

/// In seconds. The kernel counts a process's start in hundredths since the boot (proc_pid_stat(5),
/// field 22; USER_HZ is 100 on every architecture that we run on).
fn uptime(pid: u32) -> Option<u64> {
    let started: u64 = stat(pid)?.get(19)?.parse().ok()?;
    let now = std::fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = now.split(' ').next()?.parse().ok()?;
    Some((now - started as f64 / 100.0).max(0.0) as u64)
}
