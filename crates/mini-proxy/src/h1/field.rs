//! The header fields that mean something to a proxy.

/// What a field is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Accept,
    Authorization,
    Connection,
    ContentLength,
    Expect,
    Host,
    /// Of this hop, whatever it says: `Keep-Alive`, `Proxy-Connection`, `HTTP2-Settings`.
    Hop,
    Te,
    TransferEncoding,
    Upgrade,
    Via,
    XRequestId,
    XForwardedFor,
    /// What only a proxy may say: `X-Forwarded-Proto`, `-Port`, `-Host`.
    XForwarded,
    /// The same, and never believed: `Forwarded`, `X-Request-Start`, `X-Mini-…`.
    Ours,
    Other,
}

/// What the field `name` is to us.
///
/// What is ours is also known as `X_Forwarded_For`, since CGI-like servers (WSGI, Rack) read `_`
/// and `-` as one.
pub(crate) fn known(name: &str) -> Known {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    let like = |other: &str| {
        let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
        name.len() == other.len() && name.bytes().zip(other.bytes()).all(same)
    };
    match name.len() {
        2 if is("te") => Known::Te,
        3 if is("via") => Known::Via,
        4 if is("host") => Known::Host,
        6 if is("accept") => Known::Accept,
        6 if is("expect") => Known::Expect,
        7 if is("upgrade") => Known::Upgrade,
        9 if is("forwarded") => Known::Ours,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::Hop,
        12 if is("x-request-id") => Known::XRequestId,
        13 if is("authorization") => Known::Authorization,
        14 if is("content-length") => Known::ContentLength,
        14 if is("http2-settings") => Known::Hop,
        15 if like("x-forwarded-for") => Known::XForwardedFor,
        15 if like("x-request-start") => Known::Ours,
        16 if is("proxy-connection") => Known::Hop,
        16 if like("x-forwarded-host") || like("x-forwarded-port") => Known::XForwarded,
        17 if is("transfer-encoding") => Known::TransferEncoding,
        17 if like("x-forwarded-proto") => Known::XForwarded,
        8.. if name.as_bytes().get(..7).is_some_and(|start| {
            start.eq_ignore_ascii_case(b"x-mini-") || start.eq_ignore_ascii_case(b"x_mini_")
        }) =>
        {
            Known::Ours
        }
        _ => Known::Other,
    }
}

/// The members of a comma-separated list (RFC 9110 section 5.6.1), the empty ones left out.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}
