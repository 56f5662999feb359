//! An answer's head (RFC 9112 sections 4 and 6.3).

use super::request::number;
use super::{Body, Known, Refusal, Room, known, list};

/// An answer's head, as it came, and what of it concerns a proxy.
pub(crate) struct Response<'b, 'r> {
    pub(crate) status: u16,
    pub(crate) reason: &'b str,
    pub(crate) fields: &'r [httparse::Header<'b>],
    pub(crate) body: Body,
    /// The upstream will take another request on this connection.
    pub(crate) keep_alive: bool,
    /// The Content-Length that the head has; also of an answer without a body (HEAD, 304).
    pub(crate) length: Option<u64>,
    pub(crate) upgrade: Option<&'b [u8]>,
    /// `Connection` names fields beside its own.
    names: bool,
}

impl<'b, 'r> Response<'b, 'r> {
    /// Reads a whole head, its empty line included; `to_head` says that HEAD was asked.
    pub(crate) fn read(
        head: &'b [u8],
        to_head: bool,
        room: &'r mut Room<'b>,
    ) -> Result<Self, Refusal> {
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let status = config
            .parse_response_with_uninit_headers(&mut parsed, head, room)
            .map_err(Refusal::of)?;
        let (httparse::Status::Complete(_), Some(status), Some(minor)) =
            (status, parsed.code, parsed.version)
        else {
            return Err(Refusal::NotHttp);
        };
        if !(100..1000).contains(&status) {
            return Err(Refusal::NotHttp);
        }
        let reason = parsed.reason.unwrap_or_default();
        let fields: &'r [httparse::Header<'b>] = parsed.headers;
        let (mut length, mut chunked, mut close, mut keep) = (None, false, false, false);
        let (mut upgrade, mut names) = (None, false);
        for field in fields {
            match known(field.name) {
                Known::ContentLength => {
                    let new = number(field.value).ok_or(Refusal::Length)?;
                    if length.replace(new).is_some() {
                        return Err(Refusal::Length);
                    }
                }
                Known::TransferEncoding => {
                    let plain = field.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
                    if chunked || !plain || minor == 0 {
                        return Err(Refusal::Coding);
                    }
                    chunked = true;
                }
                Known::Connection => {
                    for member in list(field.value) {
                        if member.eq_ignore_ascii_case(b"close") {
                            close = true;
                        } else if member.eq_ignore_ascii_case(b"keep-alive") {
                            keep = true;
                        } else {
                            names = true;
                        }
                    }
                }
                Known::Upgrade => upgrade = Some(field.value),
                _ => {}
            }
        }
        if length.is_some() && chunked {
            return Err(Refusal::LengthAndCoding);
        }
        let bodiless = to_head || matches!(status, 100..=199 | 204 | 304);
        let body = match length {
            _ if bodiless => Body::None,
            _ if chunked => Body::chunked(),
            Some(n) => Body::Length(n),
            None => Body::UntilClose,
        };
        let keep_alive =
            !close && (minor > 0 || keep) && !matches!(body, Body::UntilClose) && status != 101;
        Ok(Self { status, reason, fields, body, keep_alive, length, upgrade, names })
    }

    /// Whether a field goes on to the client as it is: nothing of this hop does (RFC 9110 section
    /// 7.6.1), and the framing is written anew.
    pub(crate) fn passes(&self, name: &str) -> bool {
        match known(name) {
            Known::Connection
            | Known::ContentLength
            | Known::Hop
            | Known::Te
            | Known::TransferEncoding
            | Known::Upgrade => false,
            _ => !self.names || !self.is_named(name),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        let connections = self.fields.iter().filter(|f| known(f.name) == Known::Connection);
        connections.flat_map(|f| list(f.value)).any(|m| m.eq_ignore_ascii_case(name.as_bytes()))
    }
}
