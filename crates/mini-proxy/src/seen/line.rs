//! The router's line for one request (CONTRACTS, "Logs"). Pure.
//!
//! `APP TAB NANOSECONDS TAB TEXT LF`. Whatever comes from the client is escaped, so that the line
//! stays one and says what it means: a quote inside quotes has a backslash before it, and every
//! byte that is not a printable ASCII character is `\xNN`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{AppSeen, Finished};

/// Longer ones are cut, in bytes before escaping. With every byte escaped a line still fits into the
/// log's 10,000.
const MAX_PATH: usize = 1500;
const MAX_HOST: usize = 255;
const MAX_FWD: usize = 300;
const MAX_ID: usize = 128;
const MAX_METHOD: usize = 32;
/// No line is longer than this, in bytes.
pub(super) const MAX_LINE: usize = 10_000;

pub(super) fn write(
    out: &mut Vec<u8>,
    app: &AppSeen,
    at_nanos: i64,
    process: &str,
    request: &Finished<'_>,
    took: Duration,
) {
    out.extend_from_slice(app.app.as_str().as_bytes());
    out.push(b'\t');
    number(out, u64::try_from(at_nanos).unwrap_or(0));
    match request.error {
        None => out.extend_from_slice(b"\tat=info method="),
        Some(code) => {
            out.extend_from_slice(b"\tat=error code=");
            out.extend_from_slice(code.name().as_bytes());
            out.extend_from_slice(b" desc=\"");
            escape(out, code.title().as_bytes(), MAX_FWD, QUOTED);
            out.extend_from_slice(b"\" method=");
        }
    }
    escape(out, request.method.as_bytes(), MAX_METHOD, BARE);
    out.extend_from_slice(b" path=\"");
    let mut path = request.path;
    if !app.log_query.load(Relaxed)
        && let Some(query) = path.iter().position(|b| *b == b'?')
    {
        path = &path[..query];
    }
    escape(out, path, MAX_PATH, QUOTED);
    out.extend_from_slice(b"\" host=");
    escape(out, request.host, MAX_HOST, BARE);
    out.extend_from_slice(b" request_id=");
    escape(out, request.request_id, MAX_ID, BARE);
    out.extend_from_slice(b" fwd=\"");
    escape(out, request.fwd, MAX_FWD, QUOTED);
    out.extend_from_slice(b"\" process=");
    out.extend_from_slice(process.as_bytes());
    out.extend_from_slice(b" connect=");
    number(out, millis(request.connect));
    out.extend_from_slice(b"ms service=");
    number(out, millis(took.saturating_sub(request.connect)));
    out.extend_from_slice(b"ms status=");
    number(out, request.status.into());
    out.extend_from_slice(b" bytes=");
    number(out, request.bytes_out);
    out.extend_from_slice(if request.https { b" protocol=https\n" } else { b" protocol=http\n" });
}

/// A client's text for a line of the platform's own log.
pub(super) fn shown(text: &[u8]) -> String {
    let mut out = Vec::new();
    escape(&mut out, text, MAX_HOST, BARE);
    String::from_utf8_lossy(&out).into_owned()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Which bytes stand for themselves: between quotes, and where a blank ends the value.
type Plain = [bool; 256];
const QUOTED: &Plain = &plain(b"\"\\");
const BARE: &Plain = &plain(b"\"\\ =");

const fn plain(but: &[u8]) -> Plain {
    let mut table = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        table[byte] = true;
        byte += 1;
    }
    let mut n = 0;
    while n < but.len() {
        table[but[n] as usize] = false;
        n += 1;
    }
    table
}

fn escape(out: &mut Vec<u8>, text: &[u8], max: usize, plain: &Plain) {
    let (mut rest, cut) = if text.len() > max { (&text[..max], true) } else { (text, false) };
    while let Some(at) = rest.iter().position(|byte| !plain[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
                out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte)]);
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    if cut {
        out.extend_from_slice(b"...");
    }
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
