//! From a request's path to names of files, and back for redirects.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A decoded request path in which no segment climbs, hides or contains a slash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SitePath {
    /// The names from the root down, without empty ones.
    pub(crate) segments: Vec<OsString>,
    /// Whether a folder was asked for: the path ends with a slash.
    pub(crate) folder: bool,
}

/// Why a path names no file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A `%` that is not followed by two hex digits.
    Malformed,
    /// A name that is never served: `..`, a dotfile, or one with a slash or NUL in it.
    Hidden,
}

impl SitePath {
    /// Reads the path of a request target, as sent.
    ///
    /// Split first and decode after, so that an encoded slash stays inside its segment and is
    /// refused there. Names that begin with a dot are refused, `.` and `..` among them; only
    /// `.well-known` at the root is public (RFC 8615).
    pub(crate) fn parse(raw: &str) -> Result<Self, Refused> {
        let mut segments = Vec::new();
        for part in raw.split('/').filter(|part| !part.is_empty()) {
            let name = decode(part.as_bytes()).ok_or(Refused::Malformed)?;
            let well_known = segments.is_empty() && name == b".well-known";
            if name.contains(&b'/') || name.contains(&0) || name[0] == b'.' && !well_known {
                return Err(Refused::Hidden);
            }
            segments.push(OsString::from_vec(name));
        }
        Ok(Self { folder: segments.is_empty() || raw.ends_with('/'), segments })
    }

    /// The same path as a folder's, for a `Location`. It is put together from the decoded names,
    /// so it has one leading slash whatever was sent: `//evil.example` and `/\evil.example`,
    /// which browsers take for another host, cannot come out.
    pub(crate) fn as_folder(&self) -> String {
        let mut location = String::from("/");
        for segment in &self.segments {
            for byte in segment.as_bytes() {
                encode(*byte, &mut location);
            }
            location.push('/');
        }
        location
    }
}

/// Percent-decodes one segment (RFC 3986 section 2.1); `None` if it is malformed.
fn decode(segment: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = char::from(*bytes.next()?).to_digit(16)?;
        let low = char::from(*bytes.next()?).to_digit(16)?;
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(decoded)
}

/// Appends a byte, percent-encoded unless it may stand in a segment (RFC 3986 section 3.3).
fn encode(byte: u8, into: &mut String) {
    if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
        into.push(char::from(byte));
    } else {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        into.push('%');
        into.push(char::from(HEX[usize::from(byte >> 4)]));
        into.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_once_and_empty_ones_dropped() {
        let path = SitePath::parse("//a%20b/%25zz//c").unwrap();
        assert_eq!(path.segments, ["a b", "%zz", "c"]);
        assert!(!path.folder);
        assert!(SitePath::parse("/a/").unwrap().folder);
        assert!(SitePath::parse("/").unwrap().folder);
    }

    #[test]
    fn what_climbs_or_hides_is_refused() {
        for raw in ["/..", "/a/../b", "/%2e%2e/x", "/.env", "/a/.git/config", "/a%2fb", "/a%00"] {
            assert_eq!(SitePath::parse(raw), Err(Refused::Hidden), "{raw}");
        }
        assert_eq!(SitePath::parse("/a/.well-known/x"), Err(Refused::Hidden));
        assert!(SitePath::parse("/.well-known/security.txt").is_ok());
        for raw in ["/%", "/%4", "/%zz", "/a%+1"] {
            assert_eq!(SitePath::parse(raw), Err(Refused::Malformed), "{raw}");
        }
    }

    #[test]
    fn a_location_never_names_a_host() {
        let location = |raw| SitePath::parse(raw).unwrap().as_folder();
        assert_eq!(location("//evil.example"), "/evil.example/");
        assert_eq!(location("/%5Cevil.example"), "/%5Cevil.example/");
        assert_eq!(location("/a%3Fb/%C3%A9"), "/a%3Fb/%C3%A9/");
    }
}
