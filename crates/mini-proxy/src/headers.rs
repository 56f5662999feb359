//! Which header fields pass, which are dropped, and which are ours. Pure.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};

/// Header fields in one request: CONTRACTS, "Routing".
pub(crate) const MAX_FIELDS: usize = 100;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What only this proxy may say. A client's own is dropped, also as `X_Forwarded_For`, since
/// CGI-like servers (WSGI, Rack) read `_` and `-` as one.
const OURS: [&str; 6] = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-host",
    "x-request-start",
    "forwarded",
];

/// Why a request's head is refused; the text ends a sentence for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHead {
    TooManyFields,
    Because(&'static str),
}

/// The one Host of a request, in the words of the client (RFC 9112 section 3.2).
pub(crate) fn host_of<'a>(
    method: &Method,
    uri: &Uri,
    headers: &'a HeaderMap,
) -> Result<&'a str, BadHead> {
    if headers.len() > MAX_FIELDS {
        return Err(BadHead::TooManyFields);
    }
    if method == Method::CONNECT {
        return Err(BadHead::Because("CONNECT is not supported"));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().ok_or(BadHead::Because("it has no Host header"))?;
    if hosts.next().is_some() {
        return Err(BadHead::Because("it has more than one Host header"));
    }
    let host =
        host.to_str().map_err(|_| BadHead::Because("its Host header is not plain text"))?.trim();
    match uri.authority() {
        // RFC 9112 section 3.2.2 lets the target win; two readers that differ are worse.
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err(BadHead::Because("its Host header differs from its target"))
        }
        _ => Ok(host),
    }
}

/// The protocol that the client asks to switch to, if that is allowed to pass.
///
/// `h2c` is not: the upstream would then speak past every rule here.
pub(crate) fn upgrade_of(version: Version, headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = version == Version::HTTP_11 && connection_names(headers, "upgrade");
    let mut values = headers.get_all(header::UPGRADE).iter();
    let value = values.next().filter(|_| asked)?;
    let h2c = |v: &HeaderValue| {
        let text = v.as_bytes().to_ascii_lowercase();
        text.split(|b| *b == b',').any(|p| p.trim_ascii().starts_with(b"h2c"))
    };
    if values.next().is_some() || h2c(value) { None } else { Some(value.clone()) }
}

/// Whether a field of `Connection` names `token`.
pub(crate) fn connection_names(headers: &HeaderMap, token: &str) -> bool {
    connection_tokens(headers).any(|t| t.eq_ignore_ascii_case(token))
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// Drops the fields of this hop (RFC 9110 section 7.6.1), also those that `Connection` names.
///
/// `Host` and `Content-Length` stay even if named: they are the message's, not the hop's.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> =
            connection_tokens(headers).filter_map(|t| t.parse().ok()).collect();
        for name in named {
            if name != header::HOST && name != header::CONTENT_LENGTH {
                headers.remove(name);
            }
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Where a request came in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) client: IpAddr,
    /// The port of our listener.
    pub(crate) port: u16,
}

impl Arrival {
    pub(crate) fn new(peer: SocketAddr, port: u16) -> Self {
        // An IPv4 client of a `[::]` listener is an IPv4 client.
        Self { client: peer.ip().to_canonical(), port }
    }
}

/// Makes the head that goes upstream out of the client's.
pub(crate) fn for_upstream(
    headers: &mut HeaderMap,
    arrival: Arrival,
    request_id: &HeaderValue,
    upgrade: Option<&HeaderValue>,
    body_is_chunked: bool,
) {
    let trailers = headers.get_all(header::TE).iter().any(|v| {
        v.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("trailers")))
    });
    strip_hop_by_hop(headers);
    let spoofed: Vec<HeaderName> = headers.keys().filter(|n| is_ours(n)).cloned().collect();
    for name in spoofed {
        headers.remove(name);
    }
    let host = headers.get(header::HOST).cloned();
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    let mut set = |name, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    set(X_FORWARDED_FOR, arrival.client.to_string());
    set(X_FORWARDED_PORT, arrival.port.to_string());
    set(X_REQUEST_START, format!("t={}", unix_ms()));
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    headers.append(header::VIA, HeaderValue::from_static("1.1 mini"));
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    } else if trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if body_is_chunked {
        // Said outright, since hyper assumes that a GET has no body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Makes the head that goes to the client out of the upstream's.
pub(crate) fn for_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.append(header::VIA, HeaderValue::from_static("1.1 mini"));
}

fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    let same = |a: u8, b: u8| a == b || (a == b'_' && b == b'-');
    OURS.iter().any(|ours| {
        ours.len() == name.len() && name.bytes().zip(ours.bytes()).all(|(a, b)| same(a, b))
    })
}

/// The client's X-Request-ID if it is a sane one, else a new one (32 hex digits).
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |v: &&HeaderValue| {
        let b = v.as_bytes();
        (1..=128).contains(&b.len())
            && b.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.~+/=:".contains(b))
    };
    if let Some(kept) = headers.get(X_REQUEST_ID).filter(sane) {
        return kept.clone();
    }
    let mut random = [0u8; 16];
    // Without randomness the id is all zeros: an id is for finding log lines, not for security.
    let _ = getrandom::fill(&mut random);
    HeaderValue::try_from(hex::encode(random)).unwrap_or(HeaderValue::from_static("unknown"))
}

fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn fields_of_the_hop_go_and_those_that_connection_names() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "close"),
            ("accept", "x"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("accept", "x")]));
    }

    #[test]
    fn a_client_cannot_speak_for_the_proxy() {
        let mut headers = map(&[
            ("host", "Blue.localhost:8080"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("connection", "x-forwarded-host"),
        ]);
        let arrival = Arrival::new("[::ffff:1.2.3.4]:999".parse().unwrap(), 80);
        for_upstream(&mut headers, arrival, &HeaderValue::from_static("id"), None, false);
        assert_eq!(headers["x-forwarded-for"], "1.2.3.4");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-port"], "80");
        assert_eq!(headers["x-forwarded-host"], "Blue.localhost:8080");
        assert_eq!(headers["host"], "Blue.localhost:8080");
        assert_eq!(headers["x-request-id"], "id");
        assert_eq!(headers["via"], "1.1 mini");
        assert!(headers["x-request-start"].to_str().unwrap().starts_with("t=1"));
        assert!(!headers.contains_key("forwarded") && !headers.contains_key("x_forwarded_for"));
    }

    #[test]
    fn one_host_and_the_same_as_the_target() {
        let get = Method::GET;
        let origin: Uri = "/x".parse().unwrap();
        let absolute: Uri = "http://A.localhost/x".parse().unwrap();
        assert_eq!(host_of(&get, &origin, &map(&[("host", "a")])), Ok("a"));
        let same = map(&[("host", "a.localhost")]);
        assert_eq!(host_of(&get, &absolute, &same), Ok("a.localhost"));
        for (uri, headers) in [
            (&origin, map(&[])),
            (&origin, map(&[("host", "a"), ("host", "a")])),
            (&absolute, map(&[("host", "b.localhost")])),
        ] {
            assert!(matches!(host_of(&get, uri, &headers), Err(BadHead::Because(_))));
        }
    }

    #[test]
    fn request_ids_are_kept_if_sane() {
        assert_eq!(request_id(&map(&[("x-request-id", "abc-1")])), "abc-1");
        for bad in ["", "a b", "a\"b", &"a".repeat(129)] {
            let made = request_id(&map(&[("x-request-id", bad)]));
            assert_eq!(made.len(), 32, "{bad:?} gave {made:?}");
        }
    }

    #[test]
    fn only_a_real_upgrade_passes_and_h2c_never() {
        let ask = |fields: &[_]| upgrade_of(Version::HTTP_11, &map(fields));
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(ask(&websocket).unwrap(), "websocket");
        assert_eq!(upgrade_of(Version::HTTP_10, &map(&websocket)), None);
        assert_eq!(ask(&[("upgrade", "websocket")]), None);
        assert_eq!(ask(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]), None);
        assert_eq!(ask(&[("connection", "upgrade"), ("upgrade", "websocket, H2C")]), None);
    }
}
