//! The router's lines: fetched from the proxy that wrote them, into the apps' logs.
//!
//! Each proxy has a connection for this alone, to its own end: one that drains after a hand-over
//! still has lines, while the next one is already the controller's.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mini_core::control::{FromProxy, ToProxy};
use mini_core::name::AppName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::core::Core;
use crate::link;
use crate::logs::{Record, RouterLine};

/// How long after a connection broke the next one is tried.
const RETRY: Duration = Duration::from_secs(1);
/// More than a proxy sends at once, in bytes.
const MAX_BATCH: u64 = 16 << 20;
/// The proxy's hello names every target that serves.
const MAX_DOCUMENT: u64 = 16 << 20;

/// The proxies whose lines are being fetched, by process id.
#[derive(Default)]
pub(crate) struct RouterLines(Mutex<HashSet<u32>>);

impl RouterLines {
    fn followed(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches the lines of the proxy that is connected now, until it ends.
pub(crate) fn follow(core: &Arc<Core>, pid: u32) {
    if !core.router_lines.followed().insert(pid) {
        return;
    }
    let core = core.clone();
    tokio::spawn(async move {
        loop {
            let Err(why) = fetch(&core, pid).await;
            if core.link.proxy() != Some(pid) {
                break;
            }
            tracing::debug!(%why, "the requests' lines cannot be fetched; trying again");
            tokio::time::sleep(RETRY).await;
        }
        core.router_lines.followed().remove(&pid);
    });
}

/// Reads from one connection to its end.
async fn fetch(core: &Core, pid: u32) -> Result<std::convert::Infallible, String> {
    let mut stream = connect(core, ToProxy::FollowRequests, Some(pid)).await?;
    let broken = |error: std::io::Error| error.to_string();
    loop {
        let FromProxy::Requests { bytes, lost } = next(&mut stream).await? else {
            return Err("it said something else than lines".into());
        };
        if bytes > MAX_BATCH {
            return Err(format!("{bytes} bytes of lines at once are too many"));
        }
        let mut text = vec![0; bytes as usize];
        stream.read_exact(&mut text).await.map_err(broken)?;
        for (app, count) in lost {
            if core.link.knows(&app) {
                let text = format!("{count} lines lost");
                core.logs.append(&app, Record::platform("router", text)).await;
            }
        }
        for (app, lines) in by_app(&text) {
            if core.link.knows(&app) {
                core.logs.append_router(&app, lines).await;
            }
        }
        core.logs.flush().await;
        say(&mut stream, &ToProxy::Kept).await?;
    }
}

/// A connection to the proxy that has heard its hello, and then said what it is for.
pub(crate) async fn connect(
    core: &Core,
    purpose: ToProxy,
    pid: Option<u32>,
) -> Result<BufReader<UnixStream>, String> {
    let stream = link::connect(core.link.paths()).await.map_err(|error| error.to_string())?;
    let mut stream = BufReader::new(stream);
    match next(&mut stream).await? {
        FromProxy::Hello { pid: found, .. } if pid.is_none_or(|pid| pid == found) => {}
        FromProxy::Hello { .. } => return Err("another proxy is there".into()),
        _ => return Err("it said no hello".into()),
    }
    say(&mut stream, &purpose).await?;
    Ok(stream)
}

/// The next document. Its length is bounded, and what comes after it stays.
pub(crate) async fn next(stream: &mut BufReader<UnixStream>) -> Result<FromProxy, String> {
    let mut line = Vec::new();
    let mut bounded = (&mut *stream).take(MAX_DOCUMENT);
    bounded.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.last() != Some(&b'\n') {
        return Err("it closed the connection".into());
    }
    // Thousands of apps' counters take milliseconds.
    let parsed = tokio::task::spawn_blocking(move || serde_json::from_slice(&line)).await;
    let parsed = parsed.map_err(|error| error.to_string())?;
    parsed.map_err(|error| format!("it said what is no document: {error}"))
}

async fn say(stream: &mut BufReader<UnixStream>, document: &ToProxy) -> Result<(), String> {
    let mut line = serde_json::to_vec(document).map_err(|error| error.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|error| error.to_string())
}

/// Takes lines apart, `APP TAB NANOSECONDS TAB TEXT LF`; each app's in the order of their time, since
/// they come thread by thread. The process that sends them talks to strangers: what is no such line
/// is dropped.
fn by_app(batch: &[u8]) -> BTreeMap<AppName, Vec<RouterLine>> {
    let mut apps: BTreeMap<&str, Vec<RouterLine>> = BTreeMap::new();
    for line in batch.split(|b| *b == b'\n') {
        let is_plain = line.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'));
        let Some(line) = std::str::from_utf8(line).ok().filter(|_| is_plain) else { continue };
        let mut fields = line.splitn(3, '\t');
        let (Some(app), Some(at), Some(text)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let Ok(at_nanos) = at.parse() else { continue };
        apps.entry(app).or_default().push(RouterLine { at_nanos, text: text.to_owned() });
    }
    let named = apps.into_iter().filter_map(|(app, mut lines)| {
        lines.sort_by_key(|line| line.at_nanos);
        Some((app.parse().ok()?, lines))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_apart_by_app_and_in_order() {
        let batch = b"blue\t20\tat=info b\nred\t5\tat=info r\nblue\t10\tat=info a\n\
            blue\t7\nBLUE\t8\tx\n../etc\t9\tx\nblue\tx\ty\nblue\t9\tcolour \x1b[31m\n\nblue\t3\tcut";
        let apps = by_app(batch);
        let texts = |app: &str| -> Vec<&str> {
            apps[&app.parse::<AppName>().unwrap()].iter().map(|line| line.text.as_str()).collect()
        };
        assert_eq!(texts("blue"), ["cut", "at=info a", "at=info b"]);
        assert_eq!(texts("red"), ["at=info r"]);
        assert_eq!(apps.len(), 2, "{:?}", apps.keys());
    }
}
