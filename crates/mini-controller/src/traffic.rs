//! What each app's requests were like in the last hour: sampled from the proxy's counters, kept in
//! memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mini_api::{Metrics, MetricsSample, MetricsWindow, ReleaseMetrics};
use mini_core::control::{AppTraffic, FromProxy, ReleaseTraffic, ToProxy};
use mini_core::latency::Counts;
use mini_core::name::AppName;
use mini_core::time::Millis;

use crate::clock;
use crate::core::Core;
use crate::router_lines;

const EVERY: Duration = Duration::from_secs(10);
const EVERY_S: u32 = 10;
/// When the proxy does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// An hour of samples.
const SAMPLES: usize = 360;
/// Samples whose latencies are kept together: quantiles of a time are told from these.
const TOGETHER: usize = 6;
/// How long the proxy may take to tell its counters.
const PATIENCE: Duration = Duration::from_secs(5);
/// For somebody who waits for the answer.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);
/// How many of an app's releases are told of, the newest ones.
const RELEASES: usize = 5;

#[derive(Default)]
struct State {
    /// The process that the last counters were of; none before the first sample.
    pid: Option<u32>,
    apps: HashMap<AppName, History>,
}

#[derive(Default)]
pub(crate) struct Traffic(Mutex<State>);

impl Traffic {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, pid: u32, apps: &[AppTraffic], now: Millis) {
        self.state().take(pid, apps, now);
    }

    /// What is known of an app, up to now if `fresh` are counters of now.
    fn of(&self, app: &AppName, fresh: Option<(u32, &[AppTraffic])>, now: Millis) -> Metrics {
        let state = self.state();
        let mut history = state.apps.get(app).cloned().unwrap_or_default();
        if let Some((pid, apps)) = fresh {
            let counters = apps.iter().find(|a| a.app == *app);
            history.take(counters, state.since(pid), now);
        }
        let known = state.pid.is_some() || fresh.is_some();
        drop(state);
        history.told(app, known)
    }
}

impl State {
    /// What counters of this process are to be compared with.
    fn since(&self, pid: u32) -> Since {
        match self.pid {
            None => Since::Unknown,
            Some(before) if before == pid => Since::LastSample,
            Some(_) => Since::Start,
        }
    }

    fn take(&mut self, pid: u32, apps: &[AppTraffic], now: Millis) {
        let since = self.since(pid);
        let mut named: HashMap<&AppName, &AppTraffic> = apps.iter().map(|a| (&a.app, a)).collect();
        for (app, history) in &mut self.apps {
            history.take(named.remove(app), since, now);
        }
        self.apps.retain(|_, history| history.is_of_use());
        for (app, counters) in named {
            let mut history = History::default();
            history.take(Some(counters), since, now);
            self.apps.insert(app.clone(), history);
        }
        self.pid = Some(pid);
    }
}

/// What counters are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    LastSample,
    /// Another process counts, from nothing.
    Start,
    /// They are the first that this controller sees: when what they count was is not known.
    Unknown,
}

/// One app's last hour.
#[derive(Debug, Clone, Default)]
struct History {
    last: BTreeMap<Option<u32>, ReleaseTraffic>,
    samples: VecDeque<Sample>,
    /// Latencies of [`TOGETHER`] samples each; the last ones' are not complete yet.
    latencies: VecDeque<Counts>,
    /// How many samples the last of `latencies` holds.
    open: usize,
    releases: BTreeMap<u32, Total>,
    waiting: u64,
}

#[derive(Debug, Clone)]
struct Sample {
    at: Millis,
    requests: u64,
    errors: u64,
    /// p50, p95, p99 in milliseconds.
    quantiles: Option<[f32; 3]>,
}

/// Of one release, as long as it is known.
#[derive(Debug, Clone, Default)]
struct Total {
    requests: u64,
    errors: u64,
    latency: Counts,
}

fn requests(traffic: &ReleaseTraffic) -> u64 {
    traffic.statuses.iter().sum()
}

fn errors(traffic: &ReleaseTraffic) -> u64 {
    traffic.statuses[4]
}

fn quantiles(latency: &Counts) -> Option<[f64; 3]> {
    let of = |share| latency.quantile_ms(share);
    Some([of(0.5)?, of(0.95)?, of(0.99)?])
}

impl History {
    /// Takes a sample; no counters are those of an app that had no request yet.
    fn take(&mut self, counters: Option<&AppTraffic>, since: Since, now: Millis) {
        let mut sample = Sample { at: now, requests: 0, errors: 0, quantiles: None };
        let mut latency = Counts::default();
        let mut last = std::mem::take(&mut self.last);
        if since == Since::Start {
            last.clear();
        }
        for traffic in counters.into_iter().flat_map(|c| &c.releases) {
            let nothing = ReleaseTraffic::default();
            let before = last.get(&traffic.release).unwrap_or(&nothing);
            // Counters that went down began anew.
            let before = if requests(traffic) < requests(before) { &nothing } else { before };
            let fresh = Total {
                requests: requests(traffic) - requests(before),
                errors: errors(traffic).saturating_sub(errors(before)),
                latency: traffic.latency.since(&before.latency),
            };
            if since != Since::Unknown {
                sample.requests += fresh.requests;
                sample.errors += fresh.errors;
                latency.add(&fresh.latency);
            }
            if let Some(release) = traffic.release.filter(|_| fresh.requests > 0) {
                let total = self.releases.entry(release).or_default();
                total.requests += fresh.requests;
                total.errors += fresh.errors;
                total.latency.add(&fresh.latency);
            }
            self.last.insert(traffic.release, traffic.clone());
        }
        while self.releases.len() > RELEASES {
            self.releases.pop_first();
        }
        self.waiting = counters.map_or(0, |c| c.waiting);
        sample.quantiles = quantiles(&latency).map(|q| q.map(|ms| ms as f32));
        // An app without requests costs nothing.
        if sample.requests > 0 || !self.samples.is_empty() {
            self.push(sample, &latency);
        }
    }

    fn push(&mut self, sample: Sample, latency: &Counts) {
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        match self.latencies.back_mut() {
            Some(last) if self.open < TOGETHER => {
                last.add(latency);
                self.open += 1;
            }
            _ => {
                self.latencies.push_back(latency.clone());
                self.open = 1;
            }
        }
        if self.latencies.len() > SAMPLES / TOGETHER {
            self.latencies.pop_front();
        }
    }

    /// Lets samples go once nothing was asked of the app for an hour. False if nothing is left to be
    /// kept: the proxy does not count it any more.
    fn is_of_use(&mut self) -> bool {
        if self.samples.len() >= SAMPLES && self.samples.iter().all(|s| s.requests == 0) {
            self.samples = VecDeque::new();
            self.latencies = VecDeque::new();
        }
        !self.samples.is_empty() || !self.last.is_empty()
    }

    fn told(&self, app: &AppName, known: bool) -> Metrics {
        let sample = |s: &Sample| {
            let [p50_ms, p95_ms, p99_ms] = told_quantiles(s.quantiles.map(|q| q.map(f64::from)));
            let (requests, errors) = (s.requests, s.errors);
            MetricsSample { at: clock::timestamp(s.at), requests, errors, p50_ms, p95_ms, p99_ms }
        };
        let release = |(number, total): (&u32, &Total)| {
            let [p50_ms, p95_ms, p99_ms] = told_quantiles(quantiles(&total.latency));
            ReleaseMetrics {
                release: format!("v{number}"),
                requests: total.requests,
                errors: total.errors,
                p50_ms,
                p95_ms,
                p99_ms,
            }
        };
        Metrics {
            app: app.clone(),
            known,
            every_s: EVERY_S,
            waiting: self.waiting,
            windows: [1, 5, 60].map(|minutes| self.window(minutes)).to_vec(),
            samples: self.samples.iter().map(sample).collect(),
            releases: self.releases.iter().rev().map(release).collect(),
        }
    }

    fn window(&self, minutes: usize) -> MetricsWindow {
        let samples = self.samples.iter().rev().take(minutes * 60 / EVERY_S as usize);
        let sum = |of: fn(&Sample) -> u64| samples.clone().map(of).sum::<u64>();
        // As many as the time has, and the one that is not complete.
        let mut latency = Counts::default();
        self.latencies.iter().rev().take(minutes + 1).for_each(|l| latency.add(l));
        let [p50_ms, p95_ms, p99_ms] = told_quantiles(quantiles(&latency));
        let (requests, errors) = (sum(|s| s.requests), sum(|s| s.errors));
        let seconds = minutes as u32 * 60;
        MetricsWindow {
            seconds,
            requests,
            requests_per_s: rounded(requests as f64 / f64::from(seconds)),
            errors,
            error_share: (requests > 0).then(|| errors as f64 / requests as f64),
            p50_ms,
            p95_ms,
            p99_ms,
        }
    }
}

fn told_quantiles(quantiles: Option<[f64; 3]>) -> [Option<f64>; 3] {
    quantiles.map_or([None; 3], |q| q.map(|ms| Some(rounded(ms))))
}

/// To three digits after the point: more are not known.
fn rounded(n: f64) -> f64 {
    (n * 1000.0).round() / 1000.0
}

/// Samples for ever.
pub(crate) async fn sample(core: Arc<Core>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        match counters(&core, PATIENCE).await {
            Ok((pid, apps)) => {
                core.traffic.take(pid, &apps, clock::now());
                tick.tick().await;
            }
            Err(why) => {
                tracing::debug!(%why, "the proxy's counters cannot be read");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// An app's metrics up to now.
pub(crate) async fn of(core: &Core, app: &AppName) -> Metrics {
    let fresh = counters(core, SHORT_PATIENCE).await.ok();
    if let Some((pid, apps)) = &fresh
        && core.traffic.state().pid.is_none()
    {
        // What comes next is compared with this.
        core.traffic.take(*pid, apps, clock::now());
    }
    let fresh = fresh.as_ref().map(|(pid, apps)| (*pid, apps.as_slice()));
    core.traffic.of(app, fresh, clock::now())
}

/// The proxy's counters, over a connection for this alone: with thousands of apps they are large.
async fn counters(core: &Core, patience: Duration) -> Result<(u32, Vec<AppTraffic>), String> {
    let asked = async {
        let mut stream = router_lines::connect(core, ToProxy::Metrics, None).await?;
        match router_lines::next(&mut stream).await? {
            FromProxy::Metrics { pid, apps } => Ok((pid, apps)),
            _ => Err("it said something else than counters".into()),
        }
    };
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err("it does not answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blue() -> AppName {
        "blue".parse().unwrap()
    }

    /// Counters after so many requests of each release, of which so many failed; each took 5 ms.
    fn counters(releases: &[(u32, u64, u64)]) -> Vec<AppTraffic> {
        let bucket = mini_core::latency::bucket(Duration::from_millis(5));
        let release = |(release, requests, errors): &(u32, u64, u64)| ReleaseTraffic {
            release: Some(*release),
            statuses: [0, requests - errors, 0, 0, *errors, 0],
            latency: Counts::of((0..=bucket).map(|b| if b == bucket { *requests } else { 0 })),
            ..ReleaseTraffic::default()
        };
        let releases = releases.iter().map(release).collect();
        vec![AppTraffic { app: blue(), waiting: 0, held: 0, releases }]
    }

    fn requests(metrics: &Metrics) -> Vec<u64> {
        metrics.samples.iter().map(|s| s.requests).collect()
    }

    #[test]
    fn samples_are_what_came_between() {
        let traffic = Traffic::default();
        assert!(!traffic.of(&blue(), None, Millis(0)).known);
        // Of long ago, or not: not known.
        traffic.take(1, &counters(&[(3, 1000, 10)]), Millis(10_000));
        traffic.take(1, &counters(&[(3, 1300, 10)]), Millis(20_000));
        traffic.take(1, &counters(&[(3, 1300, 10), (4, 100, 50)]), Millis(30_000));
        let metrics = traffic.of(&blue(), None, Millis(31_000));
        assert!(metrics.known);
        assert_eq!(requests(&metrics), [300, 100]);
        let five = &metrics.windows[1];
        assert_eq!((five.seconds, five.requests, five.errors), (300, 400, 50));
        assert_eq!((five.requests_per_s, five.error_share), (1.333, Some(0.125)));
        let p95 = five.p95_ms.unwrap();
        assert!((4.5..5.5).contains(&p95), "{p95}");
        // What each release's requests were like, from its first one on.
        let releases: Vec<_> =
            metrics.releases.iter().map(|r| (r.release.as_str(), r.requests, r.errors)).collect();
        assert_eq!(releases, [("v4", 100, 50), ("v3", 1300, 10)]);
    }

    #[test]
    fn who_asks_gets_what_came_since_the_last_sample_too() {
        let traffic = Traffic::default();
        traffic.take(1, &[], Millis(10_000));
        let fresh = counters(&[(3, 7, 0)]);
        for _ in 0..2 {
            let metrics = traffic.of(&blue(), Some((1, &fresh)), Millis(12_000));
            assert_eq!(requests(&metrics), [7], "asking changes nothing");
        }
        traffic.take(1, &fresh, Millis(20_000));
        assert_eq!(requests(&traffic.of(&blue(), None, Millis(21_000))), [7]);
    }

    #[test]
    fn a_proxy_that_starts_anew_counts_from_nothing() {
        let traffic = Traffic::default();
        traffic.take(1, &counters(&[(3, 100, 0)]), Millis(10_000));
        traffic.take(2, &counters(&[(3, 150, 0)]), Millis(20_000));
        traffic.take(2, &counters(&[(3, 160, 0)]), Millis(30_000));
        // The same process id, and counters that went down.
        traffic.take(2, &counters(&[(3, 5, 0)]), Millis(40_000));
        let metrics = traffic.of(&blue(), None, Millis(41_000));
        assert_eq!(requests(&metrics), [150, 10, 5]);
        assert_eq!(metrics.releases[0].requests, 265);
    }

    #[test]
    fn an_hour_is_kept_and_then_nothing() {
        let traffic = Traffic::default();
        traffic.take(1, &[], Millis(0));
        for n in 1..=400 {
            traffic.take(1, &counters(&[(3, n * 10, 0)]), Millis(n * 10_000));
        }
        let metrics = traffic.of(&blue(), None, Millis(4_000_000));
        assert_eq!(metrics.samples.len(), 360);
        let hour = &metrics.windows[2];
        assert_eq!((hour.seconds, hour.requests, hour.requests_per_s), (3600, 3600, 1.0));
        for n in 401..=800 {
            traffic.take(1, &counters(&[(3, 4000, 0)]), Millis(n * 10_000));
        }
        let metrics = traffic.of(&blue(), None, Millis(8_000_000));
        assert_eq!(metrics.samples, []);
        assert_eq!(metrics.windows[2].p50_ms, None);
    }
}
