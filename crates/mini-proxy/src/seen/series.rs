//! The counters of one app, by release. They live with the app's entry in the route table, so that
//! a request finds them on its target, and go with it.

use std::array;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use mini_core::control::ReleaseTraffic;
use mini_core::latency::{self, BUCKETS, Counts};
use mini_core::name::AppName;

use super::{Finished, WORKERS};
use crate::shared::lock;

/// How many of an app's releases are counted apart, the newest ones: counters that a scraper knows
/// should not vanish with a deploy.
const RELEASES: usize = 5;

/// What is seen of one app over all versions of the route table.
pub(crate) struct AppSeen {
    pub(crate) app: AppName,
    /// Whether its lines have the query string.
    pub(super) log_query: AtomicBool,
    /// Requests that had to wait for an instance.
    held: AtomicU64,
    /// Requests that no release got.
    without_release: Series,
    releases: Mutex<Vec<Arc<Series>>>,
}

impl AppSeen {
    pub(crate) fn new(app: AppName) -> Self {
        Self {
            app,
            log_query: AtomicBool::new(false),
            held: AtomicU64::new(0),
            without_release: Series::new(None),
            releases: Mutex::default(),
        }
    }

    pub(crate) fn set_log_query(&self, log: bool) {
        self.log_query.store(log, Relaxed);
    }

    /// Counts a request that has to wait for an instance.
    pub(crate) fn count_held(&self) {
        self.held.fetch_add(1, Relaxed);
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// The counters of a release; the oldest one's go if there are many.
    pub(crate) fn release(&self, release: u32) -> Arc<Series> {
        let mut releases = lock(&self.releases);
        if let Some(series) = releases.iter().find(|s| s.release == Some(release)) {
            return Arc::clone(series);
        }
        let series = Arc::new(Series::new(Some(release)));
        releases.push(Arc::clone(&series));
        releases.sort_by_key(|s| s.release);
        if releases.len() > RELEASES {
            // Targets that still have it go on counting for nobody.
            releases.remove(0);
        }
        series
    }

    pub(super) fn without_release(&self) -> &Series {
        &self.without_release
    }

    /// What was counted, of those that counted anything.
    pub(crate) fn traffic(&self) -> Vec<ReleaseTraffic> {
        let releases = lock(&self.releases).clone();
        let releases = releases.iter().map(|s| s.traffic());
        let all = std::iter::once(self.without_release.traffic()).chain(releases);
        all.flatten().collect()
    }
}

/// The counters of one release.
pub(crate) struct Series {
    release: Option<u32>,
    /// One for each thread that counted anything.
    parts: Box<[OnceLock<Box<Part>>]>,
    /// Few, and seldom more than one.
    errors: Mutex<Vec<(&'static str, u64)>>,
}

#[repr(align(128))]
struct Part {
    /// Statuses by class, 1xx to 5xx; then what is none.
    statuses: [AtomicU64; 6],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    retried: AtomicU64,
    took_us: AtomicU64,
    latency: [AtomicU64; BUCKETS],
}

impl Part {
    fn new() -> Box<Self> {
        let zero = |_| AtomicU64::new(0);
        Box::new(Self {
            statuses: array::from_fn(zero),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            took_us: AtomicU64::new(0),
            latency: array::from_fn(zero),
        })
    }
}

impl Series {
    fn new(release: Option<u32>) -> Self {
        let parts = (0..*WORKERS).map(|_| OnceLock::new()).collect();
        Self { release, parts, errors: Mutex::default() }
    }

    pub(super) fn count(&self, worker: usize, request: &Finished<'_>, took: Duration) {
        let part = self.parts[worker].get_or_init(Part::new);
        let class = usize::from(request.status / 100).wrapping_sub(1).min(5);
        let add = |counter: &AtomicU64, n: u64| {
            if n > 0 {
                counter.fetch_add(n, Relaxed);
            }
        };
        add(&part.statuses[class], 1);
        add(&part.bytes_in, request.bytes_in);
        add(&part.bytes_out, request.bytes_out);
        add(&part.retried, u64::from(request.retried));
        add(&part.took_us, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        add(&part.latency[latency::bucket(took)], 1);
        if let Some(code) = request.error {
            let mut errors = lock(&self.errors);
            match errors.iter_mut().find(|(name, _)| *name == code.name()) {
                Some((_, n)) => *n += 1,
                None => errors.push((code.name(), 1)),
            }
        }
    }

    fn traffic(&self) -> Option<ReleaseTraffic> {
        let parts: Vec<&Part> = self.parts.iter().filter_map(|p| p.get()).map(|p| &**p).collect();
        if parts.is_empty() {
            return None;
        }
        let sum =
            |of: &dyn Fn(&Part) -> &AtomicU64| parts.iter().map(|p| of(p).load(Relaxed)).sum();
        let errors = lock(&self.errors).iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Some(ReleaseTraffic {
            release: self.release,
            statuses: array::from_fn(|class| sum(&|p| &p.statuses[class])),
            bytes_in: sum(&|p| &p.bytes_in),
            bytes_out: sum(&|p| &p.bytes_out),
            retried: sum(&|p| &p.retried),
            took_us: sum(&|p| &p.took_us),
            latency: Counts::of((0..BUCKETS).map(|bucket| sum(&|p| &p.latency[bucket]))),
            errors,
        })
    }
}
