//! One record and its form on the disk:
//! `nanoseconds TAB source TAB process TAB instance TAB text LF`.

use mini_core::id::InstanceId;

use crate::clock;

/// Longer lines are split (CONTRACTS, "Logs").
pub(crate) const MAX_TEXT: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) at_nanos: i64,
    /// `app` or `mini`.
    pub(crate) source: String,
    /// `web.1`, `deploy`, `build`, `router`.
    pub(crate) process: String,
    /// The first characters of the instance's id, or `-`.
    pub(crate) instance: String,
    pub(crate) text: String,
}

/// What the proxy wrote of one request: printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterLine {
    pub(crate) at_nanos: i64,
    pub(crate) text: String,
}

impl RouterLine {
    /// Writes it as it stands in the file: tens of thousands a second may come.
    pub(super) fn write(&self, file: &mut String) {
        use std::fmt::Write as _;
        let text = &self.text[..self.text.floor_char_boundary(MAX_TEXT)];
        let _ = writeln!(file, "{}\tmini\trouter\t-\t{text}", self.at_nanos);
    }
}

pub(super) fn short(instance: &InstanceId) -> &str {
    let id = instance.as_str();
    &id[..id.len().min(12)]
}

impl Record {
    pub(crate) fn platform(process: &str, text: String) -> Self {
        Self {
            at_nanos: clock::now_nanos(),
            source: "mini".into(),
            process: process.into(),
            instance: "-".into(),
            text,
        }
    }

    pub(crate) fn of_app(
        at_nanos: i64,
        process: String,
        instance: &InstanceId,
        raw: &[u8],
    ) -> Self {
        let text = String::from_utf8_lossy(raw).into_owned();
        Self { at_nanos, source: "app".into(), process, instance: short(instance).into(), text }
    }

    /// The record as it stands in the file; control characters are made visible.
    pub(super) fn line(&self) -> String {
        let mut line =
            format!("{}\t{}\t{}\t{}\t", self.at_nanos, self.source, self.process, self.instance);
        let mut taken = 0;
        for c in self.text.chars() {
            taken += c.len_utf8();
            if taken > MAX_TEXT {
                break;
            }
            match c {
                '\t' | '\u{1b}' => line.push(c),
                '\r' => {}
                c if c.is_control() => line.extend(c.escape_default()),
                c => line.push(c),
            }
        }
        line.push('\n');
        line
    }

    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(5, '\t');
        let at_nanos = fields.next()?.parse().ok()?;
        let mut field = || fields.next().map(str::to_owned);
        Some(Self {
            at_nanos,
            source: field()?,
            process: field()?,
            instance: field()?,
            text: field()?,
        })
    }
}
