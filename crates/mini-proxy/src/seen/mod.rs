//! What is seen of requests: one line in the app's log and the app's counters, for each of them.
//!
//! The request path calls [`Seen::finished`] once at the end of every request, on the thread that
//! served it. Nothing there waits or looks anything up: the counters hang on the target
//! ([`series`]) and are each thread's own, and the line ([`line`]) is written into a buffer of that
//! thread ([`backlog`]), where the controller fetches it from ([`follow`]). Whoever scrapes the
//! counters reads all threads' ([`exposition`], [`socket`]).

mod backlog;
mod exposition;
pub(crate) mod follow;
mod line;
mod series;
pub(crate) mod socket;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Version;

use crate::clock;
use crate::error_page::Code;
use crate::table::TargetState;

use backlog::Backlog;
pub(crate) use series::{AppSeen, Series};

/// A request that is over: answered, by an instance or by the router itself, cut or given up.
pub(crate) struct Finished<'a> {
    pub(crate) to: To<'a>,
    /// What was wrong, also if it was no longer possible to tell the client.
    pub(crate) error: Option<Code>,
    pub(crate) method: &'a str,
    /// The request's target in origin form, its query with it, as it was sent.
    pub(crate) path: &'a [u8],
    /// In the words of the client; empty if it named none that can be read.
    pub(crate) host: &'a [u8],
    pub(crate) request_id: &'a [u8],
    /// `X-Forwarded-For` as the app was told.
    pub(crate) fwd: &'a [u8],
    pub(crate) https: bool,
    pub(crate) version: Version,
    /// What was answered; 499 if the client went first.
    pub(crate) status: u16,
    /// Of the bodies, without their framing; of an upgraded connection all that passed.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// When the request's head was there.
    pub(crate) begun: Instant,
    /// How long the connection to the instance took; nothing for one that was there.
    pub(crate) connect: Duration,
    pub(crate) ended: Instant,
    /// It was sent a second time, since the first connection was dead.
    pub(crate) retried: bool,
}

/// Whom a request was for.
pub(crate) enum To<'a> {
    /// The instance it was sent to; of two the last.
    Target(&'a TargetState),
    /// An app of which no instance got it.
    App(&'a AppSeen),
    Door,
    /// No app has the name, or none could be read.
    Nobody,
}

/// How often requests that no app had are spoken of.
const SPEAK_EVERY_MS: u64 = 10_000;

/// What all threads have seen.
pub(crate) struct Seen {
    pub(crate) backlog: Backlog,
    workers: Box<[Worker]>,
    /// Unix time minus [`mono_nanos`], in nanoseconds.
    wall: AtomicI64,
    spoke_at: AtomicU64,
    /// Connections that fetch lines.
    followers: AtomicUsize,
}

/// One thread's counters of what belongs to no app.
#[derive(Default)]
#[repr(align(128))]
struct Worker {
    /// HTTP/1.0, HTTP/1.1, HTTP/2.
    versions: [AtomicU64; 3],
    door: AtomicU64,
    nobody: AtomicU64,
}

impl Seen {
    pub(crate) fn new() -> Self {
        let seen = Self {
            backlog: Backlog::new(*WORKERS),
            workers: (0..*WORKERS).map(|_| Worker::default()).collect(),
            wall: AtomicI64::new(0),
            spoke_at: AtomicU64::new(0),
            followers: AtomicUsize::new(0),
        };
        seen.set_clock();
        seen
    }

    /// Counts a request, and writes its line.
    pub(crate) fn finished(&self, request: &Finished<'_>) {
        let worker = worker();
        self.workers[worker].versions[version_index(request.version)].fetch_add(1, Relaxed);
        let (app, series, process) = match request.to {
            To::Target(target) => (&*target.seen, &*target.series, target.spec.process.as_str()),
            To::App(app) => (app, app.without_release(), ""),
            To::Door => {
                self.workers[worker].door.fetch_add(1, Relaxed);
                return;
            }
            To::Nobody => {
                self.workers[worker].nobody.fetch_add(1, Relaxed);
                return self.speak_of(request);
            }
        };
        let took = request.ended.saturating_duration_since(request.begun);
        series.count(worker, request, took);
        let at = self.wall.load(Relaxed) + mono_nanos(request.ended);
        self.backlog.write(worker, |out| {
            line::write(out, app, at, process, request, took);
        });
    }

    /// Requests that no app had belong into no app's log; the platform's has a few of them.
    fn speak_of(&self, request: &Finished<'_>) {
        let (now, spoke) = (clock::ms(), self.spoke_at.load(Relaxed));
        let due = spoke == 0 || now.saturating_sub(spoke) >= SPEAK_EVERY_MS;
        let first = |at: u64| at.max(1);
        if !due || self.spoke_at.compare_exchange(spoke, first(now), Relaxed, Relaxed).is_err() {
            return;
        }
        let nobody = self.sum(|w| &w.nobody);
        let code = request.error.map_or("-", Code::name);
        let (host, fwd) = (line::shown(request.host), line::shown(request.fwd));
        tracing::info!(
            code,
            host,
            fwd,
            nobody,
            "a request that no app had (one of them in ten seconds is shown)"
        );
    }

    /// Waits until every line is kept, if somebody fetches them, so long at most.
    pub(crate) async fn flush(&self, patience: Duration) {
        let end = tokio::time::Instant::now() + patience;
        while self.followers.load(Relaxed) > 0
            && !self.backlog.is_empty()
            && tokio::time::Instant::now() < end
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn sum(&self, of: impl Fn(&Worker) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|worker| of(worker).load(Relaxed)).sum()
    }

    /// Compares the clocks: the wall's may have been set.
    fn set_clock(&self) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = i64::try_from(wall.as_nanos()).unwrap_or(i64::MAX);
        self.wall.store(wall - mono_nanos(Instant::now()), Relaxed);
    }
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since about the start of this process.
fn mono_nanos(at: Instant) -> i64 {
    match at.checked_duration_since(*START) {
        Some(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        None => -i64::try_from(START.duration_since(at).as_nanos()).unwrap_or(i64::MAX),
    }
}

fn version_index(version: Version) -> usize {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => 0,
        Version::HTTP_11 => 1,
        _ => 2,
    }
}

/// Into how many parts counters and buffers are split, so that threads do not share cache lines.
static WORKERS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, |n| n.get().min(16)));

/// The part of the thread that asks. More threads than parts share them.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static MINE: Cell<usize> = const { Cell::new(usize::MAX) });
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed) % *WORKERS);
        }
        mine.get()
    })
}
