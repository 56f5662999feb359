//! Text that comes in pieces, cut into lines.

/// The longest line; longer ones are split, so that a program that never ends its line cannot
/// fill our memory.
const LONGEST: usize = 10_000;

#[derive(Default)]
pub(crate) struct LineBuffer {
    begun: String,
}

impl LineBuffer {
    /// Takes a piece; every line that it ends goes to `line`.
    pub(crate) fn feed(&mut self, text: &str, mut line: impl FnMut(&str)) {
        for part in text.split_inclusive('\n') {
            self.begun.push_str(part);
            if let Some(ended) = self.begun.strip_suffix('\n') {
                line(last_shown(ended));
                self.begun.clear();
            } else if self.begun.len() > LONGEST {
                line(last_shown(&self.begun));
                self.begun.clear();
            }
        }
    }

    /// What was begun and will not be ended.
    pub(crate) fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.begun);
        (!rest.is_empty()).then(|| last_shown(&rest).to_owned())
    }
}

/// What a terminal would show of a line that was drawn over with carriage returns.
fn last_shown(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let (mut buffer, mut lines) = (LineBuffer::default(), Vec::new());
        for piece in pieces {
            buffer.feed(piece, |line| lines.push(line.to_owned()));
        }
        (lines, buffer.rest())
    }

    #[test]
    fn pieces_become_lines() {
        let (found, rest) = lines(&["one\ntw", "o\r\n\n5%\r1", "0%"]);
        assert_eq!(found, ["one", "two", ""]);
        assert_eq!(rest.as_deref(), Some("10%"));
    }

    #[test]
    fn a_line_without_an_end_is_split() {
        let (found, rest) = lines(&vec!["ä".repeat(600).as_str(); 100]);
        assert!(found.len() > 5 && found.iter().all(|line| line.len() < LONGEST + 1300));
        let total: usize = found.iter().map(String::len).sum();
        assert_eq!(total + rest.map_or(0, |rest| rest.len()), 600 * 2 * 100);
    }
}
