//! Subnets and addresses: who gets which, decided here and by nobody else (promise 5).
//!
//! Everything goes round robin: the place after the last one given is stored, so that a freed
//! subnet or address comes round again only after all the others.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 network in CIDR form, with no bit set behind the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// The size of one app's subnet: 64 addresses, 61 of them for instances.
pub const APP_PREFIX: u8 = 26;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: ADDRESS/PREFIX, as in 10.210.0.0/16")]
pub struct BadSubnet(pub String);

impl Subnet {
    /// The network of `prefix` bits that `address` lies in.
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Self { base: u32::from(address) & mask, prefix }
    }

    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn last(self) -> u32 {
        self.base | u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }

    pub fn overlaps(self, other: Subnet) -> bool {
        self.base <= other.last() && other.base <= self.last()
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.base..=self.last()).contains(&u32::from(address))
    }

    /// The first address is the bridge's.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// How many app subnets fit.
    pub fn app_subnets(self) -> u32 {
        if self.prefix > APP_PREFIX { 0 } else { 1 << (APP_PREFIX - self.prefix) }
    }

    /// The `index`th app subnet of this pool.
    pub fn app_subnet(self, index: u32) -> Option<Subnet> {
        (index < self.app_subnets())
            .then(|| Self { base: self.base + (index << (32 - APP_PREFIX)), prefix: APP_PREFIX })
    }

    /// Addresses for instances: all but the network's, the gateway's and the broadcast's.
    fn hosts(self) -> u32 {
        (self.last() - self.base).saturating_sub(2)
    }

    fn host(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 2 + index)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;
    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let bad = || BadSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (1..=32).contains(p)).ok_or_else(bad)?;
        Ok(Self::containing(address, prefix))
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;
    fn try_from(text: String) -> Result<Self, BadSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// The pools tried when the operator names none, in order.
pub fn default_pools() -> impl Iterator<Item = Subnet> {
    (210..=219).map(|b| Subnet::containing(Ipv4Addr::new(10, b, 0, 0), 16))
}

/// The first of `pools` that overlaps none of `taken` (routes of the host, networks of the engine).
pub fn choose_pool(pools: impl IntoIterator<Item = Subnet>, taken: &[Subnet]) -> Option<Subnet> {
    pools.into_iter().find(|pool| !taken.iter().any(|t| t.overlaps(*pool)))
}

/// The next free index at or after `cursor` among `size`, round robin, and the cursor after it.
fn next_free(size: u32, cursor: u32, free: impl Fn(u32) -> bool) -> Option<(u32, u32)> {
    (0..size)
        .map(|step| ((u64::from(cursor) + u64::from(step)) % u64::from(size)) as u32)
        .find(|index| free(*index))
        .map(|index| (index, (index + 1) % size))
}

/// The subnet for a new app, and the cursor to store.
pub fn next_subnet(pool: Subnet, cursor: u32, taken: &[Subnet]) -> Option<(Subnet, u32)> {
    let free = |index| pool.app_subnet(index).is_some_and(|s| !taken.iter().any(|t| t.overlaps(s)));
    let (index, cursor) = next_free(pool.app_subnets(), cursor, free)?;
    Some((pool.app_subnet(index)?, cursor))
}

/// The address for a new instance, and the cursor to store. `taken` are the addresses of
/// containers that exist, and those that the proxy has not durably forgotten.
pub fn next_address(
    subnet: Subnet,
    cursor: u32,
    taken: impl Fn(Ipv4Addr) -> bool,
) -> Option<(Ipv4Addr, u32)> {
    let (index, cursor) = next_free(subnet.hosts(), cursor, |i| !taken(subnet.host(i)))?;
    Some((subnet.host(index), cursor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_read_print_and_overlap() {
        let pool: Subnet = "10.210.0.0/16".parse().unwrap();
        assert_eq!(pool.to_string(), "10.210.0.0/16");
        assert_eq!(pool.app_subnets(), 1024);
        assert_eq!(pool.app_subnet(1).unwrap().to_string(), "10.210.0.64/26");
        assert!(pool.overlaps("10.0.0.0/8".parse().unwrap()));
        assert!(!pool.overlaps("10.211.0.0/16".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/0", "x/8", "::/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_pool_that_overlaps_nothing_is_taken() {
        let taken = ["10.210.3.0/24".parse().unwrap(), "10.211.0.0/16".parse().unwrap()];
        assert_eq!(choose_pool(default_pools(), &taken).unwrap().to_string(), "10.212.0.0/16");
        assert_eq!(choose_pool(default_pools(), &["10.0.0.0/8".parse().unwrap()]), None);
    }

    #[test]
    fn a_freed_address_comes_round_only_after_all_others() {
        let subnet: Subnet = "10.210.0.64/26".parse().unwrap();
        let mut cursor = 0;
        let mut seen = Vec::new();
        for _ in 0..61 {
            let (address, next) = next_address(subnet, cursor, |_| false).unwrap();
            assert!(!seen.contains(&address), "{address} came twice");
            assert_ne!(address, subnet.gateway());
            assert!(subnet.contains(address));
            seen.push(address);
            cursor = next;
        }
        assert_eq!(next_address(subnet, cursor, |_| false).unwrap().0, seen[0]);
        assert_eq!(next_address(subnet, cursor, |_| true), None);
        assert_eq!(next_address(subnet, 3, |a| a == seen[3]).unwrap().0, seen[4]);
    }

    #[test]
    fn a_pool_can_run_out() {
        let pool: Subnet = "10.1.0.0/25".parse().unwrap();
        let (first, cursor) = next_subnet(pool, 0, &[]).unwrap();
        let (second, cursor) = next_subnet(pool, cursor, &[first]).unwrap();
        assert_eq!(next_subnet(pool, cursor, &[first, second]), None);
        assert_eq!(next_subnet(pool, cursor, &[second]).unwrap().0, first);
    }
}
