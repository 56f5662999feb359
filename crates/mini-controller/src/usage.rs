//! What instances use of memory and of the processors, for `mini ps`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mini_core::id::InstanceId;
use mini_core::ports::{Runtime, Stats};

/// The shortest time that a share of a processor says something about.
const SHORTEST: Duration = Duration::from_millis(200);
/// A sample older than this says nothing about now.
const LONGEST: Duration = Duration::from_secs(30);
/// How long somebody who asks waits for the figures.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Used {
    pub(crate) memory_bytes: u64,
    /// Of one processor. Over the time since somebody last asked, if that was 0.2 to 30 s ago,
    /// else over 0.2 s.
    pub(crate) cpu_percent: Option<f64>,
}

struct Sample {
    at: Instant,
    cpu_nanos: u64,
    percent: Option<f64>,
}

/// The last sample of each instance that somebody asked about.
#[derive(Default)]
pub(crate) struct Usage(Mutex<HashMap<InstanceId, Sample>>);

impl Usage {
    fn samples(&self) -> MutexGuard<'_, HashMap<InstanceId, Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What these instances use now; one that is missing is not known.
    pub(crate) async fn of(
        &self,
        runtime: &dyn Runtime,
        ids: Vec<InstanceId>,
    ) -> BTreeMap<InstanceId, Used> {
        if ids.is_empty() {
            return BTreeMap::new();
        }
        tokio::time::timeout(PATIENCE, self.sample(runtime, ids)).await.unwrap_or_default()
    }

    async fn sample(
        &self,
        runtime: &dyn Runtime,
        ids: Vec<InstanceId>,
    ) -> BTreeMap<InstanceId, Used> {
        let Ok(stats) = runtime.stats(ids.clone()).await else { return BTreeMap::new() };
        let mut used = self.take_in(stats, Instant::now());
        if used.values().any(|used| used.cpu_percent.is_none()) {
            tokio::time::sleep(SHORTEST).await;
            if let Ok(stats) = runtime.stats(ids).await {
                used = self.take_in(stats, Instant::now());
            }
        }
        used
    }

    fn take_in(
        &self,
        stats: BTreeMap<InstanceId, Stats>,
        now: Instant,
    ) -> BTreeMap<InstanceId, Used> {
        let mut samples = self.samples();
        samples.retain(|_, sample| now.duration_since(sample.at) <= LONGEST);
        let used = stats.into_iter().map(|(id, stats)| {
            let before = samples.get(&id);
            // A start anew counts from nothing.
            let before = before.filter(|sample| sample.cpu_nanos <= stats.cpu_nanos);
            let percent = match before.map(|sample| now.duration_since(sample.at)) {
                Some(time) if time < SHORTEST => before.and_then(|sample| sample.percent),
                Some(time) => before.map(|sample| {
                    (stats.cpu_nanos - sample.cpu_nanos) as f64 / time.as_nanos() as f64 * 100.0
                }),
                None => None,
            };
            let fresh = before.is_some_and(|sample| now.duration_since(sample.at) < SHORTEST);
            if !fresh {
                let sample = Sample { at: now, cpu_nanos: stats.cpu_nanos, percent };
                samples.insert(id.clone(), sample);
            }
            (id, Used { memory_bytes: stats.memory_bytes, cpu_percent: percent })
        });
        used.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_needs_two_samples_some_time_apart() {
        let usage = Usage::default();
        let begun = Instant::now();
        let take = |ms: u64, cpu_ms: u64| {
            let stats = Stats { memory_bytes: 7, cpu_nanos: cpu_ms * 1_000_000 };
            let id: InstanceId = "a".parse().unwrap();
            let used =
                usage.take_in([(id.clone(), stats)].into(), begun + Duration::from_millis(ms));
            used[&id].cpu_percent
        };
        assert_eq!(take(0, 1000), None);
        assert_eq!(take(100, 1050), None, "too short to tell");
        assert_eq!(take(1000, 1500), Some(50.0));
        assert_eq!(take(1100, 1600), Some(50.0), "still what was last found");
        assert_eq!(take(2000, 10), None, "it was started anew");
        assert_eq!(take(3000, 2010), Some(200.0), "two processors");
        assert_eq!(take(60_000, 2020), None, "too long ago");
    }
}
