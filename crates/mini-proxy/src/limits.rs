//! How many connections there may be: in all, and of one client.
//!
//! A connection that is one too many is closed at once and counted. The limit on all of them leaves
//! room among the process's descriptors: each connection may need one more to an upstream, and the
//! control socket, probes and files must work whoever comes.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use mini_core::cidr::Cidr;

use crate::shared::lock;

/// Descriptors that clients and upstreams never get.
const RESERVE: u64 = 256;
/// Maps that clients are spread over, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// Who the clients are, and how many of them there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Every connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whose `X-Forwarded-…` are believed, and whose PROXY headers, if any are named.
    pub trusted: Vec<Cidr>,
    /// Connections in all.
    pub max: usize,
    /// Connections of one address, or of one IPv6 network of 64 bits. Those from this machine and
    /// from trusted proxies are not counted in this.
    pub max_each: usize,
    /// Requests in flight of one app (H22).
    pub max_of_app: usize,
}

impl Clients {
    /// Enough for an office behind one address, and not for one machine to take all.
    pub const MAX_EACH: usize = 1000;

    /// With the limits that a process has which may open so many descriptors.
    pub fn for_descriptors(descriptors: u64) -> Self {
        let reserve = RESERVE.min(descriptors / 4);
        let max = usize::try_from((descriptors - reserve) / 2).unwrap_or(usize::MAX).max(1);
        let mut clients = Self {
            proxy_protocol: false,
            trusted: Vec::new(),
            max: 0,
            max_each: Self::MAX_EACH,
            max_of_app: 0,
        };
        clients.limit(max);
        clients
    }

    /// So many connections in all; one app may have half of that in flight, so that one whose
    /// requests do not end leaves room for the others.
    pub fn limit(&mut self, max: usize) {
        (self.max, self.max_of_app) = (max, (max / 2).max(1));
    }

    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

impl Default for Clients {
    /// For the usual limit of 1,024 descriptors.
    fn default() -> Self {
        Self::for_descriptors(1024)
    }
}

/// The connections that there are.
pub(crate) struct Limits {
    max: usize,
    max_each: usize,
    open: AtomicUsize,
    refused: AtomicU64,
    hasher: RandomState,
    each: [Mutex<HashMap<Key, usize>>; SHARDS],
}

/// One client, as far as limits are concerned: who has an IPv6 address has 2^64 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Key {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl Limits {
    pub(crate) fn new(clients: &Clients) -> Arc<Self> {
        Arc::new(Self {
            max: clients.max,
            max_each: clients.max_each,
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            hasher: RandomState::new(),
            each: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// A place among all; `None` if there is none left.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Place> {
        if self.open.fetch_add(1, Relaxed) >= self.max {
            self.open.fetch_sub(1, Relaxed);
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(Place { limits: Arc::clone(self), client: None })
    }

    /// Connections that were closed for being one too many.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, usize>> {
        // In range whatever the hash, which nobody outside can aim at.
        &self.each[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

/// One connection, counted until this is dropped.
pub(crate) struct Place {
    limits: Arc<Limits>,
    client: Option<Key>,
}

impl Place {
    /// Counts it as the client's too. `None` if that one has as many as it may. `exempt`: a proxy
    /// that brings many clients.
    pub(crate) fn of(mut self, address: IpAddr, exempt: bool) -> Option<Self> {
        if exempt || address.to_canonical().is_loopback() {
            return Some(self);
        }
        let key = Key::of(address);
        let mut each = lock(self.limits.shard(&key));
        let count = each.entry(key).or_default();
        if *count >= self.limits.max_each {
            let none = *count == 0;
            if none {
                each.remove(&key);
            }
            drop(each);
            self.limits.refused.fetch_add(1, Relaxed);
            return None;
        }
        *count += 1;
        drop(each);
        self.client = Some(key);
        Some(self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.open.fetch_sub(1, Relaxed);
        let Some(key) = self.client else { return };
        let mut each = lock(self.limits.shard(&key));
        if let Some(count) = each.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                each.remove(&key);
                // What an attack has made large does not stay so.
                if each.is_empty() && each.capacity() > 1024 {
                    each.shrink_to_fit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max: usize, max_each: usize) -> Arc<Limits> {
        Limits::new(&Clients { max, max_each, ..Clients::default() })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn so_many_in_all_and_a_place_is_given_back() {
        let limits = limits(2, 10);
        let a = limits.admit().unwrap();
        let _b = limits.admit().unwrap();
        assert!(limits.admit().is_none());
        drop(a);
        assert!(limits.admit().is_some());
        assert_eq!(limits.refused(), 1);
    }

    #[test]
    fn so_many_of_one_client_whatever_its_address_looks_like() {
        let limits = limits(100, 2);
        let come = |from: &str| limits.admit().unwrap().of(address(from), false);
        let v4 = [come("192.0.2.1"), come("::ffff:192.0.2.1")];
        assert!(v4.iter().all(Option::is_some) && come("192.0.2.1").is_none());
        assert!(come("192.0.2.2").is_some(), "another one");
        let v6 = [come("2001:db8::1"), come("2001:db8::ffff:1")];
        assert!(v6.iter().all(Option::is_some) && come("2001:db8::2").is_none());
        assert!(come("2001:db8:0:1::1").is_some(), "another network");
        assert_eq!(limits.refused(), 2);
        drop((v4, v6));
        assert!(come("192.0.2.1").is_some() && come("2001:db8::2").is_some());
        assert!(limits.each.iter().all(|shard| lock(shard).is_empty()), "nothing is left over");
        assert_eq!(limits.open.load(Relaxed), 0);
    }

    #[test]
    fn this_machine_and_proxies_are_not_counted_as_clients() {
        let limits = limits(100, 1);
        let places: Vec<_> = [("127.0.0.1", false), ("::1", false), ("192.0.2.1", true)]
            .into_iter()
            .cycle()
            .take(30)
            .map(|(from, exempt)| limits.admit().unwrap().of(address(from), exempt))
            .collect();
        assert!(places.iter().all(Option::is_some));
    }

    #[test]
    fn descriptors_are_left_for_what_must_work() {
        let of = |n| Clients::for_descriptors(n);
        assert_eq!((of(1024).max, of(1024).max_of_app), (384, 192));
        assert_eq!(of(1 << 20).max, ((1 << 20) - 256) / 2);
        assert_eq!((of(0).max, of(0).max_of_app), (1, 1));
        assert!(of(64).max * 2 < 64);
    }
}
