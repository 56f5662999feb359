//! Asking the targets how they are.
//!
//! A probe answers for one start of one instance at one address: a restarted instance is another
//! target and gets a probe of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use mini_core::control::Verdict;
use mini_core::route::{AppRoute, hosts_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::shared::{Shared, lock};
use crate::table::{Lasting, TargetState};

/// One try: CONTRACTS, "App contract".
const DEADLINE: Duration = Duration::from_secs(5);
/// Failures in a row that make a healthy target unhealthy.
const PATIENCE: u32 = 3;
/// How often a changed reason is told at most.
const TELL: Duration = Duration::from_secs(1);

/// What is asked.
struct Question {
    target: Arc<TargetState>,
    /// The path to get, and the name to get it from.
    http: Option<(String, String)>,
}

/// Begins to probe, or goes on if this is being asked already.
pub(crate) fn start(
    shared: &Arc<Shared>,
    target: &Arc<TargetState>,
    route: &AppRoute,
    lasting: &Arc<Lasting>,
) {
    let path = route.health.path.clone();
    let mut health = lock(&target.health);
    if health.probe.is_some() && health.path == path {
        return;
    }
    health.path.clone_from(&path);
    let host = hosts_of(route, &shared.domains).into_iter().next();
    let host = host.unwrap_or_else(|| route.app.to_string());
    let question = Question { target: Arc::clone(target), http: path.map(|path| (path, host)) };
    let task = tokio::spawn(watch(Arc::clone(shared), question, Arc::clone(lasting)));
    health.probe = Some(AbortOnDropHandle::new(task));
}

/// Ends the probing. What it found is forgotten: a target that comes back is news again.
pub(crate) fn stop(target: &TargetState) {
    let mut health = lock(&target.health);
    health.probe = None;
    health.verdict = None;
}

async fn watch(shared: Arc<Shared>, question: Question, lasting: Arc<Lasting>) {
    let target = &question.target;
    let begun = Instant::now();
    let mut failures = 0;
    let mut told_at: Option<Instant> = None;
    let http = question.http.is_some();
    loop {
        let verdict = match ask(&question).await {
            Ok(()) => Verdict::Healthy,
            Err(why) => Verdict::Unhealthy { why },
        };
        let healthy = {
            let mut health = lock(&target.health);
            let was_healthy = health.verdict == Some(Verdict::Healthy);
            let healthy = verdict == Verdict::Healthy;
            failures = if healthy { 0 } else { failures + 1 };
            let holds = !healthy && was_healthy && failures < PATIENCE;
            let same_kind = health.verdict.is_some() && healthy == was_healthy;
            let too_soon = same_kind && told_at.is_some_and(|t| t.elapsed() < TELL);
            if !holds && !too_soon && health.verdict.as_ref() != Some(&verdict) {
                told_at = Some(Instant::now());
                shared.tell_health(target, &verdict);
                health.verdict = Some(verdict);
            }
            healthy || holds
        };
        if healthy && failures == 0 && !target.proven.swap(true, SeqCst) {
            lasting.bump();
        }
        sleep(pause(http, healthy, begun.elapsed())).await;
    }
}

/// How long to wait for the next try.
///
/// A target that boots is asked often, most of all at first, since a deploy and every held
/// request wait for the answer.
fn pause(http: bool, healthy: bool, since_start: Duration) -> Duration {
    let ms = match (http, healthy) {
        (true, true) => 1000,
        (false, true) => 5000,
        (true, false) if since_start < Duration::from_secs(10) => 250,
        (true, false) => 1000,
        (false, false) if since_start < Duration::from_millis(200) => 5,
        (false, false) if since_start < Duration::from_secs(2) => 20,
        (false, false) => 200,
    };
    Duration::from_millis(ms)
}

/// Asks once; the error is a text for people.
async fn ask(question: &Question) -> Result<(), String> {
    let late = format!("no answer within {} s", DEADLINE.as_secs());
    match timeout(DEADLINE, try_once(question)).await {
        Ok(result) => result,
        Err(_) => Err(late),
    }
}

async fn try_once(question: &Question) -> Result<(), String> {
    let addr = question.target.spec.addr;
    let mut stream = TcpStream::connect(addr).await.map_err(|e| why(&e))?;
    let Some((path, host)) = &question.http else { return Ok(()) };
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mini-probe\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.map_err(|e| format!("GET {path}: {}", why(&e)))?;
    let status = read_status(&mut stream).await.map_err(|e| format!("GET {path} {e}"))?;
    // The app gets to write its answer to the end, so that a probe looks like any client.
    let _ = timeout(Duration::from_secs(1), discard(&mut stream)).await;
    match status {
        200..=399 => Ok(()),
        _ => Err(format!("GET {path} answered {status}")),
    }
}

/// Reads the status of the final answer, past any 1xx.
async fn read_status(stream: &mut TcpStream) -> Result<u16, String> {
    let mut head = Vec::new();
    let mut buf = [0; 2048];
    loop {
        let n = stream.read(&mut buf).await.map_err(|e| format!("failed: {}", why(&e)))?;
        if n == 0 {
            return Err("closed the connection without an answer".into());
        }
        head.extend_from_slice(&buf[..n]);
        while head.iter().take(64).any(|b| *b == b'\n') {
            let status = status_of(&head).ok_or("answered something that is not HTTP")?;
            if status >= 200 {
                return Ok(status);
            }
            let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else { break };
            head.drain(..end + 4);
        }
        if head.len() > 16 << 10 {
            return Err("answered something that is not HTTP".into());
        }
    }
}

/// `HTTP/1.1 200 OK` (RFC 9112 section 4).
fn status_of(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let digits = std::str::from_utf8(rest.get(2..5)?).ok()?;
    digits.parse().ok().filter(|s| (100..1000).contains(s))
}

async fn discard(stream: &mut TcpStream) -> io::Result<()> {
    let mut buf = [0; 8192];
    let mut left = 1 << 20;
    while left > 0 {
        match stream.read(&mut buf).await? {
            0 => break,
            n => left -= n.min(left),
        }
    }
    Ok(())
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".into(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no route to the instance".into()
        }
        io::ErrorKind::TimedOut => "the connection timed out".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 404\r\n"), Some(404));
        for bad in ["", "HTTP/1.1 2", "HTTP/2 200", "220 smtp ready", "HTTP/1.1 abc"] {
            assert_eq!(status_of(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_booting_target_is_asked_often_at_first() {
        let ms = |http, healthy, at| pause(http, healthy, Duration::from_millis(at)).as_millis();
        assert_eq!(
            [ms(false, false, 0), ms(false, false, 500), ms(false, false, 3000)],
            [5, 20, 200]
        );
        assert_eq!([ms(true, false, 0), ms(true, true, 0), ms(false, true, 0)], [250, 1000, 5000]);
    }
}
