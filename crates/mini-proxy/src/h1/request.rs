//! A request's head (RFC 9112 sections 3, 5 and 6).

use super::{Body, Known, Refusal, Room, known, list};

/// Fields that one `Connection` may name, beside those that every request names.
const MAX_NAMED: usize = 16;

/// A request's head, as it came, and what of it concerns a proxy.
pub(crate) struct Request<'b, 'r> {
    pub(crate) method: &'b str,
    /// In origin-form, or `*`.
    pub(crate) target: Target<'b>,
    pub(crate) http_10: bool,
    pub(crate) host: &'b str,
    pub(crate) fields: &'r [httparse::Header<'b>],
    pub(crate) body: Body,
    /// The client will send another request on this connection.
    pub(crate) keep_alive: bool,
    /// It waits for 100 (Continue) before it sends its body.
    pub(crate) expects_continue: bool,
    /// It takes trailer fields.
    pub(crate) te_trailers: bool,
    /// The protocol that it would switch to, if that may pass.
    pub(crate) upgrade: Option<&'b [u8]>,
    named: [&'b [u8]; MAX_NAMED],
}

/// The path and query of a request. The path of `http://host?query` is empty, and `/` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'b> {
    pub(crate) slash: &'static str,
    pub(crate) rest: &'b str,
}

impl<'b, 'r> Request<'b, 'r> {
    /// Reads a whole head, its empty line included ([`super::Finder`]).
    pub(crate) fn read(head: &'b [u8], room: &'r mut Room<'b>) -> Result<Self, Refusal> {
        let mut parsed = httparse::Request::new(&mut []);
        let status = parsed.parse_with_uninit_headers(head, room).map_err(Refusal::of)?;
        if status != httparse::Status::Complete(head.len()) {
            return Err(Refusal::NotHttp);
        }
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Refusal::NotHttp);
        };
        match method {
            "CONNECT" => return Err(Refusal::Connect),
            "TRACE" => return Err(Refusal::Trace),
            _ => {}
        }
        Self::of((method, target, minor == 0), parsed.headers)
    }

    /// A request that came over HTTP/2, as if it had come over HTTP/1.1. `fields` have its Host.
    pub(crate) fn from_http2(
        method: &'b str,
        target: &'b str,
        fields: &'r [httparse::Header<'b>],
        body: Body,
    ) -> Result<Self, Refusal> {
        match method {
            "CONNECT" => return Err(Refusal::Connect),
            "TRACE" => return Err(Refusal::Trace),
            _ => {}
        }
        let mut request = Self::of((method, target, false), fields)?;
        // Its frames frame it.
        request.body = body;
        Ok(request)
    }

    fn of(
        (method, target, http_10): (&'b str, &'b str, bool),
        fields: &'r [httparse::Header<'b>],
    ) -> Result<Self, Refusal> {
        let mut request = Self {
            method,
            target: Target { slash: "", rest: target },
            http_10,
            host: "",
            fields,
            body: Body::None,
            keep_alive: !http_10,
            expects_continue: false,
            te_trailers: false,
            upgrade: None,
            named: [&[]; MAX_NAMED],
        };
        let facts = request.look()?;
        request.body = facts.body(http_10)?;
        request.host = facts.host.ok_or(Refusal::NoHost)?;
        request.target = origin_form(method, target, request.host)?;
        request.expects_continue = facts.expects_continue && !http_10;
        request.te_trailers = facts.te_trailers;
        request.upgrade = facts.upgrade.filter(|_| facts.asks_upgrade && !http_10);
        Ok(request)
    }

    fn look(&mut self) -> Result<Facts<'b>, Refusal> {
        let mut facts = Facts::default();
        let (mut close, mut keep) = (false, false);
        let mut named = 0;
        for field in self.fields {
            let value = field.value;
            match known(field.name) {
                Known::Host => {
                    if facts.host.is_some() {
                        return Err(Refusal::Hosts);
                    }
                    let text = std::str::from_utf8(value).map_err(|_| Refusal::NoHost)?;
                    facts.host = Some(text.trim_matches([' ', '\t']));
                }
                Known::ContentLength => {
                    // A list of equal ones may be folded (section 6.3); nobody needs that.
                    if facts.length.is_some() {
                        return Err(Refusal::Length);
                    }
                    facts.length = Some(number(value).ok_or(Refusal::Length)?);
                }
                Known::TransferEncoding => {
                    // Any other coding would be lost with the hop-by-hop field.
                    if facts.chunked || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(Refusal::Coding);
                    }
                    facts.chunked = true;
                }
                Known::Connection => {
                    for member in list(value) {
                        if member.eq_ignore_ascii_case(b"close") {
                            close = true;
                        } else if member.eq_ignore_ascii_case(b"keep-alive") {
                            keep = true;
                        } else if member.eq_ignore_ascii_case(b"upgrade") {
                            facts.asks_upgrade = true;
                        } else if !names_what_stays(member) {
                            *self.named.get_mut(named).ok_or(Refusal::Connection)? = member;
                            named += 1;
                        }
                    }
                }
                Known::Expect => {
                    facts.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
                }
                Known::Te => {
                    facts.te_trailers |= list(value).any(|m| m.eq_ignore_ascii_case(b"trailers"));
                }
                // h2c would let the client speak past every rule here.
                Known::Upgrade if facts.upgrade.is_none() && !list(value).any(is_h2c) => {
                    facts.upgrade = Some(value);
                }
                Known::Upgrade => {
                    facts.upgrade = None;
                    facts.asks_upgrade = false;
                }
                _ => {}
            }
        }
        self.keep_alive = !close && (!self.http_10 || keep);
        Ok(facts)
    }

    /// The same for another path (without its slash), and to no other protocol.
    pub(crate) fn to(self, rest: &'static str) -> Self {
        Self { target: Target { slash: "/", rest }, upgrade: None, ..self }
    }

    /// Whether `Connection` names this field: it is of this hop then.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let named = self.named.iter().take_while(|n| !n.is_empty());
        named.into_iter().any(|n| n.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The value of the first field of this kind.
    pub(crate) fn value(&self, kind: Known) -> Option<&'b [u8]> {
        self.fields.iter().find(|f| known(f.name) == kind).map(|f| f.value)
    }
}

#[derive(Default)]
struct Facts<'b> {
    host: Option<&'b str>,
    length: Option<u64>,
    chunked: bool,
    asks_upgrade: bool,
    upgrade: Option<&'b [u8]>,
    expects_continue: bool,
    te_trailers: bool,
}

impl Facts<'_> {
    fn body(&self, http_10: bool) -> Result<Body, Refusal> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Refusal::LengthAndCoding),
            // HTTP/1.0 does not know the field, and whoever is in between may not either.
            (None, true) if http_10 => Err(Refusal::Coding),
            (None, true) => Ok(Body::chunked()),
            (Some(n), false) if n > 0 => Ok(Body::Length(n)),
            _ => Ok(Body::None),
        }
    }
}

/// `Host` and `Content-Length` stay even if `Connection` names them: they are the message's, not
/// the hop's.
fn names_what_stays(member: &[u8]) -> bool {
    member.eq_ignore_ascii_case(b"host") || member.eq_ignore_ascii_case(b"content-length")
}

fn is_h2c(protocol: &[u8]) -> bool {
    protocol.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"h2c"))
}

/// A Content-Length: digits and nothing else.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// The target as an origin server reads it (section 3.2.1).
///
/// Section 3.2.2 lets the authority of an absolute-form win over Host; two readers that differ are
/// worse.
fn origin_form<'b>(method: &str, target: &'b str, host: &str) -> Result<Target<'b>, Refusal> {
    if target.contains('#') {
        return Err(Refusal::Target);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(Target { slash: "", rest: target });
    }
    let scheme = |s: &str| target.get(..s.len()).is_some_and(|t| t.eq_ignore_ascii_case(s));
    let authority = if scheme("http://") {
        &target[7..]
    } else if scheme("https://") {
        &target[8..]
    } else {
        return Err(Refusal::Target);
    };
    let end = authority.find(['/', '?']).unwrap_or(authority.len());
    let (authority, rest) = authority.split_at(end);
    if !authority.eq_ignore_ascii_case(host) {
        return Err(Refusal::HostDiffers);
    }
    Ok(Target { slash: if rest.starts_with('/') { "" } else { "/" }, rest })
}
