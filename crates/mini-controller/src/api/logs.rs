//! The app's log, as a stream.

use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use mini_api::{LogItem, LogLine};
use serde::Deserialize;

use super::Api;
use super::body::{OfApp, Params};
use super::error::{ApiError, ApiResult};
use super::stream::{self, HEARTBEAT, Lines};
use crate::clock::timestamp_nanos;
use crate::logs::{Filter, Record};
use crate::store::AppRow;

const DEFAULT_LINES: usize = 100;
const MAX_LINES: usize = 100_000;

#[derive(Deserialize)]
pub(super) struct Wanted {
    n: Option<usize>,
    #[serde(default)]
    follow: bool,
    source: Option<String>,
    process: Option<String>,
    since: Option<Timestamp>,
    after: Option<u64>,
}

/// The last lines of an app's log, one JSON document a line; with `follow`, what comes too.
#[utoipa::path(
    get, path = "/v1/apps/{app}/logs",
    params(
        ("app" = String, Path), ("n" = Option<u32>, Query), ("follow" = Option<bool>, Query),
        ("source" = Option<String>, Query), ("process" = Option<String>, Query),
        ("since" = Option<String>, Query), ("after" = Option<u64>, Query)
    ),
    responses((status = 200, body = LogItem, content_type = "application/x-ndjson"))
)]
pub(super) async fn read(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Params(wanted): Params<Wanted>,
) -> ApiResult<Response> {
    if wanted.n.is_some_and(|n| n > MAX_LINES) {
        return Err(ApiError::invalid(format!("at most {MAX_LINES} lines at once")));
    }
    let since_nanos = wanted.since.map(|at| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX));
    let filter = Filter {
        source: wanted.source.clone(),
        process: wanted.process.clone(),
        since_nanos,
        instance: None,
    };
    Ok(stream::lines(move |lines| tell(api, app, wanted, filter, lines)))
}

async fn tell(
    api: Api,
    app: AppRow,
    wanted: Wanted,
    filter: Filter,
    mut lines: Lines,
) -> Result<(), stream::Gone> {
    // What the platform has just said must be there.
    api.core.logs.flush().await;
    let mut end = api.core.logs.end(&app.name);
    let upto = *end.borrow_and_update();
    let mut at = match wanted.after {
        Some(after) => after.min(upto),
        None => {
            let reader = api.core.logs.reader(&app.name);
            let n =
                wanted.n.unwrap_or(if wanted.since.is_some() { MAX_LINES } else { DEFAULT_LINES });
            // Only the place is looked for: the lines themselves are never in memory together.
            let filter = filter.clone();
            let looked =
                tokio::task::spawn_blocking(move || reader.before_last(n, &filter, upto)).await;
            looked.ok().and_then(Result::ok).unwrap_or(upto)
        }
    };
    loop {
        // Without following, what comes after the question is not part of the answer.
        while at < if wanted.follow { *end.borrow() } else { upto } {
            let reader = api.core.logs.reader(&app.name);
            let (filter, from) = (filter.clone(), at);
            let page = tokio::task::spawn_blocking(move || reader.after(from, &filter)).await;
            let Ok(Ok(page)) = page else { return Ok(()) };
            if page.missed > 0 {
                lines.push(&LogItem::Missed { bytes: page.missed });
            }
            for (number, record) in page.records {
                lines.push(&line(number, record));
            }
            lines.flush().await?;
            if page.next == at {
                break;
            }
            at = page.next;
        }
        if !wanted.follow {
            return Ok(());
        }
        match tokio::time::timeout(HEARTBEAT, end.changed()).await {
            Ok(Ok(())) => {
                end.borrow_and_update();
            }
            // The app is gone, and its log with it.
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                lines.push(&LogItem::Heartbeat);
                lines.flush().await?;
            }
        }
    }
}

fn line(number: u64, record: Record) -> LogItem {
    LogItem::Line(LogLine {
        number,
        at: timestamp_nanos(record.at_nanos),
        source: record.source,
        process: record.process,
        text: record.text,
    })
}
