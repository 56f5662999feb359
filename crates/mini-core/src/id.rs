//! One newtype per kind of id, so that none is passed where another belongs.
//!
//! Ids are made by the caller from random bytes (this crate has no source of randomness).

use std::fmt;

use serde::{Deserialize, Serialize};

/// An id that is not lower-case letters and digits, 1 to 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: lower-case letters, digits and '-', 1 to 40 characters")]
pub struct BadId(pub String);

fn check(text: &str) -> Result<(), BadId> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !text.is_empty() && text.len() <= 40 && text.bytes().all(plain) {
        Ok(())
    } else {
        Err(BadId(text.to_owned()))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// An id from random bytes, written in hex.
            pub fn from_random(bytes: &[u8]) -> Self {
                Self(hex::encode(&bytes[..bytes.len().min(16)]))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// This server: made once per data folder, on every engine object that the server owns.
    ServerId
}
id! {
    /// One deployment (a deploy, restart, start, or change of settings), and so one *rollout*:
    /// instances carry the id of the deployment that they were started for.
    DeploymentId
}
id! {
    /// One instance: one container on one engine, for its whole life.
    InstanceId
}
id! {
    /// One API token, as named in `tokens list`.
    TokenId
}

impl ServerId {
    /// The first four characters: what fits into interface names.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(4)]
    }
}
