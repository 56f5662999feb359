//! Networks of clients in CIDR notation (RFC 4632, RFC 4291 section 2.3), of both families.
//!
//! What apps are given is another matter: [`crate::subnet`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `10.0.0.0/8`, `2001:db8::/32`, or one address. No bit is set behind the prefix.
///
/// An IPv4 address and its IPv4-mapped form (`::ffff:10.0.0.1`, RFC 4291 section 2.5.5.2) are the
/// same client, and a mapped network is the IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is no network; `Display` is a whole sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCidr {
    #[error("{0:?} is not a network: ADDRESS/PREFIX, as in 10.0.0.0/8 or 2001:db8::/32")]
    Form(String),
    #[error("{0:?} has a prefix that is longer than the address's {1} bits")]
    Prefix(String, u8),
    #[error("{given:?} has bits set behind its prefix: {meant} is meant?")]
    HostBits { given: String, meant: Cidr },
}

impl Cidr {
    /// Whether the client is of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => mask4(address, self.prefix) == base,
            (IpAddr::V6(base), IpAddr::V6(address)) => mask6(address, self.prefix) == base,
            // `::/0` is everybody, as IPv4 clients come in by a listener of both families.
            (IpAddr::V6(_), IpAddr::V4(_)) => self.prefix == 0,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.base
    }

    /// Bits that all addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }
}

fn mask4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

fn mask6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from(u128::from(address) & mask)
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let form = || BadCidr::Form(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            // Plain digits: `u8` would take a sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| form())?
            }
            Some(_) => return Err(form()),
        };
        if prefix > bits {
            return Err(BadCidr::Prefix(text.to_owned(), bits));
        }
        let base = match address {
            IpAddr::V4(address) => IpAddr::V4(mask4(address, prefix)),
            IpAddr::V6(address) => IpAddr::V6(mask6(address, prefix)),
        };
        if base != address {
            let meant = Self { base, prefix };
            return Err(BadCidr::HostBits { given: text.to_owned(), meant });
        }
        Ok(match (base.to_canonical(), prefix.checked_sub(96)) {
            (mapped @ IpAddr::V4(_), Some(prefix)) if base.is_ipv6() => {
                Self { base: mapped, prefix }
            }
            _ => Self { base, prefix },
        })
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadCidr;
    fn try_from(text: String) -> Result<Self, BadCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(network: &str, address: &str) -> bool {
        network.parse::<Cidr>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("192.168.1.7", "192.168.1.7") && !has("192.168.1.7", "192.168.1.6"));
        assert!(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "2001:db8::1"));
        assert!(has("2001:db8::/32", "2001:db8:ffff::1") && !has("2001:db8::/32", "2001:db9::1"));
        assert!(has("::1", "::1") && !has("::1", "::2"));
        assert!(has("::/0", "::1") && has("::/0", "8.8.8.8"));
        assert!(has("10.1.2.128/25", "10.1.2.128") && !has("10.1.2.128/25", "10.1.2.127"));
    }

    #[test]
    fn an_ipv4_client_is_one_in_either_form() {
        assert!(has("10.0.0.0/8", "::ffff:10.1.2.3") && !has("10.0.0.0/8", "::ffff:11.1.2.3"));
        assert!(has("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert_eq!("::ffff:10.0.0.0/104".parse::<Cidr>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("::ffff:1.2.3.4".parse::<Cidr>().unwrap().to_string(), "1.2.3.4/32");
    }

    #[test]
    fn mistakes_are_named() {
        let why = |text: &str| text.parse::<Cidr>().unwrap_err().to_string();
        for bad in ["", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "x/8", "10.0.0.0/a"]
        {
            assert!(why(bad).contains("is not a network"), "{bad}");
        }
        assert!(why("10.0.0.0/33").contains("32 bits") && why("::/129").contains("128 bits"));
        assert!(why("10.0.0.0/300").contains("is not a network"));
        assert!(why("10.0.0.1/8").contains("10.0.0.0/8 is meant?"));
    }

    #[test]
    fn it_reads_as_it_is_written() {
        for text in ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1/32", "::/0"] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), text);
            let json = serde_json::to_string(&cidr).unwrap();
            assert_eq!(serde_json::from_str::<Cidr>(&json).unwrap(), cidr);
        }
    }
}
