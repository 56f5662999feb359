//! Where a head ends.

use super::{MAX_HEAD, Refusal};

/// Empty lines before a request are skipped (RFC 9112 section 2.2): how many bytes they are.
pub(crate) fn skip_empty_lines(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    at
}

/// Looks for the end of a head that arrives in pieces; looks at no byte twice.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    seen: usize,
}

impl Finder {
    /// The length of the request head that `bytes` begins with, its empty line included; `None` if
    /// it is not complete.
    ///
    /// A bare LF (section 2.2 lets a recipient take it for a line end, and one behind us may not)
    /// and what cannot be the begin of a request are refused before that.
    pub(crate) fn request(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        if bytes.first().is_some_and(|first| !first.is_ascii_alphabetic() && *first != b'\r') {
            return Err(Refusal::NotHttp);
        }
        let found = self.find(bytes, |at| match (at.checked_sub(1), at.checked_sub(3)) {
            (Some(before), _) if bytes[before] != b'\r' => Err(Refusal::BareLineFeed),
            (None, _) => Err(Refusal::BareLineFeed),
            (_, Some(start)) => Ok(&bytes[start..at] == b"\r\n\r"),
            _ => Ok(false),
        })?;
        if found.unwrap_or(bytes.len()) > MAX_HEAD { Err(Refusal::TooLarge) } else { Ok(found) }
    }

    /// The same for the head of an answer, in which lines may end in LF alone: an app may be
    /// sloppy, and what is written to the client is not.
    pub(crate) fn response(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let found = self.find(bytes, |at| {
            let line = &bytes[..at];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            Ok(line.ends_with(b"\n"))
        })?;
        if found.unwrap_or(bytes.len()) > MAX_HEAD { Err(Refusal::TooLarge) } else { Ok(found) }
    }

    /// Asks `ends` at each LF that was not seen before.
    fn find(
        &mut self,
        bytes: &[u8],
        ends: impl Fn(usize) -> Result<bool, Refusal>,
    ) -> Result<Option<usize>, Refusal> {
        let from = self.seen.min(bytes.len());
        for at in memchr::memchr_iter(b'\n', &bytes[from..]) {
            if ends(from + at)? {
                self.seen = 0;
                return Ok(Some(from + at + 1));
            }
        }
        self.seen = bytes.len();
        Ok(None)
    }
}
