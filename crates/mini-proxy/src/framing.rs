//! What of a client's HTTP/1.1 framing is checked on the raw bytes.
//!
//! hyper mends some messages before a service sees them: of a request with Content-Length and
//! Transfer-Encoding it drops the length, it accepts a bare LF as a line end, and it folds equal
//! Content-Length fields into one. Each of these is how one request is smuggled past a second
//! reader (RFC 9112 sections 6.1, 6.3 and 11.2), so this scanner reads along, byte for byte, and says
//! from which request of a connection on nothing may be believed.
//!
//! Pure: bytes in, a verdict out.

/// All header fields and the request line of one request, in bytes: CONTRACTS, "Routing".
pub(crate) const MAX_HEAD: usize = 64 << 10;

/// Why a request's framing was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    BareLineFeed,
    LengthAndCoding,
    Length,
    Coding,
    Chunk,
    TooLarge,
}

impl Refusal {
    /// For the client, as the end of a sentence.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Refusal::BareLineFeed => "a line ends in LF without CR",
            Refusal::LengthAndCoding => "it has both Content-Length and Transfer-Encoding",
            Refusal::Length => "its Content-Length is not one plain number",
            Refusal::Coding => "its Transfer-Encoding is not just \"chunked\"",
            Refusal::Chunk => "a chunk of its body is malformed",
            Refusal::TooLarge => "its header fields are larger than 64 KiB",
        }
    }
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    /// The head so far, while it is split over reads.
    head: Vec<u8>,
    /// Heads that have begun.
    begun: u64,
    refused: Option<(u64, Refusal)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkSize(Size),
    ChunkData(u64),
    /// After a chunk's data: CR, then LF.
    ChunkEnd {
        cr: bool,
    },
    /// In a line of the trailer section.
    Trailer {
        empty: bool,
        cr: bool,
    },
    /// After a refusal or an upgrade nothing is read any more.
    Opaque,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Size {
    value: u64,
    digits: u8,
    extension: bool,
    cr: bool,
}

enum Body {
    None,
    Length(u64),
    Chunked,
    Opaque,
}

impl Scanner {
    /// Reads on.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Opaque => return,
                State::Head => self.head(bytes),
                State::Length(left) => {
                    let n = left.min(bytes.len() as u64);
                    self.state = if n == left { State::Head } else { State::Length(left - n) };
                    n as usize
                }
                State::ChunkData(left) => {
                    let n = left.min(bytes.len() as u64);
                    self.state = if n == left {
                        State::ChunkEnd { cr: false }
                    } else {
                        State::ChunkData(left - n)
                    };
                    n as usize
                }
                _ => {
                    self.chunk_byte(bytes[0]);
                    1
                }
            };
            bytes = &bytes[used..];
        }
    }

    /// Which request (counted from 1) was the first that is refused, and why.
    pub(crate) fn refused(&self) -> Option<(u64, Refusal)> {
        self.refused
    }

    /// Whether a request has begun to arrive and is not complete.
    pub(crate) fn mid_message(&self) -> bool {
        match self.state {
            State::Head => !self.head.is_empty(),
            _ => true,
        }
    }

    fn refuse(&mut self, why: Refusal) {
        self.refused.get_or_insert((self.begun, why));
        self.state = State::Opaque;
        self.head = Vec::new();
    }

    /// Reads into a head; answers how many bytes it took.
    fn head(&mut self, bytes: &[u8]) -> usize {
        let fresh;
        if self.head.is_empty() {
            // Empty lines before a request are skipped (RFC 9112 section 2.2).
            let skip = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
            if skip > 0 {
                return skip;
            }
            self.begun += 1;
            if let Some(end) = end_of_head(bytes, 0) {
                self.head_complete(&bytes[..end]);
                return end;
            }
            self.head.extend_from_slice(bytes);
            fresh = 0;
        } else {
            let old = self.head.len();
            fresh = old - 1;
            self.head.extend_from_slice(bytes);
            if let Some(end) = end_of_head(&self.head, old.saturating_sub(3)) {
                let head = std::mem::take(&mut self.head);
                self.head_complete(&head[..end]);
                return end - old;
            }
        }
        // Only what is new is looked at, so that a head of single bytes costs no more than another.
        if has_bare_lf(&self.head[fresh..]) {
            self.refuse(Refusal::BareLineFeed);
        } else if self.head.len() > MAX_HEAD {
            self.refuse(Refusal::TooLarge);
        }
        bytes.len()
    }

    fn head_complete(&mut self, head: &[u8]) {
        match read_head(head) {
            Ok(Body::None) => self.state = State::Head,
            Ok(Body::Length(n)) => self.state = State::Length(n),
            Ok(Body::Chunked) => self.state = State::ChunkSize(Size::default()),
            Ok(Body::Opaque) => self.state = State::Opaque,
            Err(why) => self.refuse(why),
        }
    }

    fn chunk_byte(&mut self, byte: u8) {
        let next = match self.state {
            State::ChunkSize(size) => chunk_size(size, byte),
            State::ChunkEnd { cr: false } if byte == b'\r' => Some(State::ChunkEnd { cr: true }),
            State::ChunkEnd { cr: true } if byte == b'\n' => {
                Some(State::ChunkSize(Size::default()))
            }
            State::Trailer { empty, cr } => match (byte, cr) {
                (b'\n', true) if empty => Some(State::Head),
                (b'\n', true) => Some(State::Trailer { empty: true, cr: false }),
                (b'\n', false) | (_, true) => None,
                (b'\r', false) => Some(State::Trailer { empty, cr: true }),
                _ => Some(State::Trailer { empty: false, cr: false }),
            },
            _ => None,
        };
        match next {
            Some(state) => self.state = state,
            None => self.refuse(Refusal::Chunk),
        }
    }
}

fn chunk_size(mut size: Size, byte: u8) -> Option<State> {
    match byte {
        b'\n' if size.cr && size.digits > 0 => {
            return Some(match size.value {
                0 => State::Trailer { empty: true, cr: false },
                n => State::ChunkData(n),
            });
        }
        b'\n' => return None,
        _ if size.cr => return None,
        b'\r' => size.cr = true,
        _ if size.extension => {}
        b';' | b' ' | b'\t' => size.extension = true,
        _ => {
            let digit = (byte as char).to_digit(16)?;
            size.digits = size.digits.checked_add(1).filter(|d| *d <= 16)?;
            size.value = size.value << 4 | u64::from(digit);
        }
    }
    Some(State::ChunkSize(size))
}

fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    bytes[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| from + at + 4)
}

/// Whether an LF follows something that is not CR. `bytes` never begins with an LF to be judged.
fn has_bare_lf(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|w| w[1] == b'\n' && w[0] != b'\r')
}

fn read_head(head: &[u8]) -> Result<Body, Refusal> {
    if has_bare_lf(head) {
        return Err(Refusal::BareLineFeed);
    }
    if head.len() > MAX_HEAD {
        return Err(Refusal::TooLarge);
    }
    let mut lines = head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
    let request_line = lines.next().unwrap_or_default();
    if request_line.starts_with(b"CONNECT ") {
        return Ok(Body::Opaque);
    }
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().and_then(|v| v.parse::<u64>().ok());
            match number {
                Some(n) if digits && length.is_none() => length = Some(n),
                _ => return Err(Refusal::Length),
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Any other coding would be lost with the hop-by-hop field.
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::Coding);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(Refusal::LengthAndCoding),
        (None, true) => Ok(Body::Chunked),
        (Some(n), false) if n > 0 => Ok(Body::Length(n)),
        _ => Ok(Body::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans `input` in pieces of every size, which must not matter.
    fn scan(input: &str) -> Scanner {
        let mut whole = Scanner::default();
        whole.push(input.as_bytes());
        for size in 1..input.len().min(40) {
            let mut pieces = Scanner::default();
            input.as_bytes().chunks(size).for_each(|c| pieces.push(c));
            assert_eq!(pieces.refused(), whole.refused(), "in pieces of {size}: {input:?}");
            assert_eq!(pieces.mid_message(), whole.mid_message(), "in pieces of {size}");
            assert_eq!(pieces.begun, whole.begun, "in pieces of {size}: {input:?}");
        }
        whole
    }

    #[test]
    fn whole_requests_are_followed_to_their_end() {
        let input = "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
                     POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
                     POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                     5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n\
                     \r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let scanner = scan(input);
        assert_eq!((scanner.refused(), scanner.begun), (None, 4));
        assert!(!scanner.mid_message());
        assert!(scan("GET / HTTP/1.1\r\nHo").mid_message());
        assert!(scan("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel").mid_message());
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        for (input, why) in [
            (post("Content-Length: 5\r\nTransfer-Encoding: chunked"), Refusal::LengthAndCoding),
            (post("transfer-encoding: chunked\r\nCONTENT-LENGTH: 0"), Refusal::LengthAndCoding),
            (post("Content-Length: 5\r\nContent-Length: 5"), Refusal::Length),
            (post("Content-Length: +5"), Refusal::Length),
            (post("Content-Length: 99999999999999999999"), Refusal::Length),
            (post("Transfer-Encoding: gzip, chunked"), Refusal::Coding),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), Refusal::BareLineFeed),
            ("GET / HTTP/1.1\r\nHost: a\n\n".to_owned(), Refusal::BareLineFeed),
            (post("Transfer-Encoding: chunked") + "5\nhello\r\n0\r\n\r\n", Refusal::Chunk),
            (post("Transfer-Encoding: chunked") + "5\r\nhelloX", Refusal::Chunk),
            (post("Transfer-Encoding: chunked") + "\r\n", Refusal::Chunk),
            (post("Transfer-Encoding: chunked") + "11111111111111111\r\n", Refusal::Chunk),
        ] {
            assert_eq!(scan(&input).refused(), Some((1, why)), "{input:?}");
        }
        let second = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + &post("Content-Length: x");
        assert_eq!(scan(&second).refused(), Some((2, Refusal::Length)));
    }

    #[test]
    fn a_head_over_the_limit_is_refused_before_its_end() {
        let mut scanner = Scanner::default();
        scanner.push(b"GET / HTTP/1.1\r\nX: ");
        for _ in 0..65 {
            scanner.push(&[b'a'; 1024]);
        }
        assert_eq!(scanner.refused(), Some((1, Refusal::TooLarge)));
    }
}
