//! The one place that reads the clock.

use jiff::Timestamp;
use mini_core::time::Millis;

pub(crate) fn now() -> Millis {
    Millis(Timestamp::now().as_millisecond().max(0) as u64)
}

pub(crate) fn now_nanos() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// For the wire. A time that no calendar holds becomes the epoch.
pub(crate) fn timestamp(at: Millis) -> Timestamp {
    i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
}

pub(crate) fn timestamp_nanos(at: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(at)).unwrap_or_default()
}
