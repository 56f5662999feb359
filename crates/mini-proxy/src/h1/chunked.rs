//! The chunked coding (RFC 9112 section 7.1).

use super::body::Step;
use super::{Known, Refusal, known};

/// A chunk's size line with its extensions, in bytes.
const MAX_LINE: u16 = 1024;
/// The trailer section, in bytes and in fields.
const MAX_TRAILERS: usize = 8 << 10;
const MAX_TRAILER_FIELDS: usize = 32;

/// Decodes one body.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    /// The trailer section: as it comes, and at the end what of it may go on.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
        line: u16,
        extension: bool,
        cr: bool,
    },
    Data(u64),
    /// After a chunk's data: CR, then LF.
    DataEnd {
        cr: bool,
    },
    Trailers,
    Done,
}

impl Default for State {
    fn default() -> Self {
        State::Size { value: 0, digits: 0, line: 0, extension: false, cr: false }
    }
}

impl Chunked {
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The fields of the trailer section that may go on, each with its CRLF; empty before the end.
    pub(crate) fn trailers(&self) -> &[u8] {
        if self.is_done() { &self.trailers } else { &[] }
    }

    /// Decodes what `bytes` has of the body, and moves its data together.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> Result<Step, Refusal> {
        let mut step = Step::default();
        while step.used < bytes.len() && !self.is_done() {
            match self.state {
                State::Data(left) => {
                    let there = bytes.len() - step.used;
                    let n = usize::try_from(left).map_or(there, |left| left.min(there));
                    if step.len == 0 {
                        step.start = step.used;
                    } else {
                        bytes.copy_within(step.used..step.used + n, step.start + step.len);
                    }
                    step.len += n;
                    step.used += n;
                    let left = left - n as u64;
                    self.state =
                        if left == 0 { State::DataEnd { cr: false } } else { State::Data(left) };
                }
                State::Trailers => {
                    self.trailer_byte(bytes[step.used])?;
                    step.used += 1;
                }
                _ => {
                    self.state = self.byte(bytes[step.used]).ok_or(Refusal::Chunk)?;
                    step.used += 1;
                }
            }
        }
        Ok(step)
    }

    fn byte(&self, byte: u8) -> Option<State> {
        match self.state {
            State::Size { value, digits, line, extension, cr } => {
                let line = line + 1;
                let go_on = |value, digits, extension, cr| {
                    Some(State::Size { value, digits, line, extension, cr })
                };
                match byte {
                    b'\n' if cr && digits > 0 => {
                        Some(if value == 0 { State::Trailers } else { State::Data(value) })
                    }
                    b'\n' => None,
                    _ if cr || line > MAX_LINE => None,
                    b'\r' => go_on(value, digits, extension, true),
                    _ if extension => {
                        let text = byte == b'\t' || byte >= b' ' && byte != 0x7f;
                        if text { go_on(value, digits, true, false) } else { None }
                    }
                    b';' | b' ' | b'\t' if digits > 0 => go_on(value, digits, true, false),
                    _ => {
                        let digit = (byte as char).to_digit(16)?;
                        // 15 digits are a petabyte, and stay far from overflow.
                        if digits >= 15 {
                            return None;
                        }
                        go_on(value << 4 | u64::from(digit), digits + 1, false, false)
                    }
                }
            }
            State::DataEnd { cr: false } if byte == b'\r' => Some(State::DataEnd { cr: true }),
            State::DataEnd { cr: true } if byte == b'\n' => Some(State::default()),
            _ => None,
        }
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), Refusal> {
        let before = self.trailers.last().copied();
        if (byte == b'\n') != (before == Some(b'\r')) {
            return Err(Refusal::Chunk);
        }
        if self.trailers.len() >= MAX_TRAILERS {
            return Err(Refusal::TooLarge);
        }
        self.trailers.push(byte);
        if self.trailers == b"\r\n" {
            self.trailers.clear();
            self.state = State::Done;
        } else if self.trailers.ends_with(b"\r\n\r\n") {
            self.trailers = may_go_on(&self.trailers)?;
            self.state = State::Done;
        }
        Ok(())
    }
}

/// What of a trailer section is passed on: nothing that frames, routes or authenticates a message
/// (RFC 9110 section 6.5.1).
fn may_go_on(section: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields)
    else {
        return Err(Refusal::Chunk);
    };
    let mut kept = Vec::new();
    for field in fields {
        let name = field.name.to_ascii_lowercase();
        let bars = ["trailer", "content-", "set-cookie", "cache-control", "age", "proxy-auth"];
        if known(field.name) == Known::Other && !bars.iter().any(|bar| name.starts_with(bar)) {
            kept.extend_from_slice(field.name.as_bytes());
            kept.extend_from_slice(b": ");
            kept.extend_from_slice(field.value);
            kept.extend_from_slice(b"\r\n");
        }
    }
    Ok(kept)
}
