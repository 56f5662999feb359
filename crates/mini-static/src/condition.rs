//! Conditional requests (RFC 9110 section 13).

use std::time::SystemTime;

use http::HeaderMap;
use http::header::{
    HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
};

use crate::validator::Validators;

/// What a request's conditions ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send the file.
    Send,
    /// 304: the client has it.
    NotModified,
    /// 412: the client asked for another version.
    Failed,
}

/// Weighs the conditions in the order of RFC 9110 section 13.2.2.
///
/// `If-Modified-Since` is met only by the very date that was sent out: after a rollback a file
/// may be older than the client's copy and still differ from it.
pub(crate) fn weigh(headers: &HeaderMap, current: &Validators) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !names_tag(headers, IF_MATCH, |tag| tag == current.etag) {
            return Verdict::Failed;
        }
    } else if let (Some(since), Some(modified)) =
        (date(headers, IF_UNMODIFIED_SINCE), current.modified)
        && modified > since
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        // A weak comparison (section 13.1.2): caches that compress on the way mark tags as weak.
        let same = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == current.etag;
        if names_tag(headers, IF_NONE_MATCH, same) {
            return Verdict::NotModified;
        }
    } else if let Some(since) = date(headers, IF_MODIFIED_SINCE)
        && current.modified == Some(since)
    {
        return Verdict::NotModified;
    }
    Verdict::Send
}

/// Whether `If-Range` (section 13.1.5), if there is one, still names the current file.
pub(crate) fn range_applies(headers: &HeaderMap, current: &Validators) -> bool {
    let Some(value) = headers.get(IF_RANGE) else { return true };
    match value.to_str() {
        Ok(tag) if tag.contains('"') => tag.trim() == current.etag,
        Ok(_) => date(headers, IF_RANGE).is_some_and(|since| current.modified == Some(since)),
        Err(_) => false,
    }
}

/// Whether a list of entity tags is `*` or has one that `same` accepts. Our own tags have no
/// comma in them, so splitting at commas is exact enough for others'.
fn names_tag(headers: &HeaderMap, name: HeaderName, same: impl Fn(&str) -> bool) -> bool {
    let values = headers.get_all(name);
    let mut tags = values
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    tags.any(|tag| tag == "*" || same(tag))
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn verdict(pairs: &[(HeaderName, &str)]) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        weigh(&headers, &Validators { etag: "\"abc\"".into(), modified: Some(modified) })
    }

    const THAT: &str = "Sun, 09 Sep 2001 01:46:40 GMT";
    const LATER: &str = "Sun, 09 Sep 2001 01:46:41 GMT";
    const EARLIER: &str = "Sun, 09 Sep 2001 01:46:39 GMT";

    #[test]
    fn tags_come_before_dates() {
        assert_eq!(verdict(&[(IF_NONE_MATCH, "\"x\", W/\"abc\"")]), Verdict::NotModified);
        assert_eq!(verdict(&[(IF_NONE_MATCH, "*")]), Verdict::NotModified);
        assert_eq!(verdict(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, THAT)]), Verdict::Send);
        assert_eq!(verdict(&[(IF_MATCH, "\"x\"")]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_MATCH, "W/\"abc\"")]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_MATCH, "\"abc\"")]), Verdict::Send);
    }

    #[test]
    fn only_the_very_date_means_unchanged() {
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, THAT)]), Verdict::NotModified);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, LATER)]), Verdict::Send);
        assert_eq!(verdict(&[(IF_MODIFIED_SINCE, "yesterday")]), Verdict::Send);
        assert_eq!(verdict(&[(IF_UNMODIFIED_SINCE, EARLIER)]), Verdict::Failed);
        assert_eq!(verdict(&[(IF_UNMODIFIED_SINCE, THAT)]), Verdict::Send);
    }
}
