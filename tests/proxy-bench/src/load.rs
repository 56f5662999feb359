//! Load by other people's programs: `wrk` for HTTP/1.1, `h2load` for HTTP/2, both on the CPU of
//! the load.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{CONNECTIONS, HOST};

/// What a round of load came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
}

/// As much as 64 connections get.
pub(crate) fn wrk(to: SocketAddr, path: &str, close: bool, time: Duration) -> Result<Load> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", time.as_secs())]);
    wrk.args(["-H", &format!("Host: {HOST}")]);
    if close {
        wrk.args(["-H", "Connection: close"]);
    }
    let said = run(wrk.arg(format!("http://{to}{path}")))?;
    for trouble in ["Non-2xx", "Socket errors"] {
        if let Some(line) = said.lines().find(|line| line.contains(trouble)) {
            bail!("wrk: {}", line.trim());
        }
    }
    let requests = number(&said, |line| line.trim().split_once(" requests in "))?;
    let per_second = number(&said, |line| Some((line.strip_prefix("Requests/sec:")?.trim(), "")))?;
    Ok(Load { requests: requests as u64, per_second })
}

/// 64 requests at once over 8 connections.
pub(crate) fn h2load(to: SocketAddr, path: &str, time: Duration) -> Result<Load> {
    let mut h2load = Command::new("h2load");
    h2load.args(["-t1", "-c8", "-m8", "-D", &time.as_secs().to_string(), "--connect-to"]);
    let url = format!("https://{HOST}:{}{path}", to.port());
    let said = run(h2load.arg(to.to_string()).arg(url))?;
    let protocol = said.lines().find_map(|line| line.strip_prefix("Application protocol: "));
    if protocol != Some("h2") {
        bail!("h2load: no HTTP/2: {said}");
    }
    let line = said.lines().find(|line| line.starts_with("status codes:"));
    let line = line.with_context(|| format!("h2load: {said}"))?;
    let counts: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [good, others @ ..] = counts.as_slice() else { bail!("h2load: {line}") };
    if *good == 0 || others.iter().any(|count| *count > 0) {
        bail!("h2load: {line}");
    }
    let per_second = number(&said, |line| {
        line.strip_prefix("finished in ")?.split_once(", ")?.1.split_once(" req/s")
    })?;
    Ok(Load { requests: *good, per_second })
}

fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| name.clone())?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        bail!("{name}: {}{said}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(said)
}

fn number<'a>(said: &'a str, find: impl Fn(&'a str) -> Option<(&'a str, &'a str)>) -> Result<f64> {
    let found = said.lines().find_map(|line| find(line)?.0.parse().ok());
    found.with_context(|| format!("not understood: {said}"))
}
