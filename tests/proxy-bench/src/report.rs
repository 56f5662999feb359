//! The tables, in Markdown, to stdout; what is going on, to stderr.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is where printing happens"
)]

use crate::contender::Kind;

/// One row: a figure of each contender, smaller is better.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// Each contender's figures, one a round; the same rounds for all.
    pub(crate) of: Vec<(Kind, Vec<f64>)>,
    pub(crate) target: Option<Target>,
}

/// What mini's figure should be at most.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// So many times nginx's, both as packaged and tuned.
    OfNginx(f64),
    /// In the row's unit.
    Absolute(f64),
}

pub(crate) fn say(text: &str) {
    eprintln!("proxy-bench: {text}");
}

pub(crate) fn line(text: &str) {
    println!("{text}");
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Between neighbours where none is at the place.
pub(crate) fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = at * (sorted.len().max(1) - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(below), sorted.get(above)) {
        (Some(below), Some(above)) => below + (above - below) * place.fract(),
        _ => f64::NAN,
    }
}

impl Row {
    fn values(&self, kind: Kind) -> Option<&[f64]> {
        self.of.iter().find(|(k, _)| *k == kind).map(|(_, values)| values.as_slice())
    }

    /// mini's figure over the other's: the median of the rounds' ratios, and their quartiles.
    fn ratio(&self, other: Kind) -> Option<[f64; 3]> {
        let (mini, other) = (self.values(Kind::Mini(10))?, self.values(other)?);
        let ratios: Vec<f64> = mini.iter().zip(other).map(|(mini, other)| mini / other).collect();
        Some([0.5, 0.25, 0.75].map(|at| quantile(&ratios, at)))
    }

    fn verdict(&self) -> String {
        let worse = |others: &[Kind]| {
            let all = others.iter().filter_map(|kind| Some(self.ratio(*kind)?[0]));
            all.fold(f64::NAN, f64::max)
        };
        let (text, got, most) = match self.target {
            None => return String::new(),
            Some(Target::OfNginx(most)) => {
                (format!("≤ {most:.1} × both"), worse(&[Kind::Packaged, Kind::Tuned]), most)
            }
            Some(Target::Absolute(most)) => {
                let got = self.values(Kind::Mini(10)).map_or(f64::NAN, median);
                (format!("≤ {most} {}", self.unit), got, most)
            }
        };
        match got {
            got if got.is_nan() => format!("{text}: not measured"),
            got if got <= most => format!("{text}: met"),
            _ => format!("{text}: **missed**"),
        }
    }
}

/// The rows, a column for each contender.
pub(crate) fn table(rows: &[Row]) {
    line(
        "| | nginx | nginx tuned | haproxy | caddy | mini | mini ÷ nginx | mini ÷ tuned | target |",
    );
    line("|---|---|---|---|---|---|---|---|---|");
    for row in rows {
        let mut cells = vec![format!("{}, {}", row.what, row.unit)];
        for kind in Kind::ALL {
            cells.push(row.values(kind).map_or("–".into(), |values| figure(median(values))));
        }
        for other in [Kind::Packaged, Kind::Tuned] {
            cells.push(match row.ratio(other) {
                Some([middle, low, high]) => format!("**{middle:.2}** ({low:.2}–{high:.2})"),
                None => "–".into(),
            });
        }
        cells.push(row.verdict());
        line(&format!("| {} |", cells.join(" | ")));
    }
}

/// Three digits that say something.
pub(crate) fn figure(value: f64) -> String {
    match value {
        v if v.abs() < 10.0 => format!("{v:.2}"),
        v if v.abs() < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let of =
            vec![(Kind::Tuned, vec![10.0, 20.0, 40.0]), (Kind::Mini(10), vec![9.0, 20.0, 60.0])];
        let mut row = Row { what: "x".into(), unit: "us", of, target: Some(Target::OfNginx(1.0)) };
        assert_eq!(row.ratio(Kind::Tuned).unwrap()[0], 1.0);
        assert_eq!(row.ratio(Kind::Packaged), None);
        assert_eq!(row.verdict(), "≤ 1.0 × both: met");
        row.target = Some(Target::Absolute(19.0));
        assert_eq!(row.verdict(), "≤ 19 us: **missed**");
    }
}
