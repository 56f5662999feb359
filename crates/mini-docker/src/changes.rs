//! The engine's events about our instances, as a stream that never ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream;
use mini_core::ports::{Change, Items, RuntimeResult};

use crate::engine::{Docker, LOOK};
use crate::labels;
use crate::raw::{Lines, Query};

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// 20.10 answers before it subscribes: what happens in between is asked for again. The engine
/// keeps its last 256 events for that.
const OVERLAP: Duration = Duration::from_secs(2);

enum State {
    Away(Duration),
    Here(Lines),
}

pub(crate) fn changes(docker: Docker) -> Items<Change> {
    let first = State::Away(Duration::ZERO);
    Box::pin(stream::unfold((docker, first), |(docker, state)| async move {
        let (change, state) = step(&docker, state).await;
        Some((change, (docker, state)))
    }))
}

/// The next change, and where the stream then stands.
async fn step(docker: &Docker, state: State) -> (Change, State) {
    match state {
        State::Away(wait) => {
            tokio::time::sleep(wait).await;
            match subscribe(docker).await {
                Ok(lines) => (Change::Connected, State::Here(lines)),
                Err(error) => {
                    let next = (wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
                    (Change::Lost(error.message), State::Away(next))
                }
            }
        }
        State::Here(mut lines) => loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    if let Some(change) = read(&line) {
                        return (change, State::Here(lines));
                    }
                }
                Ok(None) => {
                    let why = "the engine ended its events".to_owned();
                    return (Change::Lost(why), State::Away(FIRST_WAIT));
                }
                Err(error) => return (Change::Lost(error.message), State::Away(FIRST_WAIT)),
            }
        },
    }
}

async fn subscribe(docker: &Docker) -> RuntimeResult<Lines> {
    let what = "the engine's events";
    let mut filters = labels::filters(docker.server(), labels::KIND_INSTANCE, &[]);
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    let events = ["create", "start", "die", "oom", "destroy", "pause", "unpause"];
    filters.insert("event".to_owned(), events.map(str::to_owned).to_vec());
    let filters = serde_json::json!(filters).to_string();
    let since = SystemTime::now()
        .checked_sub(OVERLAP)
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    let since = format!("{}.{:09}", since.as_secs(), since.subsec_nanos());
    let query = Query::new(&["events"]).with("filters", &filters).with("since", &since);
    Ok(docker.inner.raw.get(what, query.target(), LOOK).await?.lines(what))
}

/// The instance that an event is about.
fn read(line: &[u8]) -> Option<Change> {
    let event: serde_json::Value = serde_json::from_slice(line).ok()?;
    let id = event.pointer("/Actor/Attributes")?.get(labels::INSTANCE)?.as_str()?;
    id.parse().ok().map(Change::Instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_its_instance_and_anything_else_is_passed_over() {
        let line =
            br#"{"status":"die","id":"c","Type":"container","Action":"die","Actor":{"ID":"c",
            "Attributes":{"exitCode":"1","mini.instance":"i1"}},"time":1,"timeNano":1}"#;
        assert_eq!(read(line), Some(Change::Instance("i1".parse().unwrap())));
        assert_eq!(read(br#"{"Actor":{"Attributes":{"mini.instance":"NOT AN ID"}}}"#), None);
        assert_eq!(read(b"{"), None);
    }
}
