//! Where an instance listens, read from the kernel's tables of its network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mini_core::id::InstanceId;
use mini_core::ports::{Listening, RuntimeError, RuntimeErrorKind, RuntimeResult};

use crate::engine::Docker;
use crate::labels;

/// `TCP_LISTEN` in the kernel's `include/net/tcp_states.h`.
const LISTEN: &str = "0A";
/// The engine's resolver listens here inside every container.
const ENGINE_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

impl Docker {
    pub(crate) async fn where_it_listens(&self, id: InstanceId) -> RuntimeResult<Listening> {
        let what = labels::instance_words(&id);
        let what = what.as_str();
        let found = self
            .on_container(&id, |container| async move { self.inspect(what, &container).await })
            .await?
            .ok_or_else(|| {
                RuntimeError::new(RuntimeErrorKind::NotFound, format!("{what} is not there"))
            })?;
        let pid = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
        let Some(pid) = pid else {
            return Ok(Listening::Unknown("it does not run".to_owned()));
        };
        Ok(match tables(pid).await {
            Ok((v4, v6)) => {
                let mut addresses = listeners(&v4);
                addresses.extend(listeners(&v6));
                addresses.sort();
                addresses.dedup();
                Listening::At(addresses)
            }
            Err(error) => Listening::Unknown(format!("/proc/{pid}/net/tcp: {error}")),
        })
    }
}

async fn tables(pid: i64) -> io::Result<(String, String)> {
    let v4 = tokio::fs::read_to_string(format!("/proc/{pid}/net/tcp")).await?;
    // A kernel without IPv6 has no such file.
    let v6 = match tokio::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    Ok((v4, v6))
}

/// The listening addresses of a table in the format of `/proc/net/tcp` or `tcp6`
/// (proc_pid_net(5)): the second column is the local address, the fourth the state.
fn listeners(table: &str) -> Vec<SocketAddr> {
    let listener = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let local = columns.nth(1)?;
        (columns.nth(1)? == LISTEN).then(|| address(local))?
    };
    let all = table.lines().skip(1).filter_map(listener);
    all.filter(|address| address.ip() != ENGINE_DNS).collect()
}

/// Reads `0100007F:1F90`: the address as words of 32 bits in the machine's own byte order, each
/// in hex, then the port in hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |hex: &str| Some(u32::from_str_radix(hex, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(ip)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(ip.get(at * 8..at * 8 + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[cfg(target_endian = "little")]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_are_read_and_the_engines_resolver_is_not_one() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1\n\
            1: 0B00007F:A3C5 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 2\n\
            2: 4200D20A:1F90 0100D20A:C350 01 00000000:00000000 00:00000000 00000000 0 0 3\n\
            3: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4\n";
        let expected: Vec<SocketAddr> =
            ["127.0.0.1:8080", "0.0.0.0:3000"].map(|a| a.parse().unwrap()).into();
        assert_eq!(listeners(table), expected);
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        assert_eq!(address("4200D20A:1F90"), "10.210.0.66:8080".parse().ok());
        assert_eq!(address("00000000000000000000000000000000:0050"), "[::]:80".parse().ok());
        assert_eq!(address("00000000000000000000000001000000:0050"), "[::1]:80".parse().ok());
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        for bad in ["", "zz:1", "0100007F", "0100007F:XYZ", "0100007:1", "0100007é:1"] {
            assert_eq!(address(bad), None, "{bad}");
        }
        assert!(listeners("header\n\n 0: \n garbage in here 0A").is_empty());
    }
}
