//! From a client's request to the one that goes upstream: what passes, what does not, and what is
//! ours. Pure but for the table that it reads.

use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use mini_core::route::{Host, read_host};

use crate::admit::{Asked, CompiledRules, admit};
use crate::error_page::{Accept, Code, Reply};
use crate::forward::exchange::Fail;
use crate::forwarded::{Way, way};
use crate::h1::{Body, Known, Refusal, Request, known};
use crate::overheard::aside;
use crate::shared::Shared;
use crate::table::App;

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) client: IpAddr,
    /// The port of our listener.
    pub(crate) port: u16,
    pub(crate) https: bool,
}

/// A request that is ready to be sent, as often as it takes.
pub(crate) struct Job {
    pub(crate) about: About,
    pub(crate) host: Host,
    /// The head for the upstream, framing and empty line included.
    pub(crate) head: Vec<u8>,
    /// Where it came in, as if nobody stood in front.
    pub(crate) arrival: Arrival,
    /// Where in the head X-Forwarded-For's value stands.
    fwd: Range<usize>,
    pub(crate) body: Body,
    /// Without a body, and of a method that may be repeated (RFC 9110 section 9.2.2).
    pub(crate) repeatable: bool,
    pub(crate) expects_continue: bool,
    /// It asks to switch protocols.
    pub(crate) upgrade: Option<Upgrade>,
    /// The app speaks HTTP/2.
    pub(crate) h2c: bool,
    /// The largest body, in bytes.
    pub(crate) body_limit: Option<u64>,
    /// Fields that the answer gets, each with its CRLF.
    pub(crate) answer_fields: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    WebSocket,
    Other,
}

/// What an answer to the client, and the lines about it, need of the request.
pub(crate) struct About {
    /// The app that its host names; `None` for the door, and before that is known.
    pub(crate) app: Option<Arc<App>>,
    pub(crate) id: String,
    pub(crate) accept: Accept,
    pub(crate) is_head: bool,
    pub(crate) http_10: bool,
    pub(crate) keep_alive: bool,
    /// What a request asked for that is not sent on; the others' is in the job's head.
    pub(crate) asked: Option<Box<AskedFor>>,
    /// Its token came over http and the door is over https: that alone is told to the controller.
    pub(crate) overheard: bool,
}

/// A request in its own words, for the line about it.
#[derive(Default)]
pub(crate) struct AskedFor {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    /// X-Forwarded-For, as an app would have been told.
    pub(crate) fwd: String,
    pub(crate) https: bool,
}

impl AskedFor {
    fn of(request: &Request<'_, '_>, way: &Way) -> Box<Self> {
        let comma = if way.before.is_empty() { "" } else { ", " };
        let fwd = format!("{}{comma}{}", way.before, way.peer);
        let path = [request.target.slash, request.target.rest].concat();
        let (method, host) = (request.method.to_owned(), request.host.to_owned());
        Box::new(Self { method, path, host, fwd, https: way.arrival.https })
    }
}

impl About {
    /// Of a request that could not be read.
    pub(crate) fn nothing(id: String) -> Self {
        let (accept, app) = (Accept::Text, None);
        Self {
            app,
            id,
            accept,
            is_head: false,
            http_10: false,
            keep_alive: false,
            asked: None,
            overheard: false,
        }
    }
}

/// A request that is answered here and not sent on.
pub(crate) struct Refused {
    pub(crate) about: About,
    pub(crate) answer: Own,
    pub(crate) body: Body,
}

impl Refused {
    pub(crate) fn is_unknown_host(&self) -> bool {
        matches!(self.answer, Own::Error(Code::UnknownHost))
    }
}

/// An answer of the router's own.
pub(crate) enum Own {
    /// Why there is no other.
    Error(Code),
    Reply(Reply),
}

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        if refusal.is_size() { Code::HeadTooLarge } else { Code::H26(refusal.why()) }
    }
}

impl Job {
    /// Makes the upstream's request out of the client's. `new_id` makes a request id.
    pub(crate) fn new(
        shared: &Shared,
        arrival: Arrival,
        request: Request<'_, '_>,
        new_id: impl FnOnce() -> String,
    ) -> Result<Self, Box<Refused>> {
        let mut way = way(arrival, &shared.clients, request.fields);
        let mut about = About {
            app: None,
            asked: None,
            id: request.value(Known::XRequestId).and_then(sane).unwrap_or_else(new_id),
            accept: Accept::of(request.value(Known::Accept)),
            is_head: request.method == "HEAD",
            http_10: request.http_10,
            keep_alive: request.keep_alive,
            overheard: false,
        };
        let host = match whom(shared, &request, &mut way, &mut about) {
            Ok(host) => host,
            Err(answer) => {
                about.asked = Some(AskedFor::of(&request, &way));
                return Err(Box::new(Refused { about, answer, body: request.body }));
            }
        };
        let request = if about.overheard { aside(request) } else { request };
        let app = about.app.as_ref();
        let hsts = match (&host, app) {
            (Host::Name(name), Some(app)) => {
                shared.tls.hsts(&app.route.rules.https, way.arrival.https, name)
            }
            _ => None,
        };
        let upgrade = request.upgrade.map(|protocol| {
            let websocket = protocol.eq_ignore_ascii_case(b"websocket");
            if websocket { Upgrade::WebSocket } else { Upgrade::Other }
        });
        let bodiless = matches!(request.body, Body::None);
        let (head, fwd) = head(&request, &way, &about.id);
        Ok(Self {
            head,
            fwd,
            arrival: way.arrival,
            repeatable: bodiless && is_idempotent(request.method),
            expects_continue: request.expects_continue && !bodiless,
            body: request.body,
            upgrade,
            h2c: app.is_some_and(|app| app.route.rules.h2c),
            body_limit: app.and_then(|app| app.rules.body_limit),
            answer_fields: hsts.unwrap_or_default(),
            host,
            about,
        })
    }

    /// What the client is told of a try that failed.
    pub(crate) fn code_for(&self, fail: Fail) -> Code {
        match self.about.overheard {
            true => Code::HttpsRequired,
            false => fail.code_for(&self.host),
        }
    }

    /// Method, target and X-Forwarded-For, as they stand in the head.
    pub(crate) fn words(&self) -> [&str; 3] {
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        let mut words = self.head.splitn(3, |b| *b == b' ');
        let mut word = || text(words.next().unwrap_or_default());
        [word(), word(), text(self.head.get(self.fwd.clone()).unwrap_or_default())]
    }
}

/// Whom the request is for, if it may come in; else what it is answered.
fn whom(
    shared: &Shared,
    request: &Request<'_, '_>,
    way: &mut Way,
    about: &mut About,
) -> Result<Host, Own> {
    let host = read_host(request.host, &shared.domains)
        .map_err(|_| Own::Error(Code::H26("its Host header is not a host name or address")))?;
    if let Some(answer) = shared.tls.answer_to_challenge(request.host, request.target.rest) {
        return Err(Own::Reply(Reply::text(&answer)));
    }
    let Host::Name(name) = &host else {
        // The API counts by address: what a client can make up is not for it.
        way.forget_proxies();
        let Arrival { client, https, .. } = way.arrival;
        let refused = shared.tls.door_needs_https(https, client);
        about.overheard = refused && shared.overheard.passes(request, client);
        return match refused && !about.overheard {
            true => Err(Own::Error(Code::HttpsRequired)),
            false => Ok(host),
        };
    };
    let app = shared.table.load().find(name).cloned().ok_or(Own::Error(Code::UnknownHost))?;
    let app = about.app.insert(app);
    let target = [request.target.slash, request.target.rest];
    let https = &app.route.rules.https;
    let location = shared.tls.redirect(https, way.arrival.https, name, target, shared.https_port);
    if let Some(location) = location {
        return Err(Own::Reply(Reply::redirect(location, &about.id)));
    }
    admitted(&app.rules, way.arrival, request).map_err(Own::Error)?;
    Ok(host)
}

/// Whether the app's rules let the request come in.
fn admitted(
    rules: &CompiledRules,
    arrival: Arrival,
    request: &Request<'_, '_>,
) -> Result<(), Code> {
    if rules.is_open() {
        return Ok(());
    }
    let mut values = request.fields.iter().filter(|f| known(f.name) == Known::Authorization);
    let authorization = values.next().filter(|_| values.next().is_none());
    let content_length = match request.body {
        Body::Length(n) => Some(n),
        _ => None,
    };
    let authorization = authorization.map(|field| field.value);
    admit(rules, Asked { client: arrival.client, authorization, content_length })
}

/// RFC 9110 section 9.2.2; CONNECT and TRACE never come here.
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}

/// The client's X-Request-ID, if it is a sane one.
fn sane(value: &[u8]) -> Option<String> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~+/=:".contains(b);
    let good = (1..=128).contains(&value.len()) && value.iter().all(plain);
    good.then(|| String::from_utf8_lossy(value).into_owned())
}

/// The head for the upstream.
///
/// Fields of the hop stay behind (RFC 9110 section 7.6.1), also those that `Connection` names; what
/// only a proxy may say is not taken from the client; the framing is written anew.
pub(crate) fn head(request: &Request<'_, '_>, way: &Way, id: &str) -> (Vec<u8>, Range<usize>) {
    let fields: usize = request.fields.iter().map(|f| f.name.len() + f.value.len() + 4).sum();
    let mut out = Vec::with_capacity(fields + request.target.rest.len() + 384);
    put(&mut out, &[request.method, " ", request.target.slash, request.target.rest]);
    put(&mut out, &[" HTTP/1.1\r\n"]);
    for field in request.fields {
        let stays = match known(field.name) {
            Known::Connection
            | Known::ContentLength
            | Known::Hop
            | Known::Te
            | Known::TransferEncoding
            | Known::Upgrade
            | Known::XRequestId
            | Known::XForwardedFor
            | Known::XForwarded
            | Known::Ours => true,
            Known::Host | Known::Via => false,
            _ => request.is_named(field.name),
        };
        if !stays {
            put(&mut out, &[field.name, ": "]);
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
    }
    match &request.body {
        Body::Length(n) => ours(&mut out, format_args!("Content-Length: {n}")),
        Body::Chunked(_) => put(&mut out, &["Transfer-Encoding: chunked\r\n"]),
        // A method that means something by its content says that there is none (section 8.6).
        _ if matches!(request.method, "POST" | "PUT" | "PATCH") => {
            put(&mut out, &["Content-Length: 0\r\n"]);
        }
        _ => {}
    }
    if let Some(protocol) = request.upgrade {
        put(&mut out, &["Connection: upgrade\r\nUpgrade: "]);
        out.extend_from_slice(protocol);
        put(&mut out, &["\r\n"]);
    } else if request.te_trailers {
        put(&mut out, &["Connection: te\r\nTE: trailers\r\n"]);
    }
    let proto = if way.arrival.https { "https" } else { "http" };
    let host = way.host.as_deref().unwrap_or(request.host);
    put(&mut out, &["X-Forwarded-Host: ", host, "\r\nX-Forwarded-Proto: ", proto]);
    put(&mut out, &["\r\nX-Request-ID: ", id, "\r\nVia: 1.1 mini\r\n"]);
    let fwd = out.len() + "X-Forwarded-For: ".len();
    let comma = if way.before.is_empty() { "" } else { ", " };
    ours(&mut out, format_args!("X-Forwarded-For: {}{comma}{}", way.before, way.peer));
    let fwd = fwd..out.len() - 2;
    ours(&mut out, format_args!("X-Forwarded-Port: {}", way.arrival.port));
    ours(&mut out, format_args!("X-Request-Start: t={}", unix_ms()));
    put(&mut out, &["\r\n"]);
    (out, fwd)
}

fn put(out: &mut Vec<u8>, pieces: &[&str]) {
    pieces.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
}

fn ours(out: &mut Vec<u8>, line: std::fmt::Arguments<'_>) {
    // Writing into memory does not fail.
    let _ = out.write_fmt(line);
    out.extend_from_slice(b"\r\n");
}

/// Milliseconds since 1970.
fn unix_ms() -> u128 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::room;
    use crate::limits::Clients;

    fn made(request: &str) -> String {
        made_behind(request, &[])
    }

    /// With these proxies trusted.
    fn made_behind(request: &str, trusted: &[&str]) -> String {
        let trusted = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let clients = Clients { trusted, ..Clients::default() };
        let mut space = room();
        let request = Request::read(request.as_bytes(), &mut space).ok().unwrap();
        let client = "::ffff:1.2.3.4".parse::<IpAddr>().unwrap().to_canonical();
        let arrival = Arrival { client, port: 80, https: false };
        let way = way(arrival, &clients, request.fields);
        let (head, fwd) = head(&request, &way, "id");
        let head = String::from_utf8(head).unwrap();
        let told = head.split("X-Forwarded-For: ").nth(1).and_then(|rest| rest.lines().next());
        assert_eq!(Some(&head[fwd]), told);
        head
    }

    #[test]
    fn a_client_cannot_speak_for_the_proxy() {
        let head = made(
            "GET /a?b HTTP/1.1\r\nHost: Blue.localhost:8080\r\nX-Forwarded-For: 6.6.6.6\r\n\
             x_forwarded_for: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             X-Mini-Token: 6.6.6.6\r\nX-Request-ID: other\r\n\
             Connection: X-Forwarded-Host, X-Secret, te\r\nX-Secret: 6.6.6.6\r\nTE: trailers\r\n\
             Accept: x\r\nVia: 1.0 other\r\n\r\n",
        );
        assert!(!head.contains("6.6.6.6") && !head.contains("https"), "{head}");
        let (start, rest) = head.split_once("\r\n").unwrap();
        assert_eq!(start, "GET /a?b HTTP/1.1");
        for line in [
            "Host: Blue.localhost:8080",
            "X-Forwarded-Host: Blue.localhost:8080",
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Port: 80",
            "X-Request-ID: id",
            "Via: 1.0 other",
            "Via: 1.1 mini",
            "Accept: x",
            "Connection: te",
            "TE: trailers",
        ] {
            assert_eq!(rest.split("\r\n").filter(|l| *l == line).count(), 1, "{line}: {head}");
        }
        assert!(rest.contains("X-Request-Start: t=1") && rest.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_trusted_proxy_may_say_whom_it_speaks_for() {
        let request = "GET / HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 9.9.9.9, 5.6.7.8\r\n\
             X-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Port: 443\r\nX-Forwarded-Host: blue.example\r\n\r\n";
        let head = made_behind(request, &["1.2.3.4", "10.0.0.0/8"]);
        for line in [
            "X-Forwarded-For: 9.9.9.9, 5.6.7.8, 10.0.0.2, 1.2.3.4",
            "X-Forwarded-Proto: https",
            "X-Forwarded-Port: 443",
            "X-Forwarded-Host: blue.example",
        ] {
            assert_eq!(head.split("\r\n").filter(|l| *l == line).count(), 1, "{line}: {head}");
        }
        let head = made_behind(request, &["10.0.0.0/8"]);
        assert!(head.contains("X-Forwarded-For: 1.2.3.4\r\n") && !head.contains("443"), "{head}");
    }

    #[test]
    fn the_framing_is_written_anew() {
        let post = |fields: &str| made(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
        assert!(post("Content-Length: 007").contains("\r\nContent-Length: 7\r\n"));
        assert!(post("X: 1").contains("\r\nContent-Length: 0\r\n"));
        let chunked = post("Transfer-Encoding:  Chunked ");
        assert!(chunked.contains("\r\nTransfer-Encoding: chunked\r\n"), "{chunked}");
        assert!(!made("GET / HTTP/1.1\r\nHost: a\r\n\r\n").contains("Content-Length"));
    }

    #[test]
    fn request_ids_are_kept_if_sane() {
        assert_eq!(sane(b"abc-1").as_deref(), Some("abc-1"));
        for bad in ["", "a b", "a\"b", &"a".repeat(129)] {
            assert_eq!(sane(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
