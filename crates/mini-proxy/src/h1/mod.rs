//! HTTP/1.1 messages (RFC 9112): bytes in; a head, the length of a body, or a refusal out.
//!
//! This is the one place where it is decided where a message ends. Whoever forwards a message
//! writes its framing anew from what was understood here, and passes none of it on as it came: two
//! readers that differ about a length are how a request is smuggled past the second (section 11.2).
//!
//! Pure: no I/O, no clock.

mod body;
mod chunked;
mod field;
mod find;
mod request;
mod response;

pub(crate) use body::{Body, Step};
pub(crate) use field::{Known, known, list};
pub(crate) use find::{Finder, skip_empty_lines};
pub(crate) use request::Request;
pub(crate) use response::Response;

use std::mem::MaybeUninit;

/// Header fields in one message: CONTRACTS, "Routing".
pub(crate) const MAX_FIELDS: usize = 100;

/// The first line and all header fields of one message, in bytes: CONTRACTS, "Routing".
pub(crate) const MAX_HEAD: usize = 64 << 10;

/// Room for the fields of a head while it is read.
pub(crate) type Room<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_FIELDS];

pub(crate) const fn room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    BareLineFeed,
    NotHttp,
    LengthAndCoding,
    Length,
    Coding,
    Chunk,
    Connect,
    Trace,
    Target,
    Hosts,
    NoHost,
    HostDiffers,
    Connection,
    TooLarge,
    TooManyFields,
}

impl Refusal {
    /// For the client, as the end of a sentence.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Refusal::BareLineFeed => "a line ends in LF without CR",
            Refusal::NotHttp => "it is not HTTP/1.1",
            Refusal::LengthAndCoding => "it has both Content-Length and Transfer-Encoding",
            Refusal::Length => "its Content-Length is not one plain number",
            Refusal::Coding => "its Transfer-Encoding is not just \"chunked\"",
            Refusal::Chunk => "a chunk of its body is malformed",
            Refusal::Connect => "CONNECT is not supported",
            Refusal::Trace => "TRACE is not supported",
            Refusal::Target => "its target is not a path",
            Refusal::Hosts => "it has more than one Host header",
            Refusal::NoHost => "it has no Host header",
            Refusal::HostDiffers => "its Host header differs from its target",
            Refusal::Connection => "its Connection header names too many fields",
            Refusal::TooLarge => "its header fields are larger than 64 KiB",
            Refusal::TooManyFields => "it has more than 100 header fields",
        }
    }

    /// Whether the head was too large (431) rather than wrong (400).
    pub(crate) fn is_size(self) -> bool {
        matches!(self, Refusal::TooLarge | Refusal::TooManyFields)
    }

    fn of(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Refusal::TooManyFields,
            _ => Refusal::NotHttp,
        }
    }
}

#[cfg(test)]
mod tests;
