//! Reading an app's log: the last lines, and what comes after a place. Blocking.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use mini_core::id::InstanceId;

use super::record::{Record, short};
use super::segment::{segments, stream_end};

const CHUNK: u64 = 64 << 10;
/// How far back the last line of an instance is looked for.
pub(super) const LOOK_BACK: u64 = 8 << 20;

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) source: Option<String>,
    /// `web` for all of that type, or `web.1`.
    pub(crate) process: Option<String>,
    pub(crate) since_nanos: Option<i64>,
    /// One instance only.
    pub(crate) instance: Option<InstanceId>,
}

impl Filter {
    /// Whether this record and all before it are too old. Timestamps are nearly, not strictly, in
    /// order.
    fn is_before(&self, record: &Record) -> bool {
        self.since_nanos.is_some_and(|since| record.at_nanos < since.saturating_sub(60_000_000_000))
    }

    fn wants(&self, record: &Record) -> bool {
        let process = |wanted: &String| {
            record.process == *wanted
                || record.process.split_once('.').is_some_and(|(kind, _)| kind == wanted)
        };
        self.source.as_ref().is_none_or(|s| *s == record.source)
            && self.process.as_ref().is_none_or(process)
            && self.instance.as_ref().is_none_or(|i| short(i) == record.instance)
            && self.since_nanos.is_none_or(|since| record.at_nanos >= since)
    }
}

/// What one read found.
pub(crate) struct Page {
    /// Records with their numbers.
    pub(crate) records: Vec<(u64, Record)>,
    /// Where to go on.
    pub(crate) next: u64,
    /// Bytes that were wanted and are gone.
    pub(crate) missed: u64,
}

pub(crate) struct Reader {
    folder: PathBuf,
}

impl Reader {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn end(&self) -> io::Result<u64> {
        stream_end(&self.folder)
    }

    /// The last `count` records before `end` that the filter wants, oldest first.
    pub(crate) fn last(
        &self,
        count: usize,
        filter: &Filter,
        end: u64,
    ) -> io::Result<Vec<(u64, Record)>> {
        let mut found = Vec::new();
        self.backwards(end, u64::MAX, |number, record| {
            let too_old = filter.is_before(&record);
            if filter.wants(&record) && found.len() < count {
                found.push((number, record));
            }
            !too_old && found.len() < count
        })?;
        found.reverse();
        Ok(found)
    }

    /// The number after which the last `count` records before `end` come that the filter wants.
    pub(crate) fn before_last(&self, count: usize, filter: &Filter, end: u64) -> io::Result<u64> {
        let (mut found, mut start) = (0, None);
        self.backwards(end, u64::MAX, |number, record| {
            if found == count || filter.is_before(&record) {
                start = Some(number);
                return false;
            }
            found += usize::from(filter.wants(&record));
            true
        })?;
        let oldest = || Ok(segments(&self.folder)?.first().map_or(0, |(start, _, _)| *start));
        start.map_or_else(oldest, Ok)
    }

    /// The timestamp up to which an instance's lines are kept: that of its newest record. Of one
    /// that has been silent for long, that of the oldest record that was looked at.
    pub(super) fn last_of(&self, instance: &str, look_back: u64) -> Option<i64> {
        let end = self.end().ok()?;
        let (mut found, mut oldest) = (None, None);
        let whole = self.backwards(end, look_back, |_, record| {
            if record.instance == instance {
                found = Some(record.at_nanos);
            }
            oldest = Some(record.at_nanos);
            found.is_none()
        });
        if whole.ok()? { found } else { found.or(oldest) }
    }

    /// Up to about `CHUNK` bytes of records from `after` on.
    pub(crate) fn after(&self, after: u64, filter: &Filter) -> io::Result<Page> {
        let segments = segments(&self.folder)?;
        let oldest = segments.first().map_or(after, |(start, _, _)| *start);
        let missed = oldest.saturating_sub(after);
        let mut next = after.max(oldest);
        let mut records = Vec::new();
        let here =
            segments.iter().find(|(start, length, _)| (*start..start + length).contains(&next));
        if let Some((start, length, path)) = here {
            let bytes = read_at(path, next - start, (length - (next - start)).min(CHUNK))?;
            // Whole lines only; a line that is longer than the chunk cannot be (they are split).
            let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            for line in bytes[..whole].split_inclusive(|b| *b == b'\n') {
                next += line.len() as u64;
                if let Some(record) = parse(line).filter(|r| filter.wants(r)) {
                    records.push((next, record));
                }
            }
        }
        Ok(Page { records, next, missed })
    }

    /// Calls `each` with records from `end` backwards until it says no, or `limit` bytes are read:
    /// then false.
    fn backwards(
        &self,
        end: u64,
        limit: u64,
        mut each: impl FnMut(u64, Record) -> bool,
    ) -> io::Result<bool> {
        let mut read = 0;
        for (start, length, path) in segments(&self.folder)?.into_iter().rev() {
            let mut upto = length.min(end.saturating_sub(start));
            // The beginning of a line whose end was in the chunk after this one.
            let mut tail: Vec<u8> = Vec::new();
            while upto > 0 {
                if read >= limit {
                    return Ok(false);
                }
                let from = upto.saturating_sub(CHUNK);
                let mut bytes = read_at(&path, from, upto - from)?;
                read += bytes.len() as u64;
                let mut at = start + upto + tail.len() as u64;
                bytes.append(&mut tail);
                let first_line = if from == 0 {
                    0
                } else {
                    bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |p| p + 1)
                };
                for line in bytes[first_line..].split_inclusive(|b| *b == b'\n').rev() {
                    if line.ends_with(b"\n")
                        && let Some(record) = parse(line)
                        && !each(at, record)
                    {
                        return Ok(true);
                    }
                    at -= line.len() as u64;
                }
                bytes.truncate(first_line);
                tail = bytes;
                upto = from;
            }
        }
        Ok(true)
    }
}

fn read_at(path: &std::path::Path, from: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    let file = File::open(path)?;
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], from + got as u64)? {
            0 => break,
            n => got += n,
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

fn parse(line: &[u8]) -> Option<Record> {
    Record::parse(std::str::from_utf8(line).ok()?.strip_suffix('\n')?)
}
