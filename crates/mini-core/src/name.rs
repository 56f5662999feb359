//! Names that users choose, validated where they are made and so valid everywhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a name was refused. `Display` is a whole sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error(
        "app name {0:?} is not allowed: a lower-case letter, then up to 29 letters, digits and \
         single '-', not ending in '-'"
    )]
    App(String),
    #[error("app name {0:?} is reserved for the platform")]
    ReservedApp(String),
    #[error(
        "process type {0:?} is not allowed: letters, digits, '_' and '-', at most 30 characters"
    )]
    Process(String),
    #[error("config var {0:?} is not allowed: a letter or '_', then letters, digits and '_'")]
    Env(String),
    #[error(
        "volume name {0:?} is not allowed: a lower-case letter, then up to 29 letters, digits, '_' \
         and '-'"
    )]
    Volume(String),
    #[error("{0:?} is not a host name: labels of letters, digits and '-', joined by '.'")]
    Host(String),
    #[error(
        "{0:?} is not a domain: a host name such as www.example.com, or *.example.com for every \
         name of one label before it; others than ASCII letters are written in their xn-- form"
    )]
    Domain(String),
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                let check: fn(&str) -> Result<String, BadName> = $check;
                check(text).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// `[a-z][a-z0-9-]{0,29}`, no `--`, not ending in `-`, not `mini` or `localhost`
    /// (those hosts are the door's).
    AppName, |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let shaped = text.len() <= 30
            && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && text.bytes().all(plain)
            && !text.ends_with('-')
            && !text.contains("--");
        if !shaped {
            Err(BadName::App(text.to_owned()))
        } else if text == "mini" || text == "localhost" {
            Err(BadName::ReservedApp(text.to_owned()))
        } else {
            Ok(text.to_owned())
        }
    }
}

name! {
    /// `[A-Za-z0-9_-]+`, at most 30 characters (Heroku's Procfile alphabet). Only `web` gets HTTP.
    ProcessType, |text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if !text.is_empty() && text.len() <= 30 && text.bytes().all(plain) {
            Ok(text.to_owned())
        } else {
            Err(BadName::Process(text.to_owned()))
        }
    }
}

impl ProcessType {
    /// The process type that gets HTTP.
    pub fn web() -> Self {
        Self("web".to_owned())
    }

    pub fn is_web(&self) -> bool {
        self.0 == "web"
    }

    /// The Procfile's `release`: a command that runs once before a release goes live, and no
    /// process that stays.
    pub fn release() -> Self {
        Self("release".to_owned())
    }

    pub fn is_release(&self) -> bool {
        self.0 == "release"
    }
}

name! {
    /// `[A-Za-z_][A-Za-z0-9_]*`, at most 256 characters.
    EnvName, |text| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let shaped = text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
            && text.len() <= 256
            && text.bytes().all(plain);
        if shaped { Ok(text.to_owned()) } else { Err(BadName::Env(text.to_owned())) }
    }
}

name! {
    /// `[a-z][a-z0-9_-]{0,29}`.
    VolumeName, |text| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        let shaped = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && text.len() <= 30
            && text.bytes().all(plain);
        if shaped { Ok(text.to_owned()) } else { Err(BadName::Volume(text.to_owned())) }
    }
}

name! {
    /// A DNS host name (RFC 1123 section 2.1), in lower case and without a trailing dot.
    HostName, |text| {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if name.len() <= 253 && name.split('.').all(label) {
            Ok(name)
        } else {
            Err(BadName::Host(text.to_owned()))
        }
    }
}

name! {
    /// A [`HostName`], or `*.` before one of at least two labels: every name of exactly one label
    /// more, as in certificates (RFC 6125 section 6.4.3).
    HostPattern, |text| {
        let host = |text: &str| text.parse::<HostName>().ok().map(String::from);
        let found = match text.strip_prefix("*.") {
            Some(rest) => host(rest).filter(|r| r.contains('.')).map(|rest| format!("*.{rest}")),
            None => host(text),
        };
        found.filter(|f| f.len() <= 253).ok_or_else(|| BadName::Domain(text.to_owned()))
    }
}

impl HostPattern {
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// What a lookup finds it by: the name, or `.example.com` for `*.example.com`. No host name
    /// begins with a dot, so the two never meet.
    pub fn key(&self) -> &str {
        self.0.strip_prefix('*').unwrap_or(&self.0)
    }

    /// Whether a request for `host` (lower case, without port and trailing dot) is meant.
    pub fn matches(&self, host: &str) -> bool {
        host == self.0 || wildcard_key(host) == Some(self.key())
    }
}

impl From<HostName> for HostPattern {
    fn from(name: HostName) -> Self {
        Self(name.0)
    }
}

/// The [`HostPattern::key`] of the one wildcard that `host` could be of: `.example.com` for
/// `www.example.com`.
pub fn wildcard_key(host: &str) -> Option<&str> {
    host.find('.').filter(|dot| *dot > 0).map(|dot| &host[dot..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_follow_the_contract() {
        for good in ["a", "blue-sky", "a1-b2", &"a".repeat(30)] {
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "a--b", "A", "a_b", "a.b", &"a".repeat(31), "mini"] {
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn env_names_follow_the_contract() {
        assert!("_A1".parse::<EnvName>().is_ok());
        for bad in ["", "1A", "A-B", "A=B", "Ä"] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_lowered_and_lose_the_trailing_dot() {
        assert_eq!(
            "Blue-Sky.Example.COM.".parse::<HostName>().unwrap().as_str(),
            "blue-sky.example.com"
        );
        for bad in ["", ".", "a..b", "-a.b", "a b", "a/b", &"a".repeat(64)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_is_every_name_of_one_label_more() {
        let wild: HostPattern = "*.Example.com.".parse().unwrap();
        assert_eq!(
            (wild.as_str(), wild.key(), wild.is_wildcard()),
            ("*.example.com", ".example.com", true)
        );
        assert!(wild.matches("www.example.com") && wild.matches("x.example.com"));
        for other in ["example.com", "a.b.example.com", "www.example.org", ".example.com"] {
            assert!(!wild.matches(other), "{other}");
        }
        let exact: HostPattern = "www.example.com".parse().unwrap();
        assert!(exact.matches("www.example.com") && !exact.matches("x.example.com"));
        assert_eq!((exact.key(), exact.is_wildcard()), ("www.example.com", false));
        let long = format!(
            "*.{}.com",
            ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(56)].join(".")
        );
        for bad in [
            "*",
            "*.",
            "*.com",
            "a.*.com",
            "*x.example.com",
            "*.*.com",
            "**.a.com",
            "bücher.de",
            "",
            &long,
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_was_refused_cannot_come_in_by_json() {
        assert!(serde_json::from_str::<AppName>("\"a--b\"").is_err());
    }
}
