//! How the front door treats one app's requests: part of its route.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// An app's rules. The default lets everything pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Requests are answered H80 instead of being passed on.
    pub maintenance: bool,
    pub https: Https,
    /// Who may come in with a password (RFC 7617); nobody listed means everybody.
    pub users: Vec<User>,
    /// Clients' networks; none means all.
    pub allow: Vec<Cidr>,
    /// The largest request body, in bytes (413).
    pub body_limit: Option<u64>,
    /// Instances speak HTTP/2 without TLS and before any upgrade (RFC 9113 section 3.3), as gRPC
    /// servers do.
    pub h2c: bool,
    /// Router lines have the query string.
    pub log_query: bool,
    pub timeouts: RuleTimeouts,
    /// HTML that takes the place of the router's own page, by code (`H80`, `H10`, …) or `*`.
    pub pages: Vec<(String, String)>,
}

impl Rules {
    /// What differs from the default, by its name in `mini.toml`, without anything secret.
    pub fn words(&self) -> BTreeMap<String, String> {
        let Self { https, users, allow, body_limit, h2c, log_query, timeouts, .. } = self;
        let flag = |on: &bool| on.then(|| "true".to_owned());
        let ms = |ms: &Option<u64>| ms.map(|ms| format!("{ms} ms"));
        let list = |words: Vec<String>| (!words.is_empty()).then(|| words.join(", "));
        let all = [
            ("https_redirect", flag(&https.redirect)),
            ("hsts", https.hsts_s.map(|s| format!("{s} s"))),
            ("basic_auth", list(users.iter().map(|user| user.name.clone()).collect())),
            ("allow", list(allow.iter().map(Cidr::to_string).collect())),
            ("body_limit", body_limit.map(|bytes| format!("{bytes} bytes"))),
            ("protocol", h2c.then(|| "h2c".to_owned())),
            ("log_query", flag(log_query)),
            ("connect_timeout", ms(&timeouts.connect_ms)),
            ("first_byte_timeout", ms(&timeouts.first_byte_ms)),
            ("idle_timeout", ms(&timeouts.idle_ms)),
            ("upgraded_idle_timeout", ms(&timeouts.upgraded_idle_ms)),
        ];
        let said = all.into_iter().filter_map(|(name, words)| Some((name.to_owned(), words?)));
        said.collect()
    }
}

/// What becomes of plain http for an app, once there is a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Https {
    /// Requests over http are answered with a redirect (308) to https, where a certificate for the
    /// name is there.
    pub redirect: bool,
    /// `Strict-Transport-Security: max-age=…` in seconds (RFC 6797) on answers over https.
    pub hsts_s: Option<u64>,
}

/// A name and what its password hashes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    /// 16 random bytes in hex.
    pub salt: String,
    /// SHA-256 of salt (as bytes) and password, in hex. The proxy never sees the password before
    /// a client sends it.
    pub sha256: String,
}

/// Deadlines that differ from the platform's, in milliseconds (CONTRACTS, "Routing").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleTimeouts {
    pub connect_ms: Option<u64>,
    /// From the last byte of the request passed on to the first of the answer (H12).
    pub first_byte_ms: Option<u64>,
    /// From byte to byte while a body flows (H15).
    pub idle_ms: Option<u64>,
    /// The same for upgraded connections.
    pub upgraded_idle_ms: Option<u64>,
}
