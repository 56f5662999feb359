//! Where a server is reached, as users write it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The ports that go without saying.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// The address of one server. `Display` is its canonical form: two that read the same are the
/// same host, and a token belongs to exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `http://HOST[:PORT]`; the host in lower case, an IPv6 address without brackets.
    Http { host: String, port: u16 },
    /// `https://HOST[:PORT]`, the same over TLS.
    Https { host: String, port: u16 },
    /// `unix:PATH`, absolute.
    Unix(PathBuf),
}

/// Why an address was refused. `Display` is a whole sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEndpoint {
    #[error("{0:?} names no scheme; write https://HOST[:PORT], http://HOST[:PORT] or unix:PATH")]
    NoScheme(String),
    #[error("{0:?} cannot be used: this version speaks https://, http:// and unix:, not {1}://")]
    Unsupported(String, &'static str),
    #[error(
        "{0:?} is not the address of a server: https://HOST[:PORT], http://HOST[:PORT] or unix:PATH"
    )]
    Malformed(String),
    #[error("{0:?} holds a path; a server is https://HOST[:PORT] alone")]
    HasPath(String),
    #[error("a server's address holds no user name or password; use `mini login`")]
    HasUser,
    #[error("{0:?} must be an absolute path: unix:/PATH")]
    RelativeSocket(String),
}

impl Endpoint {
    /// Whether what is sent there never leaves this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Http { host, .. } | Self::Https { host, .. } => {
                is_localhost(host) || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// The `Host` header (RFC 9110 7.2): `localhost` on a Unix socket.
    pub fn authority(&self) -> String {
        let (host, port, usual) = match self {
            Self::Unix(_) => return "localhost".to_owned(),
            Self::Http { host, port } => (host, *port, HTTP),
            Self::Https { host, port } => (host, *port, HTTPS),
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if port == usual { host } else { format!("{host}:{port}") }
    }

    /// Whether what is sent there can be read on the way.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Http { .. }) && !self.is_local()
    }
}

/// `localhost` and every name below it (RFC 6761 6.3).
pub(crate) fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { .. } => write!(f, "http://{}", self.authority()),
            Self::Https { .. } => write!(f, "https://{}", self.authority()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let text = text.trim();
        let malformed = || BadEndpoint::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///run/x` and `unix:/run/x` are both in use.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                return Err(BadEndpoint::RelativeSocket(text.to_owned()));
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(BadEndpoint::NoScheme(text.to_owned()));
        };
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            "ssh" => return Err(BadEndpoint::Unsupported(text.to_owned(), "ssh")),
            _ => return Err(malformed()),
        };
        if rest.split('/').next().is_some_and(|a| a.contains('@')) {
            return Err(BadEndpoint::HasUser);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            return Err(BadEndpoint::HasPath(text.to_owned()));
        }
        let authority: http::uri::Authority = authority.parse().map_err(|_| malformed())?;
        // `Authority::port` is none for a port that is no number, too.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or("") {
            "" if secure => HTTPS,
            "" => HTTP,
            port => port.trim_start_matches(':').parse().map_err(|_| malformed())?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host.is_empty() || port == 0 {
            return Err(malformed());
        }
        Ok(if secure { Self::Https { host, port } } else { Self::Http { host, port } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Endpoint>().map_or_else(|e| e.to_string(), |e| e.to_string())
    }

    #[test]
    fn one_host_has_one_form() {
        assert_eq!(canonical("HTTP://Example.COM.:80/"), "http://example.com");
        assert_eq!(canonical("http://[::1]:8080"), "http://[::1]:8080");
        assert_eq!(canonical("HTTPS://A.test:443/"), "https://a.test");
        assert_eq!(canonical("https://[2001:db8::1]"), "https://[2001:db8::1]");
        assert_eq!(canonical("https://a:80"), "https://a:80");
        assert_eq!(canonical("unix:///run/a.sock"), "unix:/run/a.sock");
        assert_eq!(canonical("unix:/run/a.sock"), "unix:/run/a.sock");
    }

    #[test]
    fn what_cannot_be_a_server_is_refused_in_words() {
        assert!(canonical("localhost:8080").contains("names no scheme"));
        assert!(canonical("ssh://root@a").contains("not ssh://"));
        assert!(canonical("http://user:pass@a").contains("mini login"));
        assert!(canonical("http://a/v1").contains("holds a path"));
        assert!(canonical("unix:a.sock").contains("absolute"));
        for bad in ["http://", "http://a:0", "http://a:", "http://a b", "ftp://a", "http://a:99999"]
        {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for local in ["http://localhost:1", "http://mini.localhost", "http://127.9.9.9", "unix:/a"]
        {
            assert!(local.parse::<Endpoint>().unwrap().is_local(), "{local}");
        }
        for remote in ["http://1.2.3.4", "http://localhost.example.com", "http://127.0.0.1.nip.io"]
        {
            let remote: Endpoint = remote.parse().unwrap();
            assert!(!remote.is_local() && remote.is_plain(), "{remote}");
        }
        for safe in ["https://1.2.3.4", "http://localhost", "unix:/a"] {
            assert!(!safe.parse::<Endpoint>().unwrap().is_plain(), "{safe}");
        }
    }
}
