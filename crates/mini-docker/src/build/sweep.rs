//! What a build that was fed with a tar leaves in BuildKit's cache and nothing can ever use again.
//!
//! BuildKit keeps the tar under an address made up for this one build, and beside it an unpacked
//! copy: twice the source, for every deploy, and engines before 23 collect nothing by themselves.
//! The layers of the build, which the next one does use, stay.

use std::time::Duration;

use mini_core::ports::RuntimeResult;
use serde_json::Value;

use crate::engine::{Docker, LOOK, MAKE};
use crate::raw::{self, Query};

const WHAT: &str = "the builder's cache";
/// How the description of a tar begins.
const CONTEXT: &str = "http url http://build-context-";
/// How that of its unpacked copy reads, and that of every COPY.
const COPY: &str = "fileop target";
/// The builder lets go of a build's records some time after its last word.
const WAITS: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(10)];

/// Sweeps after the builds that began at or after `since`, in the background; a failure costs
/// nothing but disk, and is only logged.
pub(crate) fn later(docker: Docker, since: jiff::Timestamp) {
    // Streams are dropped outside of a runtime too, at the very end of a process.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        for wait in WAITS {
            tokio::time::sleep(wait).await;
            match sweep(&docker, since).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the builder's cache was not swept"),
            }
        }
    });
}

/// Removes what may go; true if nothing is left that will.
async fn sweep(docker: &Docker, since: jiff::Timestamp) -> RuntimeResult<bool> {
    let raw = &docker.inner.raw;
    // Engines from 1.42 on look at nothing else then; older ones pass the word over.
    let query = Query::new(&["system", "df"]).with("type", "build-cache");
    let answer = raw.get(WHAT, query.target(), MAKE).await?;
    let mut lines = answer.lines(WHAT);
    let mut usage = Value::Null;
    if let Ok(Some(line)) = tokio::time::timeout(LOOK, lines.next()).await.unwrap_or(Ok(None)) {
        usage = serde_json::from_slice(&line).unwrap_or_default();
    }
    let (ids, busy) = leftovers(&usage, since);
    for id in ids {
        let filters = serde_json::json!({ "id": [id] }).to_string();
        let query = Query::new(&["build", "prune"]).with("all", "1").with("filters", &filters);
        let request = raw::request(http::Method::POST, query.target(), raw::empty());
        let pruned = tokio::time::timeout(MAKE, raw.send(WHAT, request)).await;
        if let Ok(answer) = pruned {
            answer?.checked(WHAT).await?;
        }
    }
    Ok(!busy)
}

/// The ids of tars and their copies, and whether some of them are in use still.
fn leftovers(usage: &Value, since: jiff::Timestamp) -> (Vec<String>, bool) {
    // From API 1.52 on it lies one deeper.
    let records = usage.get("BuildCache").filter(|records| records.is_array());
    let records = records.or_else(|| usage.pointer("/BuildCacheUsage/Items"));
    let fresh: Vec<&Value> = records
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|record| {
            let made = record.get("CreatedAt").and_then(Value::as_str);
            made.and_then(|made| made.parse::<jiff::Timestamp>().ok()).is_some_and(|t| t >= since)
        })
        .collect();
    let text = |record: &Value, key: &str| {
        record.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let flag = |record: &Value, key: &str| record.get(key) == Some(&Value::Bool(true));
    let size = |record: &Value| record.get("Size").and_then(Value::as_u64).unwrap_or(0);
    let contexts: Vec<&Value> = fresh
        .iter()
        .filter(|record| text(record, "Description").starts_with(CONTEXT))
        .copied()
        .collect();
    // A copy has no parent, is of no image, and is smaller than its tar by the tar's headers: all
    // that tells it from a layer, and a layer that is taken for one is only built again.
    let is_copy = |record: &&Value| {
        let has_parent = !text(record, "Parent").is_empty()
            || record.get("Parents").and_then(Value::as_array).is_some_and(|p| !p.is_empty());
        text(record, "Description") == COPY
            && !has_parent
            && !flag(record, "Shared")
            && contexts.iter().any(|tar| (size(tar) / 2..=size(tar)).contains(&size(record)))
    };
    let copies = fresh.iter().copied().filter(is_copy);
    let (busy, free): (Vec<&Value>, Vec<&Value>) =
        contexts.iter().copied().chain(copies).partition(|record| flag(record, "InUse"));
    (free.into_iter().map(|record| text(record, "ID")).collect(), !busy.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, description: &str, size: u64, more: Value) -> Value {
        let mut record = serde_json::json!({
            "ID": id, "Parent": "", "Type": "regular", "Description": description, "InUse": false,
            "Shared": false, "Size": size, "CreatedAt": "2026-11-23T20:01:26.577967485Z",
        });
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    }

    #[test]
    fn only_the_tar_and_its_copy_go() {
        let tar = "http url http://build-context-kx71z4gs20twd85jfef71kpnm";
        let none = serde_json::json!({});
        let records = vec![
            record("tar", tar, 1_154_830_848, none.clone()),
            record("copy", COPY, 1_154_827_729, none.clone()),
            record("layer", COPY, 1_153_433_600, serde_json::json!({"Parent": "base"})),
            record("image", COPY, 1_154_827_000, serde_json::json!({"Shared": true})),
            record("small", COPY, 100, none.clone()),
            record("run", "mount / from exec /bin/sh", 1_154_827_000, none.clone()),
            record("old", tar, 1, serde_json::json!({"CreatedAt": "2026-11-23T20:00:00Z"})),
        ];
        let since: jiff::Timestamp = "2026-11-23T20:01:00Z".parse().unwrap();
        let old = serde_json::json!({ "BuildCache": records });
        assert_eq!(leftovers(&old, since), (vec!["tar".into(), "copy".into()], false));
        let new = serde_json::json!({ "BuildCacheUsage": { "Items": records } });
        assert_eq!(leftovers(&new, since), leftovers(&old, since));
        let busy = serde_json::json!({
            "BuildCache": [record("tar", tar, 1, serde_json::json!({"InUse": true}))],
        });
        assert_eq!(leftovers(&busy, since), (vec![], true));
        assert_eq!(leftovers(&Value::Null, since), (vec![], false));
    }
}
