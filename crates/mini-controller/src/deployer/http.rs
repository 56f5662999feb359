//! `[http]` of `mini.toml`: how the front door treats an app's requests, as rules of its releases.
//!
//! Passwords are config vars' values. They are hashed here, so that neither a route nor the
//! proxy's snapshot has one in the clear.

use std::collections::BTreeMap;
use std::fmt;

use mini_core::cause::Cause;
use mini_core::cidr::Cidr;
use mini_core::name::EnvName;
use mini_core::release::ReleaseSpec;
use mini_core::rules::{Https, RuleTimeouts, Rules, User};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use toml::Spanned;

use super::Stopped;
use crate::vault;

/// Each is compared with what a request brings.
const MAX_USERS: usize = 100;
const MAX_NETWORKS: usize = 1000;

/// The section as it stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    https_redirect: bool,
    hsts: Option<Hsts>,
    basic_auth: BTreeMap<UserName, Password>,
    allow: Option<Vec<Cidr>>,
    body_limit: Option<Size>,
    protocol: Option<Protocol>,
    log_query: bool,
    connect_timeout: Option<Spanned<Span>>,
    first_byte_timeout: Option<Spanned<Span>>,
    idle_timeout: Option<Spanned<Span>>,
    upgraded_idle_timeout: Option<Spanned<Span>>,
}

/// What instances speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Protocol {
    #[serde(rename = "http/1.1")]
    Http11,
    /// HTTP/2 without TLS, as gRPC servers do.
    #[serde(rename = "h2c")]
    H2c,
}

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

impl Http {
    /// What no single value shows; `text` is the file's, to name the line.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        let bounds = [
            ("connect_timeout", &self.connect_timeout, 100, 60 * SECOND),
            ("first_byte_timeout", &self.first_byte_timeout, SECOND, HOUR),
            ("idle_timeout", &self.idle_timeout, SECOND, DAY),
            ("upgraded_idle_timeout", &self.upgraded_idle_timeout, SECOND, 7 * DAY),
        ];
        for (name, given, least, most) in bounds {
            let Some(given) = given else { continue };
            if !(least..=most).contains(&given.get_ref().0) {
                let before = text.get(..given.span().start).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let (least, most) = (Span(least), Span(most));
                return Err(format!(
                    "line {line}: [http] {name} is {}; it is from {least} to {most}",
                    given.get_ref()
                ));
            }
        }
        match &self.allow {
            Some(none) if none.is_empty() => {
                Err("[http] allow names no network: leave it out to let everybody in".into())
            }
            Some(many) if many.len() > MAX_NETWORKS => {
                Err(format!("[http] allow names more than {MAX_NETWORKS} networks"))
            }
            _ if self.basic_auth.len() > MAX_USERS => {
                Err(format!("[http] basic_auth names more than {MAX_USERS} users"))
            }
            _ => Ok(()),
        }
    }

    /// The users whose password stands in the file itself.
    pub(super) fn in_the_clear(&self) -> Vec<&str> {
        let literal =
            |(_, password): &(&UserName, &Password)| matches!(password, Password::Literal(_));
        self.basic_auth.iter().filter(literal).map(|(name, _)| name.0.as_str()).collect()
    }

    /// Whether every password is there: asked before anything is built.
    pub(super) fn check_passwords(&self, vars: &BTreeMap<String, String>) -> Result<(), Stopped> {
        for (UserName(name), password) in &self.basic_auth {
            if let Password::Var(var) = password {
                value(name, var, vars)?;
            }
        }
        Ok(())
    }

    /// Puts the rules into a release with these config vars.
    pub(super) fn apply(
        &self,
        spec: &mut ReleaseSpec,
        vars: &BTreeMap<String, String>,
    ) -> Result<(), Stopped> {
        let ms = |span: &Option<Spanned<Span>>| span.as_ref().map(|span| span.get_ref().0);
        let mut rules = Rules {
            https: Https { redirect: self.https_redirect, hsts_s: self.hsts.and_then(|h| h.0) },
            allow: self.allow.clone().unwrap_or_default(),
            body_limit: self.body_limit.map(|size| size.0),
            h2c: self.protocol == Some(Protocol::H2c),
            log_query: self.log_query,
            timeouts: RuleTimeouts {
                connect_ms: ms(&self.connect_timeout),
                first_byte_ms: ms(&self.first_byte_timeout),
                idle_ms: ms(&self.idle_timeout),
                upgraded_idle_ms: ms(&self.upgraded_idle_timeout),
            },
            ..Rules::default()
        };
        spec.password_vars.clear();
        for (UserName(name), password) in &self.basic_auth {
            let password = match password {
                Password::Literal(text) => text,
                Password::Var(var) => {
                    spec.password_vars.insert(name.clone(), var.clone());
                    value(name, var, vars)?
                }
            };
            rules.users.push(user(name, password)?);
        }
        spec.rules = rules;
        Ok(())
    }
}

/// Makes the passwords of a release those that its config vars say now.
pub(super) fn renew_passwords(
    spec: &mut ReleaseSpec,
    vars: &BTreeMap<String, String>,
) -> Result<(), Stopped> {
    for (name, var) in &spec.password_vars {
        let password = value(name, var, vars)?;
        for known in spec.rules.users.iter_mut().filter(|user| user.name == *name) {
            if !is_password(known, password) {
                *known = user(name, password)?;
            }
        }
    }
    Ok(())
}

/// An empty password would let in whoever knows the name.
fn value<'a>(
    user: &str,
    var: &EnvName,
    vars: &'a BTreeMap<String, String>,
) -> Result<&'a str, Stopped> {
    let is = match vars.get(var.as_str()) {
        Some(value) if !value.is_empty() => return Ok(value),
        Some(_) => "is empty",
        None => "is not set",
    };
    let message = format!("the password of {user} is the config var {var}, which {is}");
    Err(Stopped::Cause(Cause::new("missing_password", message).hint(format!(
        "mini env set {var}=PASSWORD --stage, then deploy again; or leave the user out of [http] \
         basic_auth in mini.toml"
    ))))
}

fn user(name: &str, password: &str) -> Result<User, Stopped> {
    let salt = vault::random_id()?;
    Ok(User {
        name: name.to_owned(),
        sha256: hex::encode(hash(&salt, password)),
        salt: hex::encode(salt),
    })
}

fn hash(salt: &[u8], password: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(password).finalize().into()
}

fn is_password(user: &User, password: &str) -> bool {
    let salt = hex::decode(&user.salt).unwrap_or_default();
    hex::encode(hash(&salt, password)).as_bytes().ct_eq(user.sha256.as_bytes()).into()
}

/// A user's name: text without a colon, which ends it on the wire (RFC 7617 section 2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct UserName(String);

impl TryFrom<String> for UserName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > 100 || text.contains(':') || has_control(&text) {
            Err(format!("{text:?} is no user's name: 1 to 100 bytes of text without a colon"))
        } else {
            Ok(Self(text))
        }
    }
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// `$NAME` is a config var's value, `$$…` a password that begins with a dollar sign.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum Password {
    Var(EnvName),
    Literal(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Var(name) => write!(f, "${name}"),
            Self::Literal(_) => f.write_str("…"),
        }
    }
}

impl TryFrom<String> for Password {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let literal = match text.strip_prefix('$') {
            Some(rest) if rest.starts_with('$') => rest.to_owned(),
            Some(name) => {
                return name.parse().map(Self::Var).map_err(|_| {
                    "a password that begins with $ names a config var, such as $ADMIN_PASSWORD"
                        .into()
                });
            }
            None => text,
        };
        if literal.is_empty() || has_control(&literal) {
            return Err("a password is some text, without control characters".into());
        }
        Ok(Self::Literal(literal))
    }
}

/// Reads a text, or with `number` a whole number, into `T`.
fn word<'de, D: Deserializer<'de>, T>(
    from: D,
    expected: &'static str,
    text: fn(&str) -> Option<T>,
    number: fn(i64) -> Option<T>,
    flag: fn(bool) -> Option<T>,
) -> Result<T, D::Error> {
    struct Words<T> {
        expected: &'static str,
        text: fn(&str) -> Option<T>,
        number: fn(i64) -> Option<T>,
        flag: fn(bool) -> Option<T>,
    }
    impl<T> Visitor<'_> for Words<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, v: &str) -> Result<T, E> {
            (self.text)(v).ok_or_else(|| E::custom(format!("{v:?} is not {}", self.expected)))
        }

        fn visit_i64<E: de::Error>(self, v: i64) -> Result<T, E> {
            (self.number)(v).ok_or_else(|| E::custom(format!("{v} is not {}", self.expected)))
        }

        fn visit_bool<E: de::Error>(self, v: bool) -> Result<T, E> {
            (self.flag)(v).ok_or_else(|| E::custom(format!("{v} is not {}", self.expected)))
        }
    }
    from.deserialize_any(Words { expected, text, number, flag })
}

/// A duration in milliseconds: `500ms`, `90s`, `5m`, `1h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span(u64);

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", SECOND), ("m", 60 * SECOND), ("h", HOUR), ("d", DAY)];

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = text[..split].parse().ok()?;
        let (_, unit) = UNITS.into_iter().find(|(unit, _)| *unit == &text[split..])?;
        number.checked_mul(unit).map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, unit): &&(&str, u64)| self.0.is_multiple_of(*unit);
        let (unit, ms) = UNITS.iter().rev().find(whole).unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", self.0 / ms)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        word(from, "a duration such as 500ms, 90s, 5m or 1h", Self::parse, |_| None, |_| None)
    }
}

/// `Strict-Transport-Security`'s max-age in seconds: `true` is a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hsts(Option<u64>);

impl<'de> Deserialize<'de> for Hsts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = |text: &str| {
            let seconds = Span::parse(text)?.0 / SECOND;
            (1..=2 * 365 * DAY / SECOND).contains(&seconds).then_some(Self(Some(seconds)))
        };
        let flag = |on: bool| Some(Self(on.then_some(365 * DAY / SECOND)));
        word(from, "true, false, or a duration from 1s to 730d", text, |_| None, flag)
    }
}

/// An amount in bytes: `10MB` is ten million, `10MiB` is 10 × 1024², a number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..split].parse().ok()?;
        let unit = match text[split..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(unit).filter(|bytes| *bytes > 0).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0).map(Self);
        word(from, "an amount such as 500KB, 10MB or 1GiB", Self::parse, number, |_| None)
    }
}

#[cfg(test)]
mod tests;
