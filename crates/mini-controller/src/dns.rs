//! Whether a domain leads to this server, and which record would make it: a hint for the user,
//! never a condition.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use mini_api::{Dns, DnsRecord, DnsState};
use mini_core::name::{HostName, HostPattern};
use tokio::sync::{Semaphore, oneshot};

/// How long the resolver is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lookups under way at once, those that nobody waits for any more among them.
const LOOKUPS: usize = 16;

type Found = Result<Vec<IpAddr>, String>;

/// Asks the machine's own resolver.
pub(crate) struct Resolver {
    room: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Resolver {
    /// The addresses of a name; an error is in the resolver's words.
    async fn lookup(&self, name: String) -> Found {
        let waited = tokio::time::timeout(PATIENCE, self.ask(name)).await;
        waited.unwrap_or_else(|_| Err("the resolver did not answer in time".into()))
    }

    /// On a thread of its own: the resolver may take a minute, and a controller that stops does
    /// not wait for a thread that belongs to nobody.
    async fn ask(&self, name: String) -> Found {
        let room = self.room.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        let (tell, told) = oneshot::channel();
        let ask = move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            let found =
                found.map(|all| all.map(|a| a.ip().to_canonical()).collect::<BTreeSet<_>>());
            // Who asked may have gone.
            let _ = tell.send(found.map(|all| all.into_iter().collect()));
            drop(room);
        };
        std::thread::Builder::new().name("dns".into()).spawn(ask).map_err(|e| e.to_string())?;
        let found = told.await.map_err(|_| "the resolver broke off".to_owned())?;
        found.map_err(|e| {
            let text = e.to_string();
            text.rsplit(": ").next().unwrap_or(&text).to_owned()
        })
    }

    /// What this server is reached at.
    pub(crate) async fn server(&self, domains: &[HostName]) -> ThisServer {
        let local = |d: &&HostName| d.as_str() == "localhost" || d.as_str().ends_with(".localhost");
        let name = domains.iter().find(|d| !local(d)).cloned();
        let public = match &name {
            Some(name) => self.lookup(name.to_string()).await.unwrap_or_default(),
            None => Vec::new(),
        };
        ThisServer { loopback: name.is_none(), name, public, own: own_addresses() }
    }

    /// What a domain leads to.
    pub(crate) async fn look(&self, domain: &HostPattern, server: &ThisServer) -> Dns {
        // Any name of a wildcard does; this one is nobody's.
        let name = domain.as_str().replacen('*', "mini-wildcard-check", 1);
        let found = self.lookup(name).await;
        server.judge(domain, found)
    }
}

/// The addresses that packets to the world leave from. Nothing is sent: connecting a UDP socket
/// only asks the kernel for a route.
fn own_addresses() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): the default route's.
    let from = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    let all = [from("0.0.0.0:0", "192.0.2.1:9"), from("[::]:0", "[2001:db8::1]:9")];
    all.into_iter().flatten().collect()
}

/// This server as far as it knows: behind a NAT it does not know its public address, unless its
/// domain says it.
pub(crate) struct ThisServer {
    /// The first domain that is not this machine's alone.
    name: Option<HostName>,
    /// What that resolves to.
    public: Vec<IpAddr>,
    own: Vec<IpAddr>,
    /// It is for this machine alone, so its loopback is its address.
    loopback: bool,
}

impl ThisServer {
    fn judge(&self, domain: &HostPattern, found: Found) -> Dns {
        let records = self.records(domain);
        match found {
            Ok(addresses) if addresses.is_empty() => {
                let why = Some("it has no address".to_owned());
                Dns { state: DnsState::Unresolved, addresses, why, records }
            }
            Ok(addresses) => {
                let mine = |a: &IpAddr| {
                    self.public.contains(a)
                        || self.own.contains(a)
                        || (self.loopback && a.is_loopback())
                };
                let here = addresses.iter().any(mine);
                let state = if here { DnsState::Here } else { DnsState::Elsewhere };
                Dns { state, addresses, why: None, records }
            }
            Err(why) => {
                let state = DnsState::Unresolved;
                Dns { state, addresses: Vec::new(), why: Some(why), records }
            }
        }
    }

    /// A name of its own may be an alias (CNAME); the top of a zone may not (RFC 1034 section
    /// 3.6.2), and which labels are a zone's top is not to be seen: addresses are named as well.
    fn records(&self, domain: &HostPattern) -> Vec<DnsRecord> {
        let Some(server) = &self.name else { return Vec::new() };
        let record = |kind: &str, value: String| DnsRecord {
            kind: kind.to_owned(),
            name: domain.to_string(),
            value,
        };
        let top = !domain.is_wildcard() && domain.as_str().split('.').count() <= 2;
        let mut records = Vec::new();
        if !top {
            records.push(record("CNAME", server.to_string()));
        }
        let kind = |a: &IpAddr| if a.is_ipv4() { "A" } else { "AAAA" };
        records.extend(self.public.iter().map(|a| record(kind(a), a.to_string())));
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: Option<&str>) -> ThisServer {
        ThisServer {
            name: name.map(|n| n.parse().unwrap()),
            public: vec!["203.0.113.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            own: vec!["192.168.1.5".parse().unwrap()],
            loopback: name.is_none(),
        }
    }

    fn state(server: &ThisServer, addresses: &[&str]) -> DnsState {
        let found = addresses.iter().map(|a| a.parse().unwrap()).collect();
        server.judge(&"www.example.com".parse().unwrap(), Ok(found)).state
    }

    #[test]
    fn a_name_leads_here_if_one_of_its_addresses_does() {
        let public = server(Some("apps.example.com"));
        assert_eq!(state(&public, &["198.51.100.1", "203.0.113.7"]), DnsState::Here);
        assert_eq!(state(&public, &["192.168.1.5"]), DnsState::Here);
        assert_eq!(state(&public, &["198.51.100.1"]), DnsState::Elsewhere);
        assert_eq!(state(&public, &["127.0.0.1"]), DnsState::Elsewhere);
        assert_eq!(state(&public, &[]), DnsState::Unresolved);
        assert_eq!(state(&server(None), &["127.0.0.1"]), DnsState::Here);
        let dns = public.judge(&"x.org".parse().unwrap(), Err("not known".into()));
        assert_eq!((dns.state, dns.why.as_deref()), (DnsState::Unresolved, Some("not known")));
    }

    #[test]
    fn the_record_fits_the_name() {
        let records = |domain: &str| {
            let records = server(Some("apps.example.com")).records(&domain.parse().unwrap());
            records.into_iter().map(|r| format!("{} {} {}", r.name, r.kind, r.value)).collect()
        };
        let of: Vec<String> = records("www.example.org");
        assert_eq!(
            of,
            [
                "www.example.org CNAME apps.example.com",
                "www.example.org A 203.0.113.7",
                "www.example.org AAAA 2001:db8::7"
            ]
        );
        let top: Vec<String> = records("example.org");
        assert_eq!(top, ["example.org A 203.0.113.7", "example.org AAAA 2001:db8::7"]);
        assert_eq!(records("*.example.org")[0], "*.example.org CNAME apps.example.com");
        assert!(server(None).records(&"example.org".parse().unwrap()).is_empty());
    }

    #[tokio::test]
    async fn what_the_resolver_knows_is_found() {
        let resolver = Resolver::default();
        let found = resolver.lookup("localhost".into()).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
    }
}
