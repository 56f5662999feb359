//! Byte ranges (RFC 9110 section 14).

use http::HeaderMap;
use http::header::RANGE;

/// Which part of a file a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, several ranges, or one that cannot be read (ignored, section 14.2).
    Whole,
    /// From the first to the last byte, both included, both inside the file.
    Part(u64, u64),
    /// No byte of the range exists: 416.
    Outside,
}

/// Reads `Range` for a file of `length` bytes. One range is served; a request for several gets
/// the whole file, which the section allows.
pub(crate) fn wanted(headers: &HeaderMap, length: u64) -> Wanted {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Wanted::Whole };
    let Some(spec) = value.to_str().ok().and_then(|text| {
        let (unit, set) = text.split_once('=')?;
        unit.trim().eq_ignore_ascii_case("bytes").then_some(set.trim())
    }) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => part(first, last, length),
        (Some(first), None) if last.is_empty() => part(first, u64::MAX, length),
        (None, Some(count)) if first.is_empty() => {
            if count == 0 {
                Wanted::Outside
            } else {
                part(length.saturating_sub(count), u64::MAX, length)
            }
        }
        _ => Wanted::Whole,
    }
}

fn part(first: u64, last: u64, length: u64) -> Wanted {
    if first < length { Wanted::Part(first, last.min(length - 1)) } else { Wanted::Outside }
}

/// Digits only; more than 64 bits hold is as good as the end of any file.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_cut_to_the_file() {
        let of = |value: &str, length| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, value.parse().unwrap());
            wanted(&headers, length)
        };
        assert_eq!(of("bytes=0-0", 10), Wanted::Part(0, 0));
        assert_eq!(of("bytes=3-", 10), Wanted::Part(3, 9));
        assert_eq!(of("Bytes=3-99999999999999999999999", 10), Wanted::Part(3, 9));
        assert_eq!(of("bytes=-4", 10), Wanted::Part(6, 9));
        assert_eq!(of("bytes=-40", 10), Wanted::Part(0, 9));
        for outside in ["bytes=10-", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(of(outside, 10), Wanted::Outside, "{outside}");
        }
        assert_eq!(of("bytes=0-", 0), Wanted::Outside);
        assert_eq!(of("bytes=-1", 0), Wanted::Outside);
        for ignored in ["bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2", "bytes=", "0-1"] {
            assert_eq!(of(ignored, 10), Wanted::Whole, "{ignored}");
        }
    }
}
