//! When to order, when to try again, when to renew. Pure: chance comes in as a number from 0 to 1.

use std::time::Duration;

use mini_core::time::Millis;

use super::names;

/// The second wait is five times the first, and so on: with two ways tried the first time and one
/// each time after, Let's Encrypt's five failed validations of a name in an hour are not passed.
const FACTOR: u64 = 5;
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// After a refusal for a limit that does not say until when.
const LIMITED: Duration = Duration::from_secs(3600);
/// After trouble that is not the name's: the authority, or the way to it, may be back soon.
const LONGEST_WAIT_IN_TROUBLE: Duration = Duration::from_secs(3600);
/// Between two looks at the authority's suggestion, whatever it says (RFC 9773 section 4.3.2).
const CHECK_AT_LEAST: Duration = Duration::from_secs(3600);
const CHECK_AT_MOST: Duration = Duration::from_secs(24 * 3600);
/// How much slower names of a shared service are tried again: their failures are others' too.
const SHARED_SLOWER: u32 = 15;

/// A way to prove that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// HTTP-01 (RFC 8555 section 8.3): a file over http, at port 80.
    Http,
    /// TLS-ALPN-01 (RFC 8737): a handshake at port 443.
    Tls,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http-01",
            Self::Tls => "tls-alpn-01",
        }
    }
}

/// The ways to try now, after `failed` orders of this name failed. The first time both; then one
/// at a time in turn, since the authority counts each validation that fails.
pub(crate) fn ways(failed: u32, http: bool, https: bool) -> Vec<Way> {
    match (http, https) {
        (true, true) if failed == 0 => vec![Way::Http, Way::Tls],
        (true, true) if failed % 2 == 1 => vec![Way::Http],
        (false, true) | (true, true) => vec![Way::Tls],
        (true, false) => vec![Way::Http],
        (false, false) => Vec::new(),
    }
}

/// How long to wait after the `failed`th failure in a row (from 1): `first`, five times that, …,
/// at most a day; up to a fifth longer, so that names do not come together.
pub(crate) fn wait(failed: u32, first: Duration, chance: f64) -> Duration {
    let times = FACTOR.saturating_pow(failed.saturating_sub(1).min(20));
    let wait = first.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX)).min(LONGEST_WAIT);
    wait.mul_f64(1.0 + 0.2 * chance.clamp(0.0, 1.0))
}

/// The same for a name, by what the failure was about.
pub(crate) fn wait_for(
    name: &str,
    failed: u32,
    first: Duration,
    trouble: bool,
    chance: f64,
) -> Duration {
    if trouble {
        return wait(failed, first, chance).min(LONGEST_WAIT_IN_TROUBLE.max(first));
    }
    let slower = if names::shared(name).is_some() { SHARED_SLOWER } else { 1 };
    wait(failed, first.saturating_mul(slower), chance)
}

/// When the authority is asked again what it suggests.
pub(crate) fn check_after(said: Duration) -> Duration {
    said.clamp(CHECK_AT_LEAST, CHECK_AT_MOST)
}

/// Whom a refusal for a limit concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Limited {
    /// This name, or names that the authority counts with it.
    Name,
    /// Every name of a shared service.
    Service(&'static str),
    /// Every order of this account.
    All,
}

/// Reads a `rateLimited` problem (RFC 8555 section 6.6). Its detail is for people, so what is not
/// recognised concerns the name alone.
pub(crate) fn limited(name: &str, detail: &str) -> Limited {
    let detail = detail.to_ascii_lowercase();
    let of_account = ["too many new orders", "too many registrations", "too many accounts"];
    if of_account.into_iter().any(|text| detail.contains(text)) {
        return Limited::All;
    }
    match names::shared(name) {
        Some(service) => Limited::Service(service),
        None => Limited::Name,
    }
}

/// Until when a refusal for a limit holds: what the authority says, and not less than a minute.
pub(crate) fn limited_for(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or(LIMITED).max(Duration::from_secs(60))
}

/// When a certificate is renewed: at a moment of the window that the authority suggests (RFC 9773
/// section 4.2), but before it ends; without a window, at two thirds of its life or a little later.
pub(crate) fn renew_at(
    (not_before, not_after): (Millis, Millis),
    window: Option<(Millis, Millis)>,
    chance: f64,
) -> Millis {
    let within = |start: Millis, length: u64| {
        Millis(start.0.saturating_add((length as f64 * chance.clamp(0.0, 1.0)) as u64))
    };
    match window {
        Some((start, end)) if end >= start => within(start, end.0 - start.0).min(not_after),
        _ => {
            let life = not_after.0.saturating_sub(not_before.0);
            within(Millis(not_before.0.saturating_add(life / 3 * 2)), life / 50)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: u64 = 24 * 3600 * 1000;

    #[test]
    fn waits_grow_to_a_day() {
        let minutes = |failed| wait(failed, MINUTE, 0.0).as_secs() / 60;
        let found: Vec<u64> = (1..=7).map(minutes).collect();
        assert_eq!(found, [1, 5, 25, 125, 625, 1440, 1440]);
        assert_eq!(wait(u32::MAX, MINUTE, 1.0), LONGEST_WAIT.mul_f64(1.2));
    }

    #[test]
    fn a_name_that_fails_has_five_failed_validations_in_its_first_hour_at_most() {
        let (mut at, mut failed, mut validations) = (Duration::ZERO, 0, 0);
        while at <= Duration::from_secs(3600) {
            validations += ways(failed, true, true).len();
            failed += 1;
            at += wait(failed, MINUTE, 0.0);
        }
        assert_eq!(validations, 5);
    }

    #[test]
    fn only_ways_that_are_served_are_tried() {
        assert_eq!(ways(0, true, true), [Way::Http, Way::Tls]);
        assert_eq!((ways(1, true, true), ways(2, true, true)), (vec![Way::Http], vec![Way::Tls]));
        assert_eq!((ways(0, true, false), ways(3, false, true)), (vec![Way::Http], vec![Way::Tls]));
        assert!(ways(0, false, false).is_empty());
    }

    #[test]
    fn a_limit_concerns_those_that_it_counts() {
        let week = "too many certificates (50) already issued for \"nip.io\" in the last 168h0m0s";
        assert_eq!(limited("a.1.2.3.4.nip.io", week), Limited::Service("nip.io"));
        assert_eq!(limited("a.example.com", week), Limited::Name);
        let orders = "too many new orders (300) from this account in the last 3h0m0s";
        assert_eq!(limited("a.example.com", orders), Limited::All);
        assert_eq!(limited_for(None), LIMITED);
        assert_eq!(limited_for(Some(Duration::ZERO)), MINUTE);
        assert_eq!(limited_for(Some(Duration::from_secs(90_000))).as_secs(), 90_000);
    }

    #[test]
    fn renewal_is_at_two_thirds_of_life_or_inside_the_window() {
        let life = (Millis(0), Millis(90 * DAY));
        assert_eq!(renew_at(life, None, 0.0), Millis(60 * DAY));
        assert!(renew_at(life, None, 1.0) < Millis(62 * DAY));
        let window = Some((Millis(50 * DAY), Millis(52 * DAY)));
        assert_eq!(renew_at(life, window, 0.5), Millis(51 * DAY));
        let past = Some((Millis(1), Millis(2)));
        assert!(renew_at(life, past, 0.9) <= Millis(2), "a window that is over is at once");
        let late = Some((Millis(100 * DAY), Millis(110 * DAY)));
        assert_eq!(renew_at(life, late, 0.5), life.1, "never after its end");
        let bad = Some((Millis(5), Millis(4)));
        assert_eq!(renew_at(life, bad, 0.0), Millis(60 * DAY));
    }
}
