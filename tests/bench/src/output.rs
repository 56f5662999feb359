//! All printing: the table to stdout, what is going on to stderr.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this module is where printing happens"
)]

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) measured: String,
    /// What was compared, or what the figure is made of.
    pub(crate) beside: String,
    pub(crate) goal: String,
    pub(crate) met: bool,
}

pub(crate) fn say(text: &str) {
    eprintln!("bench: {text}");
}

pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints the rows with columns as wide as they need.
pub(crate) fn table(rows: &[Row]) {
    let head = ["", "measured", "goal", "", "compared with, made of"].map(str::to_owned);
    let cells = |row: &Row| {
        let verdict = if row.met { "met" } else { "MISSED" };
        let cells = [&row.what, &row.measured, &row.goal, verdict, &row.beside];
        cells.map(|cell: &str| cell.to_owned())
    };
    let lines: Vec<[String; 5]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let width = |n: usize| lines.iter().map(|l| l[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    }
}
