//! `mini metrics`: what an app's requests are like.

use std::time::Duration;

use mini_api::{Metrics, MetricsSample, MetricsWindow};

use crate::context::Context;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::table;
use crate::settings::Vars;

/// Show an app's requests: how many, how many failed, how long they took
///
/// Errors are answers with a status of 500 and above. Half of the requests took no longer than
/// P50, 95 % no longer than P95.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini metrics\n  mini metrics --watch\n  \
                        mini metrics --last 60m\n  mini metrics --json")]
pub(crate) struct Args {
    /// Show it anew every few seconds, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    /// The time that the graph shows: 5m or 60m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = minutes)]
    last: usize,
}

const WATCH_EVERY: Duration = Duration::from_secs(2);
/// How wide the graph is.
const COLUMNS: usize = 60;
const HEAD: [&str; 6] = ["", "REQUESTS/S", "ERRORS", "P50", "P95", "P99"];
const RELEASES: [&str; 6] = ["RELEASE", "REQUESTS", "ERRORS", "P50", "P95", "P99"];

fn minutes(text: &str) -> Result<usize, String> {
    match text {
        "5m" => Ok(5),
        "60m" | "1h" => Ok(60),
        _ => Err(format!("{text:?} is neither 5m nor 60m")),
    }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let signs = Signs::of(&context.vars);
    let interrupt = args.watch.then(Interrupt::listen);
    loop {
        let metrics = client.metrics(&app).await.map_err(|e| Failure::from(e).about(&app))?;
        match (&interrupt, context.out.json) {
            (None, true) => context.out.document(&metrics)?,
            (Some(_), true) => context.out.item(&metrics)?,
            (_, false) => {
                if interrupt.is_some() {
                    context.out.clear_screen()?;
                }
                lines(&metrics, args.last, &signs).iter().try_for_each(|l| context.out.data(l))?;
            }
        }
        let Some(interrupt) = &interrupt else { return Ok(()) };
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            () = interrupt.hit() => return Ok(()),
        }
    }
}

fn lines(metrics: &Metrics, minutes: usize, signs: &Signs) -> Vec<String> {
    if !metrics.known {
        return vec!["Nothing is known yet: the proxy has not answered.".to_owned()];
    }
    let rows: Vec<_> = metrics.windows.iter().map(window).collect();
    let mut lines = vec![table(&HEAD, &rows)];
    if metrics.waiting > 0 {
        lines.push(format!("{} requests wait for an instance now.", metrics.waiting));
    }
    if metrics.windows.last().is_none_or(|hour| hour.requests == 0) {
        lines.push(format!("\nNo requests in the last {} minutes.", 60));
    } else {
        lines.push(format!("\nThe last {minutes} minutes:"));
        lines.extend(graphs(metrics, minutes, signs));
    }
    if metrics.releases.iter().any(|release| release.requests > 0) {
        let rows: Vec<_> = metrics
            .releases
            .iter()
            .map(|r| {
                let share = (r.requests > 0).then(|| r.errors as f64 / r.requests as f64);
                let [p50, p95, p99] = [r.p50_ms, r.p95_ms, r.p99_ms].map(time);
                vec![r.release.clone(), r.requests.to_string(), percent(share), p50, p95, p99]
            })
            .collect();
        lines.push(format!("\n{}", table(&RELEASES, &rows)));
    }
    lines
}

fn window(window: &MetricsWindow) -> Vec<String> {
    let name = match window.seconds {
        60 => "1 minute".to_owned(),
        seconds => format!("{} minutes", seconds / 60),
    };
    let [p50, p95, p99] = [window.p50_ms, window.p95_ms, window.p99_ms].map(time);
    vec![name, rate(window.requests_per_s), percent(window.error_share), p50, p95, p99]
}

/// One graph a line: its name, its highest value, its course.
fn graphs(metrics: &Metrics, minutes: usize, signs: &Signs) -> Vec<String> {
    let every = metrics.every_s.max(1) as usize;
    let count = minutes * 60 / every;
    let there = &metrics.samples[metrics.samples.len().saturating_sub(count)..];
    // As many samples to a column as it takes, the newest at the right.
    let each = count.div_ceil(COLUMNS);
    let columns: Vec<&[MetricsSample]> = {
        let mut columns: Vec<_> = there.rchunks(each).collect();
        columns.reverse();
        columns
    };
    let per_s = |column: &&[MetricsSample]| {
        let sum: u64 = column.iter().map(|s| s.requests).sum();
        sum as f64 / (column.len() * every) as f64
    };
    let failed = |column: &&[MetricsSample]| {
        let sum = |of: fn(&MetricsSample) -> u64| column.iter().map(of).sum::<u64>();
        sum(|s| s.errors) as f64 / sum(|s| s.requests).max(1) as f64
    };
    let p95 =
        |column: &&[MetricsSample]| column.iter().filter_map(|s| s.p95_ms).fold(0.0, f64::max);
    let course = |name: &str, values: Vec<f64>, word: fn(f64) -> String| {
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{name:<12}{}  up to {}", signs.course(&values, most), word(most))
    };
    let width = count.div_ceil(each).min(COLUMNS);
    let padded = |of: &dyn Fn(&&[MetricsSample]) -> f64| -> Vec<f64> {
        let values: Vec<f64> = columns.iter().map(of).collect();
        let mut all = vec![0.0; width.saturating_sub(values.len())];
        all.extend(values);
        all
    };
    vec![
        course("requests/s", padded(&per_s), rate),
        course("errors", padded(&failed), |share| percent(Some(share))),
        course("p95", padded(&p95), |ms| time(Some(ms))),
    ]
}

/// What a graph is drawn with, from nothing to the most.
struct Signs([char; 9]);

impl Signs {
    fn of(vars: &Vars) -> Self {
        // The first of these that is set says it (POSIX, "Environment Variables").
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| vars.get(name));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") {
            Self(['\u{b7}', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'])
        } else {
            Self(['.', '_', ',', '-', '~', '=', '+', '*', '#'])
        }
    }

    /// A sign for each value; whatever is more than nothing can be told from nothing.
    fn course(&self, values: &[f64], most: f64) -> String {
        let sign = |value: &f64| {
            let height = if most > 0.0 { (value / most * 8.0).ceil() } else { 0.0 };
            self.0[(height as usize).min(8)]
        };
        values.iter().map(sign).collect()
    }
}

fn rate(per_s: f64) -> String {
    match per_s {
        ..0.0005 => "0".to_owned(),
        ..1.0 => format!("{per_s:.2}"),
        ..10.0 => format!("{per_s:.1}"),
        _ => format!("{per_s:.0}"),
    }
}

fn percent(share: Option<f64>) -> String {
    match share.map(|share| share * 100.0) {
        None => "-".to_owned(),
        Some(0.0) => "0 %".to_owned(),
        Some(..10.0) => format!("{:.2} %", share.unwrap_or_default() * 100.0),
        Some(percent) => format!("{percent:.0} %"),
    }
}

fn time(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms @ ..10.0) => format!("{ms:.1} ms"),
        Some(ms @ ..10_000.0) => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        Vars::of_pairs(pairs)
    }

    #[test]
    fn a_graph_is_drawn_with_what_the_terminal_has() {
        let values = [0.0, 0.01, 4.0, 8.0];
        let of = |pairs: &[_]| Signs::of(&vars(pairs)).course(&values, 8.0);
        assert_eq!(of(&[("LANG", "de_DE.UTF-8")]), "·▁▄█");
        assert_eq!(of(&[("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]), "._~#");
        assert_eq!(of(&[]), "._~#");
        assert_eq!(Signs::of(&vars(&[])).course(&[0.0, 0.0], 0.0), "..");
    }

    #[test]
    fn figures_have_as_many_digits_as_say_something() {
        assert_eq!([0.0, 0.0123, 3.21, 1234.5].map(rate), ["0", "0.01", "3.2", "1234"]);
        let shares = [None, Some(0.0), Some(0.0012), Some(0.5)];
        assert_eq!(shares.map(percent), ["-", "0 %", "0.12 %", "50 %"]);
        let times = [None, Some(0.31), Some(812.4), Some(30_120.0)];
        assert_eq!(times.map(time), ["-", "0.3 ms", "812 ms", "30.1 s"]);
    }

    #[test]
    fn the_newest_sample_is_at_the_right_and_columns_hold_several() {
        let sample = |n: u64| MetricsSample {
            at: "2026-11-23T10:00:00Z".parse().unwrap(),
            requests: n,
            errors: 0,
            p50_ms: None,
            p95_ms: None,
            p99_ms: None,
        };
        let metrics = Metrics {
            app: "blue".parse().unwrap(),
            known: true,
            every_s: 10,
            waiting: 0,
            windows: Vec::new(),
            samples: (0..20).map(|n| sample(if n == 19 { 80 } else { 0 })).collect(),
            releases: Vec::new(),
        };
        let signs = Signs::of(&vars(&[]));
        let five = &graphs(&metrics, 5, &signs)[0];
        assert_eq!(five, &format!("requests/s  {}#  up to 8.0", ".".repeat(29)));
        let hour = &graphs(&metrics, 60, &signs)[0];
        assert_eq!(hour, &format!("requests/s  {}#  up to 1.3", ".".repeat(59)));
    }
}
