//! How long requests took, counted in buckets: what proxy and controller both compute with.
//!
//! A time is counted in *ticks* of 1/1024 ms, in eight buckets for each power of two from 1/16 ms to
//! 65.536 s, so that a bucket is at most an eighth of its time wide and 1 ms, 2 ms, 4 ms, … are
//! bounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets of one power of two.
const PARTS: usize = 8;
/// Below 2^6 ticks (1/16 ms) the eight buckets are equally wide.
const FIRST: u32 = 6;
/// From 2^26 ticks (65.536 s) on there is one bucket for all.
const LAST: u32 = 26;
/// How many buckets there are.
pub const BUCKETS: usize = PARTS * ((LAST - FIRST) as usize + 1) + 1;

/// A bucket's number is a byte.
const _: () = assert!(BUCKETS <= 256);

/// The bucket that counts a time.
pub fn bucket(time: Duration) -> usize {
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    // 1024 / 1,000,000 in lowest terms.
    let ticks = nanos.saturating_mul(16) / 15_625;
    if ticks < 1 << FIRST {
        return (ticks >> (FIRST - 3)) as usize;
    }
    let power = ticks.ilog2();
    if power >= LAST {
        return BUCKETS - 1;
    }
    let part = (ticks >> (power - 3)) as usize & (PARTS - 1);
    PARTS * ((power - FIRST) as usize + 1) + part
}

/// The shortest time that a bucket counts, in milliseconds.
pub fn begins_ms(bucket: usize) -> f64 {
    let (octave, part) = (bucket / PARTS, bucket % PARTS);
    let ticks = match octave {
        0 => (part as u64) << (FIRST - 3),
        _ => ((PARTS + part) as u64) << (FIRST - 3 + (octave as u32 - 1)),
    };
    ticks as f64 / 1024.0
}

/// The bounds that are powers of two, 1/16 ms to 65.536 s: the first bucket that is not below the
/// bound, and the bound in milliseconds.
pub fn powers() -> impl Iterator<Item = (usize, f64)> {
    (1..=(LAST - FIRST + 1) as usize).map(|octave| (octave * PARTS, begins_ms(octave * PARTS)))
}

/// Counted times: buckets that counted something, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(Vec<(u8, u64)>);

impl Counts {
    /// From the count of every bucket.
    pub fn of(all: impl IntoIterator<Item = u64>) -> Self {
        let numbered = all.into_iter().take(BUCKETS).zip(0u8..);
        Self(numbered.filter(|(n, _)| *n > 0).map(|(n, bucket)| (bucket, n)).collect())
    }

    pub fn add(&mut self, other: &Counts) {
        let mut all = self.all();
        for (bucket, n) in &other.0 {
            if let Some(sum) = all.get_mut(usize::from(*bucket)) {
                *sum = sum.saturating_add(*n);
            }
        }
        *self = Self::of(all);
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Self {
        let mut all = self.all();
        for (bucket, n) in &earlier.0 {
            if let Some(sum) = all.get_mut(usize::from(*bucket)) {
                *sum = sum.saturating_sub(*n);
            }
        }
        Self::of(all)
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }

    /// How many were counted in the buckets before this one.
    pub fn below(&self, bucket: usize) -> u64 {
        self.0.iter().filter(|(b, _)| usize::from(*b) < bucket).map(|(_, n)| n).sum()
    }

    /// The time that `share` (0 to 1) of what was counted did not exceed, in milliseconds, to 10 %;
    /// none if nothing was counted.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let wanted = (share * total as f64).max(1.0);
        let mut below = 0.0;
        for (bucket, n) in &self.0 {
            let (bucket, n) = (usize::from(*bucket), *n as f64);
            if below + n >= wanted {
                let begins = begins_ms(bucket);
                // Nothing is known of how much longer than that the last bucket's took.
                let ends = if bucket + 1 < BUCKETS { begins_ms(bucket + 1) } else { begins };
                return Some(begins + (ends - begins) * ((wanted - below - 0.5) / n).max(0.0));
            }
            below += n;
        }
        None
    }

    fn all(&self) -> [u64; BUCKETS] {
        let mut all = [0; BUCKETS];
        for (bucket, n) in &self.0 {
            if let Some(count) = all.get_mut(usize::from(*bucket)) {
                *count = *n;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_the_bucket_that_holds_it() {
        let mut before = 0;
        for exponent in 0..2000 {
            let seconds = 1e-6 * 1.01f64.powi(exponent);
            let found = bucket(Duration::from_secs_f64(seconds));
            assert!(found == before || found == before + 1, "{seconds} s skips a bucket");
            before = found;
            let ms = seconds * 1000.0;
            assert!(begins_ms(found) <= ms * 1.0001, "{ms} ms in {found}");
            if found + 1 < BUCKETS {
                assert!(ms < begins_ms(found + 1) * 1.0001, "{ms} ms in {found}");
            }
        }
        assert_eq!(before, BUCKETS - 1);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket(Duration::ZERO), 0);
    }

    #[test]
    fn round_times_are_bounds() {
        let powers: Vec<_> = powers().collect();
        assert_eq!(powers.first(), Some(&(8, 0.0625)));
        assert_eq!(powers.last(), Some(&(BUCKETS - 1, 65_536.0)));
        for (index, ms) in powers {
            let exactly = Duration::from_secs_f64(ms / 1000.0);
            assert_eq!(bucket(exactly), index, "{ms} ms");
            assert_eq!(bucket(exactly - Duration::from_nanos(1000)), index - 1, "{ms} ms");
        }
    }

    #[test]
    fn quantiles_are_right_to_a_tenth() {
        // From 0.1 ms to 20 s, on a curve.
        let times: Vec<f64> = (0..10_000).map(|n| 0.1 * 1.00122f64.powi(n)).collect();
        let mut all = [0; BUCKETS];
        for ms in &times {
            all[bucket(Duration::from_secs_f64(ms / 1000.0))] += 1;
        }
        let counts = Counts::of(all);
        for share in [0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999] {
            let right = times[(share * times.len() as f64) as usize - 1];
            let found = counts.quantile_ms(share).unwrap();
            assert!((found / right - 1.0).abs() < 0.1, "{share}: {found} for {right}");
        }
        assert_eq!(Counts::default().quantile_ms(0.5), None);
    }

    #[test]
    fn one_time_alone_is_told_to_a_tenth() {
        for ms in [0.3, 1.0, 1.9, 8.1, 250.0, 30_000.0] {
            let mut all = [0; BUCKETS];
            all[bucket(Duration::from_secs_f64(ms / 1000.0))] = 1;
            for share in [0.5, 0.99] {
                let found = Counts::of(all).quantile_ms(share).unwrap();
                assert!((found / ms - 1.0).abs() < 0.1, "{found} for {ms}");
            }
        }
    }

    #[test]
    fn counts_add_up_and_come_apart_again() {
        let a = Counts::of([0, 3, 0, 5]);
        let mut sum = a.clone();
        sum.add(&Counts::of([1, 1]));
        assert_eq!(sum, Counts::of([1, 4, 0, 5]));
        assert_eq!(sum.since(&a), Counts::of([1, 1]));
        assert_eq!(a.since(&sum).total(), 0, "never below nothing");
        assert_eq!(serde_json::to_string(&a).unwrap(), "[[1,3],[3,5]]");
        let strange: Counts = serde_json::from_str("[[255,3]]").unwrap();
        sum.add(&strange);
        assert_eq!(sum.total(), 10, "a bucket that there is not is not counted");
    }
}
