//! What is measured: rounds in which each contender has its turn, in an order that is new in each.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::contender::{Contender, Kind, Setting};
use crate::load::{Load, h2load, wrk};
use crate::random::Random;
use crate::report::{Row, Target, figure, median, quantile, say};
use crate::tls::handshakes;
use crate::upstream::Upstream;
use crate::{Lengths, paced};

const CHANGE_EVERY: Duration = Duration::from_millis(100);
const MANY: usize = 10_000;

/// Gives each contender its turn, round after round; answers with each one's figures.
pub(crate) fn rounds<T>(
    turns: &mut [(Kind, T)],
    rounds: usize,
    random: &mut Random,
    mut measure: impl FnMut(&mut T) -> Result<f64>,
) -> Result<Vec<(Kind, Vec<f64>)>> {
    let mut all: Vec<(Kind, Vec<f64>)> =
        turns.iter().map(|(kind, _)| (*kind, Vec::new())).collect();
    let mut order: Vec<usize> = (0..turns.len()).collect();
    for _ in 0..rounds {
        random.shuffle(&mut order);
        for &n in &order {
            let (kind, turn) = &mut turns[n];
            let figure = measure(turn).with_context(|| kind.name())?;
            all[n].1.push(figure);
        }
    }
    Ok(all)
}

/// CPU time of the proxy for each request, in microseconds.
fn cpu(contender: &Contender, load: impl FnOnce() -> Result<Load>) -> Result<(f64, Load)> {
    let before = contender.process.cpu()?;
    let load = load()?;
    let used = contender.process.cpu()?.saturating_sub(before);
    Ok((used.as_secs_f64() * 1e6 / load.requests.max(1) as f64, load))
}

type Turns = Vec<(Kind, Contender)>;

pub(crate) fn start(setting: &Setting, kinds: &[Kind], upstream: &Upstream) -> Result<Turns> {
    let start = |kind: &Kind| Ok((*kind, Contender::start(setting, *kind, upstream.at, "/1k")?));
    kinds.iter().map(start).collect()
}

/// Plain HTTP/1.1: CPU, and with it how many requests a second were had.
pub(crate) fn http(
    turns: &mut Turns,
    lengths: &Lengths,
    random: &mut Random,
) -> Result<(Vec<Row>, f64)> {
    let kinds = [
        ("keep-alive, 1 KiB, 64 connections", "/1k", false, 1.0),
        ("new connection for each request, 1 KiB", "/1k", true, 0.9),
        ("keep-alive, 64 KiB, 64 connections", "/64k", false, 0.5),
    ];
    let mut rows = Vec::new();
    let mut saturation = 0.0;
    for (what, path, close, target) in kinds {
        say(what);
        let mut per_second: Vec<(Kind, f64)> = Vec::new();
        let of = rounds(turns, lengths.rounds, random, |contender| {
            let (cpu, load) = cpu(contender, || wrk(contender.http, path, close, lengths.round))?;
            per_second.push((contender.kind, load.per_second));
            Ok(cpu)
        })?;
        if saturation == 0.0 {
            let nginx = per_second.iter().filter(|(kind, _)| *kind == Kind::Tuned);
            saturation = median(&nginx.map(|(_, n)| *n).collect::<Vec<_>>());
        }
        let target = Some(Target::OfNginx(target));
        rows.push(Row { what: format!("CPU a request: {what}"), unit: "µs", of, target });
    }
    Ok((rows, saturation))
}

/// p99 at a fixed rate: half of what the tuned nginx does at most.
pub(crate) fn latency(
    turns: &mut Turns,
    lengths: &Lengths,
    random: &mut Random,
    saturation: f64,
) -> Result<Vec<Row>> {
    let rate = saturation / 2.0;
    say(&format!("latency at {rate:.0} requests a second"));
    let seed = random.next();
    let mut p50 = Vec::new();
    let of = rounds(turns, lengths.latency_rounds, random, |contender| {
        let all = paced::latencies(contender.http, "/1k", rate, lengths.latency, seed)?;
        p50.push((contender.kind, quantile(&all, 0.5)));
        Ok(quantile(&all, 0.99))
    })?;
    let each = |(kind, _): &(Kind, Vec<f64>)| {
        let own = p50.iter().filter(|(k, _)| k == kind).map(|(_, value)| *value);
        (*kind, own.collect())
    };
    let middle = of.iter().map(each).collect();
    let what = format!("{rate:.0} requests a second");
    Ok(vec![
        Row { what: format!("p50 at {what}"), unit: "µs", of: middle, target: None },
        Row { what: format!("p99 at {what}"), unit: "µs", of, target: Some(Target::OfNginx(1.1)) },
    ])
}

/// TLS 1.3 handshakes, each with a request, and HTTP/2.
pub(crate) fn tls(
    turns: &mut Turns,
    setting: &Setting,
    lengths: &Lengths,
    random: &mut Random,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, resumed, target) in
        [("full", false, Some(Target::OfNginx(0.8))), ("resumed", true, None)]
    {
        say(&format!("TLS 1.3 handshakes, {what}"));
        let of = rounds(turns, lengths.rounds, random, |contender| {
            let to = contender.https.context("no https")?;
            let load = || handshakes(to, &setting.certificate, resumed, lengths.round);
            Ok(cpu(contender, load)?.0)
        })?;
        let what = format!("CPU a connection: TLS 1.3 handshake, {what}, and a request");
        rows.push(Row { what, unit: "µs", of, target });
    }
    let what = "HTTP/2, 1 KiB, 8 connections of 8 streams";
    say(what);
    let of = rounds(turns, lengths.rounds, random, |contender| {
        let to = contender.https.context("no https")?;
        Ok(cpu(contender, || h2load(to, "/1k", lengths.round))?.0)
    })?;
    let target = Some(Target::OfNginx(1.0));
    rows.push(Row { what: format!("CPU a request: {what}"), unit: "µs", of, target });
    Ok(rows)
}

/// How many of the router's lines were written for the requests of all the rows before.
pub(crate) fn lines(turns: &Turns) -> Result<String> {
    let lines = turns.iter().find_map(|(_, contender)| contender.lines.as_ref());
    let (came, lost) = lines.context("mini has lines")?.counts();
    if came == 0 {
        bail!("mini wrote no router lines: what was measured is not what users have");
    }
    Ok(format!("mini's router log: {came} lines taken, {lost} dropped."))
}

/// mini alone: a large table against a small one, and one that is changed all the time. In words,
/// as there is nothing beside it.
pub(crate) fn routes(
    setting: &Setting,
    upstream: &Upstream,
    lengths: &Lengths,
    random: &mut Random,
) -> Result<Vec<String>> {
    say("10,000 routes, and changes of them");
    let few = Contender::start(setting, Kind::Mini(10), upstream.at, "/1k")?;
    let many = Contender::start(setting, Kind::Mini(MANY), upstream.at, "/1k")?;
    let changed = Contender::start(setting, Kind::Mini(MANY), upstream.at, "/1k")?;
    let mut turns =
        [(few.kind, (few, false)), (many.kind, (many, false)), (changed.kind, (changed, true))];
    let mut rates: Vec<(bool, Kind, f64)> = Vec::new();
    let of = rounds(&mut turns, lengths.rounds, random, |(contender, change)| {
        let changing = match (&mut contender.controls, *change) {
            (controls @ Some(_), true) => {
                let controls = controls.take().context("mini has controls")?;
                Some(controls.change_every(CHANGE_EVERY, 5, contender.upstream))
            }
            _ => None,
        };
        let measured = cpu(contender, || wrk(contender.http, "/1k", false, lengths.round));
        if let Some(changing) = changing {
            contender.controls = Some(changing.stop()?);
        }
        let (cpu, load) = measured?;
        rates.push((*change, contender.kind, load.per_second));
        Ok(cpu)
    })?;
    let rate = |change: bool, kind: Kind| {
        let own = rates.iter().filter(|(c, k, _)| *c == change && *k == kind);
        own.map(|(_, _, rate)| *rate).collect::<Vec<f64>>()
    };
    let rates =
        [rate(false, Kind::Mini(10)), rate(false, Kind::Mini(MANY)), rate(true, Kind::Mini(MANY))];
    let ratio = |a: &[f64], b: &[f64]| {
        let all: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
        format!("{:.3} ({:.3}–{:.3})", median(&all), quantile(&all, 0.25), quantile(&all, 0.75))
    };
    let line = |what: &str, n: usize, to: usize, target: &str| {
        format!(
            "| {what} | {} | {} | {} | {} | {target} |",
            figure(median(&of[n].1)),
            ratio(&of[n].1, &of[to].1),
            figure(median(&rates[n]) / 1000.0),
            ratio(&rates[n], &rates[to]),
        )
    };
    Ok(vec![
        "| mini, keep-alive, 1 KiB | CPU a request, µs | ratio | 1,000 requests a second | ratio | target |".into(),
        "|---|---|---|---|---|---|".into(),
        line("10 routes", 0, 0, ""),
        line("10,000 routes", 1, 0, "nothing measurable"),
        line("10,000 routes, a change every 100 ms", 2, 1, "≥ 0.97 requests a second"),
    ])
}

/// How many requests a second the tuned nginx does at most.
pub(crate) fn saturation(turns: &Turns, lengths: &Lengths) -> Result<f64> {
    let tuned = turns.iter().find(|(kind, _)| *kind == Kind::Tuned).context("nginx")?;
    let load = |_| Ok(wrk(tuned.1.http, "/1k", false, lengths.round)?.per_second);
    Ok(median(&(0..lengths.rounds).map(load).collect::<Result<Vec<f64>>>()?))
}
