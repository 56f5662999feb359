//! Where a request goes: the route table, and the reading of a Host header.
//!
//! The table is written by the controller and read by the proxy. It names container addresses,
//! never published ports.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::id::InstanceId;
use crate::name::{AppName, HostName, HostPattern};
use crate::release::HealthSpec;
use crate::rules::Rules;
use crate::time::Millis;

/// Everything the proxy knows of one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRoute {
    pub app: AppName,
    /// Custom domains, beside `APP.DOMAIN` for each platform domain, which needs no entry.
    #[serde(default)]
    pub hosts: Vec<HostPattern>,
    pub web: WebState,
    pub targets: Vec<Target>,
    #[serde(default)]
    pub health: HealthSpec,
    #[serde(default)]
    pub rules: Box<Rules>,
}

/// What the app's web process is doing: what a request meets when no target serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebState {
    /// Targets serve.
    Serving,
    /// An instance is starting: requests are held, for a bounded time, until it serves (H20).
    Booting,
    /// It died and waits for its next restart (H10).
    Crashed,
    /// Stopped by the user, or scaled to none (H14).
    Stopped,
    /// The app exists and has no release (H81).
    NothingDeployed,
}

/// One instance as the proxy sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub instance: InstanceId,
    /// When the instance's process was started. A verdict on health holds for one start only,
    /// since a restarted instance keeps its id and its address.
    pub started: Millis,
    pub addr: SocketAddr,
    /// `web.1`, for logs.
    pub process: String,
    pub release: u32,
    pub role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Is probed, gets no requests yet.
    Probe,
    /// Gets requests (and is probed).
    Serve,
    /// Gets no new requests; those it has may finish. A target that leaves the table altogether
    /// has what is left of its connections closed.
    Drain,
}

/// Whom a Host header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address, `localhost`, `mini.DOMAIN` or `DOMAIN`: the platform's own API.
    Door,
    /// Any other name, in lower case, without port and trailing dot.
    Name(String),
}

/// A Host header that no request may carry (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Host header is not a host name or address with an optional port")]
pub struct BadHost;

/// Reads a Host header: port, case and trailing dot do not matter.
///
/// `domains` are the platform's own, in lower case.
pub fn read_host(header: &str, domains: &[HostName]) -> Result<Host, BadHost> {
    if let Some(rest) = header.strip_prefix('[') {
        let (literal, port) = rest.split_once(']').ok_or(BadHost)?;
        literal.parse::<Ipv6Addr>().map_err(|_| BadHost)?;
        return if port.is_empty() { Ok(Host::Door) } else { check_port(port) }.map(|_| Host::Door);
    }
    let name = match header.split_once(':') {
        Some((name, port)) => {
            check_digits(port)?;
            name
        }
        None => header,
    };
    let name: HostName = name.parse().map_err(|_| BadHost)?;
    let name = name.as_str();
    // An address too may have the dot at its end, which is gone by now.
    let door = name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || domains.iter().any(|d| {
            name == d.as_str() || name.strip_suffix(d.as_str()).is_some_and(|app| app == "mini.")
        });
    Ok(if door { Host::Door } else { Host::Name(name.to_owned()) })
}

fn check_port(colon_port: &str) -> Result<Host, BadHost> {
    check_digits(colon_port.strip_prefix(':').ok_or(BadHost)?)?;
    Ok(Host::Door)
}

fn check_digits(port: &str) -> Result<(), BadHost> {
    // RFC 3986 allows an empty port.
    if port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(BadHost) }
}

/// What leads to `route` in a table: `APP.DOMAIN` for each platform domain, then the keys of its
/// own domains ([`HostPattern::key`]). A request's host is looked up as it is, then by its
/// [`wildcard_key`](crate::name::wildcard_key).
pub fn hosts_of(route: &AppRoute, domains: &[HostName]) -> Vec<String> {
    let platform = domains.iter().map(|d| format!("{}.{}", route.app, d));
    platform.chain(route.hosts.iter().map(|h| h.key().to_owned())).collect()
}

/// Why a domain is nobody's but the platform's, as the rest of a sentence that begins with its
/// name; `None` if an app may have it.
pub fn platforms_own(domain: &HostPattern, domains: &[HostName]) -> Option<String> {
    let name = domain.as_str().strip_prefix("*.").unwrap_or(domain.as_str());
    // The URL standard reads whatever ends in a number as an IPv4 address.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return Some("is an address, and addresses lead to the platform's own API".into());
    }
    if name == "localhost" && !domain.is_wildcard() {
        return Some("leads to the platform's own API".into());
    }
    let below = |own: &&HostName| {
        let label = name.strip_suffix(own.as_str()).and_then(|rest| rest.strip_suffix('.'));
        label.is_some_and(|label| !label.contains('.'))
    };
    let is = |own: &&HostName| own.as_str() == name;
    if domain.is_wildcard() {
        let own = domains.iter().find(is)?;
        return Some(format!("holds the names of all apps: each is served at APP.{own}"));
    }
    if domains.iter().any(|own| own.as_str() == name) {
        return Some("is the platform's own domain, and leads to its API".into());
    }
    let own = domains.iter().find(below)?;
    if name.strip_suffix(own.as_str()) == Some("mini.") {
        return Some("leads to the platform's own API".into());
    }
    Some(format!("is for the app of that name: apps are served at APP.{own}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(header: &str) -> Result<Host, BadHost> {
        let domains = ["localhost".parse().unwrap(), "1.2.3.4.nip.io".parse().unwrap()];
        read_host(header, &domains)
    }

    #[test]
    fn names_lose_port_case_and_dot() {
        for header in
            ["blue.localhost", "Blue.LocalHost:8080", "blue.localhost.", "blue.localhost:"]
        {
            assert_eq!(read(header), Ok(Host::Name("blue.localhost".into())), "{header}");
        }
    }

    #[test]
    fn the_door_answers_to_addresses_and_the_platforms_names() {
        for header in [
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1.:80",
            "[::1]",
            "[::1]:80",
            "localhost",
            "mini.localhost",
            "1.2.3.4.nip.io",
            "mini.1.2.3.4.nip.io",
        ] {
            assert_eq!(read(header), Ok(Host::Door), "{header}");
        }
    }

    #[test]
    fn the_platforms_names_are_no_apps() {
        let domains = ["localhost".parse().unwrap(), "apps.example.com".parse().unwrap()];
        let own = |domain: &str| platforms_own(&domain.parse().unwrap(), &domains);
        for (domain, why) in [
            ("localhost", "own API"),
            ("apps.example.com", "own domain"),
            ("mini.apps.example.com", "own API"),
            ("blue.apps.example.com", "APP.apps.example.com"),
            ("blue.localhost", "APP.localhost"),
            ("*.apps.example.com", "names of all apps"),
            ("1.2.3.4", "address"),
            ("*.2.3.4", "address"),
            ("a.b.7", "address"),
        ] {
            assert!(own(domain).is_some_and(|w| w.contains(why)), "{domain}: {:?}", own(domain));
        }
        for free in [
            "example.com",
            "*.example.com",
            "www.example.com",
            "a.b.apps.example.com",
            "*.blue.localhost",
            "xapps.example.com",
            "1.2.3.4.nip.io",
        ] {
            assert_eq!(own(free), None, "{free}");
        }
    }

    #[test]
    fn what_is_not_a_host_is_refused() {
        for header in
            ["", "a b", "a/b", "a:b", "a:1:2", "[::1", "[::1]x", "[zz]", "a@b", "a:123456"]
        {
            assert_eq!(read(header), Err(BadHost), "{header}");
        }
    }
}
