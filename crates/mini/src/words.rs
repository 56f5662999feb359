//! Durations and times as users write and read them.

use jiff::{SignedDuration, Timestamp};

/// `90s`, `10m`, `3h`, `30d`, `2w`, `1y`: a whole number and one unit.
pub(crate) fn duration(text: &str) -> Result<SignedDuration, String> {
    let seconds = i64::try_from(mini_core::time::seconds(text)?).map_err(|e| e.to_string())?;
    Ok(SignedDuration::from_secs(seconds))
}

/// A point in time: RFC 3339, or a duration back from `now`.
pub(crate) fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let back = duration(text)
        .map_err(|_| format!("{text:?} is neither a duration such as 10m nor an RFC 3339 time"))?;
    now.checked_sub(back).map_err(|_| format!("{text:?} is too long ago"))
}

/// `3 min ago`.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    match now.duration_since(at).as_secs() {
        ..2 => "just now".to_owned(),
        _ => format!("{} ago", time_since(at, now)),
    }
}

/// `3 min`.
pub(crate) fn time_since(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        ..100 => format!("{seconds} s"),
        100..5400 => format!("{} min", (seconds + 30) / 60),
        5400..129_600 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} d", (seconds + 43_200) / 86_400),
    }
}

/// `2026-11-23T09:30:00.123456+00:00`: how log lines begin.
pub(crate) fn log_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        assert_eq!(duration("10m"), Ok(SignedDuration::from_secs(600)));
        assert_eq!(duration("1y"), Ok(SignedDuration::from_secs(365 * 86_400)));
        assert_eq!(duration("30d"), Ok(SignedDuration::from_secs(30 * 86_400)));
        for bad in ["", "10", "m", "-1m", "1.5h", "10 m", "99999999999999999999s", "9999999w"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn since_is_a_time_or_a_way_back() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        assert_eq!(since("90s", now).unwrap().to_string(), "2026-11-23T09:58:30Z");
        assert_eq!(
            since("2026-11-23T09:00:00+02:00", now).unwrap().to_string(),
            "2026-11-23T07:00:00Z"
        );
        assert!(since("yesterday", now).is_err());
    }

    #[test]
    fn log_times_have_six_digits_and_an_offset() {
        let at: Timestamp = "2026-11-23T09:30:00.1Z".parse().unwrap();
        assert_eq!(log_time(at), "2026-11-23T09:30:00.100000+00:00");
    }
}
