//! The second deploy of an app by a present image, and a rollback, beside what the engine alone
//! takes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::engine::Engine;
use crate::http::Connection;
use crate::output::{self, Row};
use crate::platform::Platform;
use crate::{APP, POLL};

const ROUNDS: usize = 10;
const DEPLOY: Duration = Duration::from_secs(60);

/// What brings another release in.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    Deploy,
    Rollback,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Deploy => "second deploy, --image",
            Self::Rollback => "rollback",
        }
    }

    /// What the engine's own time may be multiplied by.
    fn goal(self) -> f64 {
        match self {
            Self::Deploy => 1.2,
            Self::Rollback => 1.3,
        }
    }
}

/// Milestones of one deploy, in milliseconds since `mini` was started.
const STEPS: [&str; 9] = [
    "deployment accepted",
    "release made",
    "container asked for",
    "container's process started",
    "probed and committed",
    "routed, and told to be live",
    "first 200 of the new release",
    "`mini` ended",
    "old container gone",
];

const FIRST_200: usize = 6;

/// Deploys and engine's own starts in turns; the row, and where the time went.
pub(crate) async fn measure(
    platform: &Platform,
    engine: &mut Engine,
    way: Way,
) -> Result<(Row, Vec<String>)> {
    engine.make_bridge().await?;
    output::say(&format!("{}, and a start by the engine alone, in turns", way.name()));
    let mut door = Door::new(platform.port);
    let app = platform.admin.json(Method::GET, &format!("/v1/apps/{APP}"), &Value::Null).await?;
    let live = app["release"].as_str().and_then(|name| name.strip_prefix('v')?.parse().ok());
    let mut release: u32 = live.context("the app has no release")?;
    let (mut ours, mut steps, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    // One round of each first, which is not counted.
    for round in 0..=ROUNDS {
        release += 1;
        let deployed = bring_in(platform, engine, &mut door, (way, release)).await?;
        let like = engine.inspect(&instance(platform, engine).await?).await?;
        let alone = engine.time_one(&like).await?.map(millis);
        if round > 0 {
            ours.push(deployed[FIRST_200]);
            steps.push(deployed);
            theirs.push(alone);
        }
    }
    let engines = median(theirs.iter().map(|t| t[2]));
    let times = median(ours.iter().copied()) / engines;
    let row = Row {
        what: format!("{}, until the first 200", way.name()),
        measured: format!("{:.0} ms ({times:.2} x)", median(ours.iter().copied())),
        beside: format!(
            "the engine's own create + start + accept: {engines:.0} ms; medians of {ROUNDS} each, \
             in turns; {} and {}",
            spread(&ours),
            spread(&theirs.iter().map(|t| t[2]).collect::<Vec<_>>())
        ),
        goal: format!("<= {} x", way.goal()),
        met: times <= way.goal(),
    };
    let mut notes = vec![format!("A {}, in ms since `mini` was started (medians):", way.name())];
    for (n, name) in STEPS.iter().enumerate() {
        notes.push(format!("  {:5.0}  {name}", median(steps.iter().map(|s| s[n]))));
    }
    let of = |n: usize| median(theirs.iter().map(|t| t[n]));
    notes.push(format!(
        "The engine alone: created {:.0}, start answered {:.0}, accepted {:.0}",
        of(0),
        of(1),
        of(2)
    ));
    Ok((row, notes))
}

/// One new release and its milestones. Ends when the old instance is gone.
async fn bring_in(
    platform: &Platform,
    engine: &Engine,
    door: &mut Door,
    (way, release): (Way, u32),
) -> Result<[f64; STEPS.len()]> {
    let image = engine.image();
    let server = platform.server.clone().context("no server")?;
    let label = format!("mini.server={server}");
    let words: &[&str] = match way {
        Way::Deploy => &["deploy", "--image", &image, "--app", APP],
        Way::Rollback => &["rollback", "--app", APP],
    };
    let mut command = platform.command(words)?;
    let starts = engine.starts(&label).await?;
    let (clock, begun) = (SystemTime::now(), Instant::now());
    let mut mini = command.spawn().context("mini")?;
    let wanted = format!("hello from {APP} v{release}");
    let serving = async {
        // No answer of the new release can come before.
        starts.first().await?;
        while !door.says(&wanted).await {
            tokio::time::sleep(POLL).await;
        }
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    let ending = async {
        platform.ended(&mut mini, DEPLOY).await?;
        Ok(begun.elapsed())
    };
    let both = tokio::time::timeout(DEPLOY, async { tokio::try_join!(serving, ending) }).await;
    let (served, ended) = both.context("the deploy took too long")??;
    let alone = async {
        while engine.containers(&label).await?.len() > 1 {
            tokio::time::sleep(POLL).await;
        }
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    let alone = tokio::time::timeout(DEPLOY, alone).await.context("the old one does not go")??;
    let since = |nanos: i64| {
        let begun = clock.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        (nanos - begun) as f64 / 1e6
    };
    let (created, started) = engine.times_of(&instance(platform, engine).await?).await?;
    let told = told(platform).await?;
    let event = |kind: &str| told.iter().find(|(k, _)| k == kind).map_or(f64::NAN, |e| since(e.1));
    Ok([
        event("queued"),
        event("starting"),
        since(created),
        since(started),
        event("healthy"),
        event("live"),
        millis(served),
        millis(ended),
        millis(alone),
    ])
}

/// The events of the last deployment: what each says, and when, in nanoseconds.
async fn told(platform: &Platform) -> Result<Vec<(String, i64)>> {
    let path = format!("/v1/apps/{APP}/deployments?n=1");
    let list = platform.admin.json(Method::GET, &path, &Value::Null).await?;
    let id = list["deployments"][0]["id"].as_str().context("no deployment")?.to_owned();
    let path = format!("/v1/deployments/{id}/events");
    let (_, lines) = platform.admin.ask(Method::GET, &path, &Value::Null).await?;
    let mut told = Vec::new();
    for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_slice(line)?;
        let kind = event["status"].as_str().or(event["type"].as_str()).unwrap_or_default();
        let at: jiff::Timestamp =
            event["at"].as_str().context("an event without a time")?.parse()?;
        told.push((kind.to_owned(), i64::try_from(at.as_nanosecond())?));
    }
    Ok(told)
}

/// The one container of the platform.
async fn instance(platform: &Platform, engine: &Engine) -> Result<String> {
    let server = platform.server.clone().context("no server")?;
    match engine.containers(&format!("mini.server={server}")).await?.as_slice() {
        [one] => Ok(one.clone()),
        other => bail!("the platform has {} containers, not one", other.len()),
    }
}

/// The front door, as a client that keeps its connection sees it.
pub(crate) struct Door {
    port: u16,
    connection: Option<Connection>,
}

impl Door {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, connection: None }
    }

    /// Whether the app answers 200 with this text.
    pub(crate) async fn says(&mut self, wanted: &str) -> bool {
        match self.ask().await {
            Ok(said) => said.trim() == wanted,
            Err(_) => {
                self.connection = None;
                false
            }
        }
    }

    async fn ask(&mut self) -> Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::on(TcpStream::connect(("127.0.0.1", self.port)).await?).await?,
        };
        let host = format!("{APP}.localhost:{}", self.port);
        let asked = connection.get(&host, "/");
        let (status, body) = tokio::time::timeout(Duration::from_secs(5), asked).await??;
        self.connection = Some(connection);
        if status != 200 {
            bail!("{status}");
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{least:.0} to {most:.0} ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }
}
