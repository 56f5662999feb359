//! The only place that writes to stdout and stderr: data goes to the one, all else to the other.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mini_core::cause::size;
use serde::Serialize;

use crate::ci::Actions;
use crate::failure::{Failure, Kind};
use crate::settings::Vars;

pub(crate) struct Output {
    /// Data as one JSON document.
    pub(crate) json: bool,
    pub(crate) stderr_is_terminal: bool,
    /// Colour on stdout and on stderr.
    colour: (bool, bool),
    /// The pipeline whose log this is.
    actions: Option<Actions>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A line of stderr that still waits for its end.
    open: bool,
    bar: Option<ProgressBar>,
    /// Lines of the log that are folded away.
    grouped: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Plain,
    Dim,
    Error,
    Hint,
}

impl Output {
    pub(crate) fn new(json: bool, vars: &Vars) -> Self {
        let stderr_is_terminal = io::stderr().is_terminal();
        // https://no-color.org: present and not empty.
        let allowed = vars.get("NO_COLOR").is_none() && vars.get("TERM") != Some("dumb");
        let colour = (allowed && io::stdout().is_terminal(), allowed && stderr_is_terminal);
        Self { json, stderr_is_terminal, colour, actions: None, state: Mutex::default() }
    }

    /// Plain lines for a pipeline's log, and its commands where it has some.
    pub(crate) fn for_pipeline(json: bool, vars: &Vars, actions: Option<Actions>) -> Self {
        let plain = Self {
            stderr_is_terminal: false,
            colour: (false, false),
            actions,
            ..Self::new(json, vars)
        };
        if let Some(actions) = &plain.actions {
            plain.stderr(&mut plain.state(), &actions.off());
        }
        plain
    }

    /// Folds what follows away under `title`, in a log that can; else begins an open line.
    pub(crate) fn begin_group(&self, title: &str) {
        let Some(actions) = &self.actions else {
            return self.begin(title);
        };
        let mut state = self.state();
        self.close(&mut state);
        let title = printable(title, false);
        self.stderr(&mut state, &actions.command("group", &title));
        state.grouped = true;
    }

    pub(crate) fn end_group(&self) {
        let mut state = self.state();
        if let Some(actions) = &self.actions
            && std::mem::take(&mut state.grouped)
        {
            self.close(&mut state);
            self.stderr(&mut state, &actions.command("endgroup", ""));
        }
    }

    /// A line of data.
    pub(crate) fn data(&self, line: &str) -> Result<(), Failure> {
        let line = printable(line, self.colour.0);
        self.write(format!("{line}\n").as_bytes())
    }

    /// What is shown anew takes the place of what was shown, on a terminal (ECMA-48 8.3.21, 8.3.39).
    pub(crate) fn clear_screen(&self) -> Result<(), Failure> {
        if io::stdout().is_terminal() { self.write(b"\x1b[H\x1b[2J") } else { Ok(()) }
    }

    /// Bytes as they are: completions.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(bytes)
    }

    /// stdout and stderr for the output of a remote command, passed on as it comes.
    pub(crate) fn streams(&self) -> (tokio::io::Stdout, tokio::io::Stderr) {
        self.close(&mut self.state());
        (tokio::io::stdout(), tokio::io::stderr())
    }

    /// A document of data, over several lines.
    pub(crate) fn document<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value);
        let text = text.map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
        self.write(format!("{text}\n").as_bytes())
    }

    /// One item of a stream of data: NDJSON.
    pub(crate) fn item<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(value);
        let text = text.map_err(|e| Failure::failed(format!("cannot write JSON: {e}")))?;
        self.write(format!("{text}\n").as_bytes())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut state = self.state();
        // The terminal would show the data at the end of the open line.
        self.close(&mut state);
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(Kind::BrokenPipe, ""),
            _ => Failure::io("cannot write to stdout", &e),
        })
    }

    /// A line for the user.
    pub(crate) fn say(&self, line: &str) {
        self.line(line, Style::Plain);
    }

    /// A line of somebody else's words, such as a build's output: indented.
    pub(crate) fn quote(&self, line: &str) {
        self.line(&format!("  {line}"), Style::Dim);
    }

    pub(crate) fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"), Style::Plain);
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.kind == Kind::BrokenPipe {
            return;
        }
        self.end_group();
        if !failure.message.is_empty() {
            self.labelled("error:", &failure.message, Style::Error);
        }
        if let Some(hint) = &failure.hint {
            self.labelled("hint:", hint, Style::Hint);
        }
        if let Some(note) = &failure.note {
            self.labelled("note:", note, Style::Hint);
        }
        if let Some(actions) = &self.actions {
            let parts = [Some(&failure.message), failure.hint.as_ref(), failure.note.as_ref()];
            let text = parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
            let text = printable(&text.join("\n"), false);
            self.stderr(&mut self.state(), &actions.command("error title=mini deploy", &text));
        }
    }

    /// Begins a line that [`Output::end`] ends: `Starting container...`.
    pub(crate) fn begin(&self, text: &str) {
        let mut state = self.state();
        self.close(&mut state);
        let text = printable(text, false);
        self.stderr(&mut state, &format!("{text}..."));
        state.open = true;
    }

    /// Ends what `begin` began, on the same line if nothing came between.
    pub(crate) fn end(&self, text: &str) {
        let mut state = self.state();
        let text = printable(text, false);
        let (before, after) = if state.open { (" ", "\n") } else { ("  ", "\n") };
        state.open = false;
        self.stderr(&mut state, &format!("{before}{text}{after}"));
    }

    /// A question without a line end.
    pub(crate) fn ask(&self, text: &str) {
        let mut state = self.state();
        self.close(&mut state);
        self.stderr(&mut state, &format!("{text} "));
    }

    /// Work of `total` bytes: a bar on a terminal, else the open line `title...`.
    pub(crate) fn progress(&self, title: &str, total: u64) -> Progress<'_> {
        if !self.stderr_is_terminal {
            if !self.state().open {
                self.begin(title);
            }
            return Progress { out: self, bar: None, done: 0, total, told: Instant::now() };
        }
        let template = "{prefix}... {bar:24} {bytes}/{total_bytes} {eta}";
        let style = ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = ProgressBar::new(total).with_style(style).with_prefix(title.to_owned());
        let mut state = self.state();
        self.close(&mut state);
        state.bar = Some(bar.clone());
        Progress { out: self, bar: Some(bar), done: 0, total, told: Instant::now() }
    }

    /// Ends a title that [`Output::progress`] showed, or says it whole.
    pub(crate) fn end_progress(&self, title: &str, text: &str) {
        if self.state().open {
            self.end(text);
        } else {
            self.say(&format!("{title}... {text}"));
        }
    }

    fn labelled(&self, label: &str, text: &str, style: Style) {
        let mut state = self.state();
        self.close(&mut state);
        let label = self.styled(label, style);
        let text = printable(text, false);
        self.stderr(&mut state, &format!("{label} {text}\n"));
    }

    fn line(&self, line: &str, style: Style) {
        let mut state = self.state();
        self.close(&mut state);
        let line = self.styled(&printable(line, self.colour.1), style);
        self.stderr(&mut state, &format!("{line}\n"));
    }

    fn styled(&self, text: &str, style: Style) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            Style::Dim => "2",
            Style::Error => "1;31",
            Style::Hint => "36",
        };
        if self.colour.1 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn close(&self, state: &mut State) {
        if std::mem::take(&mut state.open) {
            self.stderr(state, "\n");
        }
    }

    /// Nothing can be told where stderr itself is gone.
    fn stderr(&self, state: &mut State, text: &str) {
        let write = || {
            let mut stderr = io::stderr().lock();
            let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
        };
        match &state.bar {
            Some(bar) if !bar.is_finished() => bar.suspend(write),
            _ => write(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts bytes while it lives.
pub(crate) struct Progress<'a> {
    out: &'a Output,
    bar: Option<ProgressBar>,
    done: u64,
    total: u64,
    told: Instant,
}

impl Progress<'_> {
    /// Sets how many bytes are done. Without a terminal a line every ten seconds says so.
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.told.elapsed() >= Duration::from_secs(10) {
            self.told = Instant::now();
            self.out.say(&format!("  {} of {}", size(self.done), size(self.total)));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.out.state().bar = None;
        }
    }
}

/// Text of others without what could steer the terminal: of control characters only tabs, line
/// ends and, where colour is wanted, SGR sequences (ECMA-48 8.3.117) are kept.
fn printable(text: &str, colour: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_control() && c != '\t' && c != '\n') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(sequence) = rest.strip_prefix("\x1b[") {
            let end = sequence.find(|c| ('@'..='~').contains(&c));
            let length = end.map_or(sequence.len(), |end| end + 1);
            let (sequence, after) = sequence.split_at(length);
            let plain = |c: char| c.is_ascii_digit() || c == ';' || c == 'm';
            if colour && sequence.ends_with('m') && sequence.chars().all(plain) {
                out.push_str("\x1b[");
                out.push_str(sequence);
            }
            rest = after;
        } else {
            rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
        }
    }
    out.push_str(rest);
    out
}

/// Columns, aligned, two blanks apart; the last one is not padded. One line per row.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let pad = width.saturating_sub(cell.chars().count());
            line.push_str(cell);
            line.push_str(&" ".repeat(pad + 2));
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    // A line end inside a cell would break the row.
    let flat: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.replace(['\n', '\t'], " ")).collect())
        .collect();
    lines.extend(flat.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_cannot_steer_the_terminal() {
        assert_eq!(printable("\x1b[31mred\x1b[0m", true), "\x1b[31mred\x1b[0m");
        assert_eq!(printable("\x1b[31mred\x1b[0m", false), "red");
        assert_eq!(printable("a\x1b[2Jb\x1b]0;title\x07c\rd\u{9b}e", true), "ab]0;titlecde");
        assert_eq!(printable("\x1b[", true), "");
        assert_eq!(printable("tab\tstays ü", true), "tab\tstays ü");
    }

    #[test]
    fn tables_are_aligned_and_have_no_trailing_blanks() {
        let rows = vec![vec!["a".into(), "running".into()], vec!["längst".into(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME    STATE\na       running\nlängst");
    }
}
