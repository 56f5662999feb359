//! How many handshakes may be under way at once: each holds memory, and costs more than a request.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;

use crate::shared::lock;

/// In all: at some 10 kB each, below 100 MB.
const ALL: usize = 8192;
/// From one address, or one IPv6 network of 64 bits, as one household gets.
const ONE: usize = 256;

#[derive(Default)]
pub(super) struct Underway(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// Counts one handshake for as long as it lives.
pub(super) struct Slot<'a> {
    of: &'a Underway,
    client: IpAddr,
}

impl Underway {
    /// `None` if there are too many already.
    pub(super) fn enter(&self, client: IpAddr) -> Option<Slot<'_>> {
        let client = network(client);
        let mut counts = lock(&self.0);
        if counts.all >= ALL {
            return None;
        }
        let own = counts.by.entry(client).or_default();
        if *own >= ONE {
            return None;
        }
        *own += 1;
        counts.all += 1;
        Some(Slot { of: self, client })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut counts = lock(&self.of.0);
        counts.all -= 1;
        if let Some(own) = counts.by.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.by.remove(&self.client);
            }
        }
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_has_its_share_and_gets_it_back() {
        let underway = Underway::default();
        let enter = |client: &str| underway.enter(client.parse().unwrap());
        let mut slots: Vec<_> =
            (0..ONE).map(|n| enter(&format!("2001:db8::{n:x}")).unwrap()).collect();
        assert!(enter("2001:db8::ffff").is_none());
        assert!(enter("2001:db8:0:1::1").is_some(), "another network");
        assert!(enter("1.2.3.4").is_some());
        slots.pop();
        assert!(enter("2001:db8::ffff").is_some());
        drop(slots);
        assert!(lock(&underway.0).by.is_empty());
    }

    #[test]
    fn all_together_have_a_bound_too() {
        let underway = Underway::default();
        let client = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        let slots: Vec<_> = (0..ALL).map(|n| underway.enter(client(n)).unwrap()).collect();
        assert!(underway.enter(client(ALL)).is_none());
        drop(slots);
        assert!(underway.enter(client(ALL)).is_some());
    }
}
