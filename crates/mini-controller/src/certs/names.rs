//! Which names can have a certificate from an authority. Pure.

use std::net::{IpAddr, Ipv4Addr};

/// Names whose records lead to the address that is written in them, for everybody. An authority's
/// limits count all their users together.
const SHARED: [&str; 4] = ["nip.io", "sslip.io", "xip.io", "traefik.me"];

/// Names that lead to the loopback, whoever asks.
const LOOPBACK: [&str; 5] = ["localhost", "localtest.me", "lvh.me", "lacolhost.com", "vcap.me"];

/// Ends that no public authority gives a certificate for (RFC 6761, RFC 8375, RFC 9476, ICANN's
/// `internal`, and what home routers use).
const NOT_PUBLIC: [&str; 11] = [
    "local",
    "internal",
    "test",
    "invalid",
    "example",
    "onion",
    "alt",
    "lan",
    "home",
    "corp",
    "home.arpa",
];

/// Whose directory it is: the public's, or one that its operator may let know other names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authority {
    Public,
    Other,
}

impl Authority {
    pub(crate) fn of(directory: &str) -> Self {
        let host = directory.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        let known = ["letsencrypt.org", "zerossl.com", "pki.goog", "buypass.com", "ssl.com"];
        if known.into_iter().any(|end| is_below(host, end)) { Self::Public } else { Self::Other }
    }
}

/// Why a name can have no certificate from that authority, in words for `mini certs`; `None` if
/// nothing speaks against it.
pub(crate) fn refusal(name: &str, authority: Authority) -> Option<String> {
    if name.parse::<IpAddr>().is_ok() {
        return Some("it is an address, and no name".to_owned());
    }
    if name.starts_with("*.") {
        return Some(
            "a wildcard is proven over DNS, which mini does not do: bring a certificate with \
             `mini certs add`"
                .to_owned(),
        );
    }
    if let Some(end) = LOOPBACK.into_iter().find(|end| is_below(name, end)) {
        return Some(format!("{end} is this machine alone"));
    }
    if !name.contains('.') {
        return Some("a name without a dot is nobody's".to_owned());
    }
    if authority == Authority::Other {
        return None;
    }
    if let Some(end) = NOT_PUBLIC.into_iter().find(|end| is_below(name, end)) {
        return Some(format!("no public authority knows names below {end}"));
    }
    let service = shared(name)?;
    let address = written_in(name.strip_suffix(service).unwrap_or(name))?;
    let hidden = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        // Behind a provider's NAT (RFC 6598).
        || (address.octets()[0] == 100 && (64..128).contains(&address.octets()[1]));
    hidden.then(|| format!("{address} cannot be reached from the internet"))
}

/// The service that gives such names to everybody.
pub(crate) fn shared(name: &str) -> Option<&'static str> {
    SHARED.into_iter().find(|end| is_below(name, end))
}

/// What to know about a name of such a service.
pub(crate) fn about_shared(service: &str) -> String {
    format!(
        "{service} is shared: the authority's weekly limit for it counts all its users together, \
         so it may refuse for days; a domain of your own has a limit of its own"
    )
}

fn is_below(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The last IPv4 address in `app.1.2.3.4.` or `app-1-2-3-4.`.
fn written_in(rest: &str) -> Option<Ipv4Addr> {
    let parts: Vec<&str> = rest.trim_end_matches('.').split(['.', '-']).collect();
    parts.windows(4).rev().find_map(|four| four.join(".").parse().ok())
}

/// Whether a certificate's name is for `name`: the same, or a wildcard for one label (RFC 9525
/// section 6.3).
pub(crate) fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(rest) if !name.starts_with("*.") => {
            name.split_once('.').is_some_and(|(label, parent)| !label.is_empty() && parent == rest)
        }
        _ => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_never_asked_for() {
        for name in [
            "localhost",
            "blue.localhost",
            "a.lvh.me",
            "server",
            "1.2.3.4",
            "::1",
            "a.local",
            "x.home.arpa",
            "*.example.com",
            "blue.192.168.1.2.nip.io",
            "10-0-0-5.sslip.io",
            "blue-127-0-0-1.nip.io",
            "100.64.0.9.nip.io",
        ] {
            assert!(refusal(name, Authority::Public).is_some(), "{name}");
        }
        for name in [
            "example.com",
            "a.b.example.org",
            "blue.203.0.113.7.nip.io",
            "notlocalhost.com",
            "v1-2-3.example.com",
            "local.example.com",
        ] {
            assert_eq!(refusal(name, Authority::Public), None, "{name}");
        }
    }

    #[test]
    fn an_authority_of_ones_own_may_know_names_inside() {
        for name in ["blue.internal", "a.lan", "blue.192.168.1.2.nip.io"] {
            assert_eq!(refusal(name, Authority::Other), None, "{name}");
        }
        assert!(refusal("blue.localhost", Authority::Other).is_some());
        assert!(refusal("server", Authority::Other).is_some());
        let of = Authority::of;
        assert_eq!(of("https://acme-v02.api.letsencrypt.org/directory"), Authority::Public);
        assert_eq!(of("https://acme.zerossl.com/v2/DV90"), Authority::Public);
        assert_eq!(of("https://ca.internal:8443/acme/directory"), Authority::Other);
        assert_eq!(of("https://letsencrypt.org.evil.example/d"), Authority::Other);
    }

    #[test]
    fn shared_services_are_known_by_their_end() {
        assert_eq!(shared("blue.1.2.3.4.nip.io"), Some("nip.io"));
        assert_eq!(shared("nip.io"), Some("nip.io"));
        assert_eq!(shared("turnip.io"), None);
    }

    #[test]
    fn a_wildcard_covers_one_label() {
        assert!(covers("*.example.com", "a.example.com"));
        for name in ["example.com", "a.b.example.com", ".example.com", "a.example.org"] {
            assert!(!covers("*.example.com", name), "{name}");
        }
        assert!(covers("a.example.com", "a.example.com"));
        assert!(covers("*.example.com", "*.example.com"));
        assert!(!covers("*.com", "*.example.com"));
    }
}
