//! A body on its way: how much of the bytes that came belongs to it.

use super::Refusal;
use super::chunked::Chunked;

/// How a body is framed, and how far it has come (RFC 9112 section 6.3).
#[derive(Debug)]
pub(crate) enum Body {
    None,
    /// Bytes that are to come.
    Length(u64),
    Chunked(Box<Chunked>),
    /// An answer's only: to the end of the connection.
    UntilClose,
}

/// What was taken out of a piece of input.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Where the data begins in the input, and its length.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// How much of the input belongs to this body, framing included.
    pub(crate) used: usize,
}

impl Body {
    pub(crate) fn chunked() -> Self {
        Body::Chunked(Box::default())
    }

    /// Takes what `bytes` has of it; the data is moved together.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> Result<Step, Refusal> {
        let all = |n| Step { start: 0, len: n, used: n };
        match self {
            Body::None => Ok(all(0)),
            Body::UntilClose => Ok(all(bytes.len())),
            Body::Length(left) => {
                let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= n as u64;
                Ok(all(n))
            }
            Body::Chunked(chunked) => chunked.take(bytes),
        }
    }

    /// Whether all of it came. One that ends with its connection never says so by itself.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Body::None => true,
            Body::Length(left) => *left == 0,
            Body::Chunked(chunked) => chunked.is_done(),
            Body::UntilClose => false,
        }
    }

    /// The trailer fields that may go on, each with its CRLF.
    pub(crate) fn trailers(&self) -> &[u8] {
        match self {
            Body::Chunked(chunked) => chunked.trailers(),
            _ => &[],
        }
    }
}
