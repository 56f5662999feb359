//! Where the engine is, and which networks the host already has a way to.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use mini_core::ports::{RuntimeError, RuntimeErrorKind, RuntimeResult};
use mini_core::subnet::Subnet;

/// Where Docker's own client looks when nobody says otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The engine's socket from `configured`, else from `DOCKER_HOST`, else the default.
pub(crate) fn socket(configured: Option<&str>) -> RuntimeResult<PathBuf> {
    match configured {
        Some(host) => parse(host),
        None => parse(&std::env::var("DOCKER_HOST").unwrap_or_default()),
    }
}

/// Reads a `DOCKER_HOST`. Only a unix socket can lead to an engine on this machine.
fn parse(host: &str) -> RuntimeResult<PathBuf> {
    let host = host.trim();
    if host.is_empty() {
        return Ok(PathBuf::from(DEFAULT_SOCKET));
    }
    let Some((scheme, rest)) = host.split_once("://") else {
        return Err(RuntimeError::new(
            RuntimeErrorKind::Invalid,
            format!("DOCKER_HOST {host:?} is not an address of a Docker Engine"),
        )
        .hint("write it as unix:///var/run/docker.sock, or leave it out"));
    };
    match scheme {
        "unix" if rest.starts_with('/') => Ok(PathBuf::from(rest)),
        "unix" if rest.is_empty() => Ok(PathBuf::from(DEFAULT_SOCKET)),
        "unix" => Err(RuntimeError::new(
            RuntimeErrorKind::Invalid,
            format!("DOCKER_HOST {host:?} needs an absolute path"),
        )
        .hint("write it as unix:///path/to/docker.sock")),
        "tcp" | "http" | "https" | "ssh" | "npipe" => Err(RuntimeError::new(
            RuntimeErrorKind::Unsupported,
            format!(
                "DOCKER_HOST {host:?} leads to an engine whose container addresses cannot be \
                 reached from here"
            ),
        )
        .hint("run the server on the engine's own machine, with its unix socket")),
        _ => Err(RuntimeError::new(
            RuntimeErrorKind::Unsupported,
            format!("DOCKER_HOST {host:?}: {scheme}:// is not known"),
        )
        .hint("write it as unix:///var/run/docker.sock, or leave it out")),
    }
}

/// The IPv4 networks that this host has a route to, the default route not among them; empty
/// where the kernel does not say.
pub async fn host_routes() -> Vec<Subnet> {
    match tokio::fs::read_to_string("/proc/net/route").await {
        Ok(text) => routes(&text),
        Err(error) => {
            tracing::warn!(%error, "the host's routes cannot be read");
            Vec::new()
        }
    }
}

/// Reads `/proc/net/route`: destination and mask are the second and eighth column, each the
/// address's bytes as one number of the machine's own byte order.
fn routes(text: &str) -> Vec<Subnet> {
    let route = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let destination = u32::from_str_radix(columns.nth(1)?, 16).ok()?;
        let mask = u32::from_str_radix(columns.nth(5)?, 16).ok()?;
        let prefix = u32::from_be_bytes(mask.to_ne_bytes()).leading_ones() as u8;
        (prefix > 0).then(|| Subnet::containing(Ipv4Addr::from(destination.to_ne_bytes()), prefix))
    };
    text.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_is_taken_and_the_rest_is_refused_in_words() {
        assert_eq!(parse("").unwrap(), PathBuf::from("/var/run/docker.sock"));
        assert_eq!(parse("unix://").unwrap(), PathBuf::from("/var/run/docker.sock"));
        assert_eq!(parse("unix:///run/x.sock").unwrap(), PathBuf::from("/run/x.sock"));
        for far in ["tcp://10.0.0.1:2375", "ssh://me@host", "npipe:////./pipe/docker_engine"] {
            let error = parse(far).unwrap_err();
            assert_eq!(error.kind, RuntimeErrorKind::Unsupported, "{far}");
            assert!(error.message.contains("cannot be reached from here"), "{error}");
        }
        assert_eq!(parse("docker.sock").unwrap_err().kind, RuntimeErrorKind::Invalid);
        assert_eq!(parse("unix://docker.sock").unwrap_err().kind, RuntimeErrorKind::Invalid);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_are_read_without_the_default_one() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            broken\tzz\n";
        let found: Vec<String> = routes(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.2.0/24", "172.17.0.0/16"]);
    }
}
