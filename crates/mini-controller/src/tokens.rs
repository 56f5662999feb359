//! Tokens: made, told apart, and compared without saying how close a guess was.
//!
//! A secret reads `mini_` ID `_` RANDOM CHECK: the id (12 hex) finds the row, RANDOM is 256 bits
//! in hex, CHECK eight hex digits of a digest over all before it, so that a typing error is told
//! from a wrong token without asking the store. Only the SHA-256 of the secret is stored; with
//! 256 random bits a slow hash would add nothing.

use mini_api::{NewToken, Scope};
use mini_core::id::TokenId;
use mini_core::time::Millis;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::store::TokenRow;
use crate::vault::{VaultError, random};

pub(crate) struct NewSecret {
    pub(crate) id: TokenId,
    pub(crate) secret: String,
    pub(crate) hash: Vec<u8>,
}

pub(crate) fn new_secret() -> Result<NewSecret, VaultError> {
    let mut id = [0_u8; 6];
    random(&mut id)?;
    another_secret(TokenId::from_random(&id))
}

/// Another secret for the token with this id.
pub(crate) fn another_secret(id: TokenId) -> Result<NewSecret, VaultError> {
    let mut key = [0_u8; 32];
    random(&mut key)?;
    let body = format!("mini_{id}_{}", hex::encode(key));
    let secret = format!("{body}{}", check(&body));
    let hash = hash(&secret);
    Ok(NewSecret { id, secret, hash })
}

/// The id inside a secret, if the secret is one of ours as far as its own text says.
pub(crate) fn id_of(secret: &str) -> Option<TokenId> {
    let (body, sum) = secret.split_at_checked(secret.len().checked_sub(8)?)?;
    if check(body) != sum {
        return None;
    }
    let (id, _) = body.strip_prefix("mini_")?.split_once('_')?;
    id.parse().ok()
}

/// What a secret is that names this token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    Good,
    /// Not the token's secret, now or lately.
    Unknown,
    Revoked,
    /// Its time was over then.
    Expired(Millis),
    /// The token has a newer secret, and this one worked on until then.
    Rotated(Millis),
}

/// Judges the secret with that hash, by the clock as it stands: one that jumped ahead makes tokens expired until it is set
/// right, and one that stands before a token's creation locks nobody out.
pub(crate) fn judge(hash: &[u8], token: &TokenRow, now: Millis) -> Judged {
    let same = |other: &Vec<u8>| bool::from(hash.ct_eq(other));
    let until = match same(&token.hash) {
        true => None,
        false => match token.old.iter().find(|(old, _)| same(old)) {
            Some((_, until)) => Some(*until),
            None => return Judged::Unknown,
        },
    };
    if token.revoked_at.is_some() {
        return Judged::Revoked;
    }
    match (until, token.expires_at) {
        (Some(until), _) if until <= now => Judged::Rotated(until),
        (None, Some(at)) if at <= now => Judged::Expired(at),
        _ => Judged::Good,
    }
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    #[error("a token's name has 1 to 100 characters on one line")]
    Name,
    #[error("a token that expires at once is no use")]
    NoTime,
    #[error("a deploy token is for one app or more, and none is named")]
    NoApps,
    #[error("an admin token is for everything: it is bound to no app")]
    AdminWithApps,
    #[error("the scope is not one that this server knows: admin, deploy or read")]
    Scope,
    #[error("{0}")]
    Vault(#[from] VaultError),
}

/// A new token, and its secret.
pub(crate) fn make(new: &NewToken, now: Millis) -> Result<(TokenRow, String), NotMade> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(NotMade::Name);
    }
    if new.expires_in_seconds == Some(0) {
        return Err(NotMade::NoTime);
    }
    match new.scope {
        Scope::Deploy if new.apps.is_empty() => return Err(NotMade::NoApps),
        Scope::Admin if !new.apps.is_empty() => return Err(NotMade::AdminWithApps),
        Scope::Unknown => return Err(NotMade::Scope),
        Scope::Admin | Scope::Deploy | Scope::Read => {}
    }
    let mut apps = new.apps.clone();
    apps.sort();
    apps.dedup();
    let fresh = new_secret()?;
    let row = TokenRow {
        id: fresh.id,
        name: name.to_owned(),
        hash: fresh.hash,
        old: Vec::new(),
        scope: new.scope,
        apps: (!apps.is_empty()).then_some(apps),
        created_at: now,
        expires_at: new.expires_in_seconds.map(|s| after(now, s)),
        last_used_at: None,
        rotated_at: None,
        seen_over_http_at: None,
        revoked_at: None,
    };
    Ok((row, fresh.secret))
}

/// So many seconds after `at`.
pub(crate) fn after(at: Millis, seconds: u64) -> Millis {
    // A thousand years, which every clock can still show.
    at.plus(seconds.min(1000 * 365 * 86_400) * 1000)
}

pub(crate) fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

fn check(body: &str) -> String {
    hex::encode(&Sha256::digest(body.as_bytes())[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_and_no_other() {
        let new = new_secret().unwrap();
        assert_eq!(id_of(&new.secret), Some(new.id.clone()));
        let mut typo = new.secret.clone();
        typo.replace_range(20..21, if &typo[20..21] == "0" { "1" } else { "0" });
        assert_eq!(id_of(&typo), None);
        for junk in ["", "mini_", "abc", "mini_zz_é"] {
            assert_eq!(id_of(junk), None);
        }
    }

    #[test]
    fn a_secret_is_good_until_its_time_is_over() {
        let new =
            NewToken { name: "t".into(), expires_in_seconds: Some(10), ..NewToken::default() };
        let (mut row, secret) = make(&new, Millis(5_000)).unwrap();
        let other = another_secret(row.id.clone()).unwrap();
        let judged = |row: &TokenRow, now| judge(&hash(&secret), row, Millis(now));
        assert_eq!(judged(&row, 14_999), Judged::Good);
        assert_eq!(judged(&row, 15_000), Judged::Expired(Millis(15_000)));
        assert_eq!(judged(&row, 1_000), Judged::Good, "the clock is before its creation");
        assert_eq!(judge(&hash(&other.secret), &row, Millis(9)), Judged::Unknown);
        // It was rotated, and then revoked.
        row.old.push((std::mem::replace(&mut row.hash, other.hash), Millis(8_000)));
        row.expires_at = None;
        assert_eq!(id_of(&other.secret), id_of(&secret));
        assert_eq!(judge(&hash(&other.secret), &row, Millis(99_000)), Judged::Good);
        assert_eq!(judged(&row, 7_999), Judged::Good);
        assert_eq!(judged(&row, 8_000), Judged::Rotated(Millis(8_000)));
        row.revoked_at = Some(Millis(1));
        assert_eq!(judged(&row, 9), Judged::Revoked);
        assert_eq!(judge(&hash(&other.secret), &row, Millis(9)), Judged::Revoked);
    }

    #[test]
    fn a_token_is_bound_as_its_scope_wants() {
        let of = |scope, apps: &[&str]| {
            let apps = apps.iter().map(|app| app.parse().unwrap()).collect();
            let new = NewToken { name: "t".into(), scope, apps, expires_in_seconds: None };
            make(&new, Millis(0)).map(|(row, _)| row.apps.map(|apps| apps.len()))
        };
        assert_eq!(of(Scope::Admin, &[]).unwrap(), None);
        assert_eq!(of(Scope::Read, &[]).unwrap(), None);
        assert_eq!(of(Scope::Read, &["blue"]).unwrap(), Some(1));
        assert_eq!(of(Scope::Deploy, &["blue", "red", "blue"]).unwrap(), Some(2));
        assert!(matches!(of(Scope::Deploy, &[]), Err(NotMade::NoApps)));
        assert!(matches!(of(Scope::Admin, &["blue"]), Err(NotMade::AdminWithApps)));
        assert!(matches!(of(Scope::Unknown, &[]), Err(NotMade::Scope)));
    }
}
