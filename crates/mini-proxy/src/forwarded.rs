//! Whose a request is when proxies stand in front of this one: what `X-Forwarded-…` say, as far as
//! they who say it are trusted. Pure.
//!
//! Each proxy appends the address that it was called from. Read from the right, the first one that is
//! no trusted proxy is the client: what stands to its left it may have made up.

use std::net::{IpAddr, SocketAddr};

use mini_core::route::read_host;

use crate::forward::Arrival;
use crate::limits::Clients;

/// What goes upstream of the way that a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// Where it came in, as if nobody stood in front.
    pub(crate) arrival: Arrival,
    /// All of `X-Forwarded-For` but the last address, which is of `peer`.
    pub(crate) before: String,
    /// Who called.
    pub(crate) peer: IpAddr,
    /// `X-Forwarded-Host`, if it is not the Host of the request.
    pub(crate) host: Option<String>,
}

impl Way {
    /// Only the client is left, as if it had come by itself.
    pub(crate) fn forget_proxies(&mut self) {
        self.before.clear();
        self.peer = self.arrival.client;
    }
}

/// Reads the way of a request.
pub(crate) fn way(arrival: Arrival, clients: &Clients, fields: &[httparse::Header<'_>]) -> Way {
    let peer = arrival.client;
    let mut way = Way { arrival, before: String::new(), peer, host: None };
    // Nearly always so.
    if clients.trusted.is_empty() || !clients.trusts(peer) {
        return way;
    }
    let values = |name: &'static str| {
        let named = fields.iter().filter(move |f| f.name.eq_ignore_ascii_case(name));
        named.filter_map(|f| std::str::from_utf8(f.value).ok()).map(str::trim)
    };
    let addresses: Vec<&str> = values("x-forwarded-for")
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .collect();
    for text in addresses.iter().rev() {
        // Behind what is no address nothing can be known.
        let Some(address) = address(text) else { break };
        way.arrival.client = address;
        if !clients.trusts(address) {
            break;
        }
    }
    way.before = addresses.join(", ");
    // Several would be one's own and another's: neither is believed.
    let one = |name| {
        let mut all = values(name);
        all.next().filter(|_| all.next().is_none())
    };
    match one("x-forwarded-proto") {
        Some("https") => way.arrival.https = true,
        Some("http") => way.arrival.https = false,
        _ => {}
    }
    if let Some(port) = one("x-forwarded-port").and_then(|port| port.parse().ok()) {
        way.arrival.port = port;
    }
    way.host =
        one("x-forwarded-host").filter(|host| read_host(host, &[]).is_ok()).map(str::to_owned);
    way
}

/// An address, also with a port as some proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|a| a.ip());
    plain.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, fields: &[(&str, &str)]) -> Way {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
        let clients = Clients { trusted: trusted.to_vec(), ..Clients::default() };
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
            .collect();
        let arrival = Arrival { client: peer.parse().unwrap(), port: 80, https: false };
        way(arrival, &clients, &fields)
    }

    #[test]
    fn the_client_is_the_rightmost_that_is_no_trusted_proxy() {
        let client = |peer, given: &str| {
            seen(peer, &[("X-Forwarded-For", given)]).arrival.client.to_string()
        };
        for (given, expected) in [
            ("5.6.7.8", "5.6.7.8"),
            ("9.9.9.9, 5.6.7.8", "5.6.7.8"),
            ("9.9.9.9, 5.6.7.8, 10.0.0.2", "5.6.7.8"),
            ("5.6.7.8:1234", "5.6.7.8"),
            ("::ffff:5.6.7.8", "5.6.7.8"),
            ("[2001:4860::1]:443", "2001:4860::1"),
            ("[2001:4860::1]", "2001:4860::1"),
            ("2001:4860::1, 2001:db8::7", "2001:4860::1"),
            // All are trusted: the first is as near as it gets.
            ("10.0.0.3,10.0.0.2", "10.0.0.3"),
            // Behind what cannot be read nothing counts.
            ("5.6.7.8, unknown, 10.0.0.2", "10.0.0.2"),
            ("5.6.7.8, unknown", "10.0.0.1"),
            ("", "10.0.0.1"),
            (" , ,", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", given), expected, "{given:?}");
            assert_eq!(client("1.2.3.4", given), "1.2.3.4", "{given:?} of who is not trusted");
        }
    }

    #[test]
    fn only_what_makes_sense_is_kept_and_of_the_trusted_alone() {
        let fields = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "8443"),
            ("x-forwarded-host", "a.example"),
        ];
        let kept = seen("10.0.0.1", &fields);
        assert_eq!((kept.arrival.https, kept.arrival.port), (true, 8443));
        assert_eq!(kept.host.as_deref(), Some("a.example"));
        let mut for_the_door = seen("10.0.0.1", &[("X-Forwarded-For", "made up, 5.6.7.8")]);
        for_the_door.forget_proxies();
        assert_eq!(
            (for_the_door.before.as_str(), for_the_door.peer.to_string().as_str()),
            ("", "5.6.7.8")
        );
        let not = seen("1.2.3.4", &fields);
        assert_eq!((not.arrival.https, not.arrival.port, not.host), (false, 80, None));
        let bad = [
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-port", "99999"),
            ("x-forwarded-host", "a b"),
            ("x_forwarded_for", "5.6.7.8"),
        ];
        assert_eq!(seen("10.0.0.1", &bad), seen("10.0.0.1", &[]));
        let twice = [("x-forwarded-proto", "https"), ("x-forwarded-proto", "http")];
        assert!(!seen("10.0.0.1", &twice).arrival.https, "one of two");
    }
}
