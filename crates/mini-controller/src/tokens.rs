//! Tokens: made, told apart, and compared without saying how close a guess was.
//!
//! A secret reads `mini_` ID `_` RANDOM CHECK: the id (12 hex) finds the row, RANDOM is 256 bits
//! in hex, CHECK eight hex digits of a digest over all before it, so that a typing error is told
//! from a wrong token without asking the store. Only the SHA-256 of the secret is stored; with
//! 256 random bits a slow hash would add nothing.

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
    let (mut id, mut key) = ([0_u8; 6], [0_u8; 32]);
    random(&mut id)?;
    random(&mut key)?;
    let body = format!("mini_{}_{}", hex::encode(id), hex::encode(key));
    let secret = format!("{body}{}", check(&body));
    let hash = hash(&secret);
    Ok(NewSecret { id: TokenId::from_random(&id), secret, hash })
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

/// Whether `secret` is this token and the token is good at `now`.
pub(crate) fn matches(secret: &str, token: &TokenRow, now: Millis) -> bool {
    let same: bool = hash(secret).ct_eq(&token.hash).into();
    same && token.revoked_at.is_none() && token.expires_at.is_none_or(|at| now < at)
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
        let mut row = TokenRow {
            id: new.id,
            name: "t".into(),
            hash: new.hash,
            scope: "admin".into(),
            created_at: Millis(0),
            expires_at: Some(Millis(10)),
            last_used_at: None,
            revoked_at: None,
        };
        assert!(matches(&new.secret, &row, Millis(9)));
        assert!(!matches(&typo, &row, Millis(9)));
        assert!(!matches(&new.secret, &row, Millis(10)), "expired");
        row.revoked_at = Some(Millis(1));
        assert!(!matches(&new.secret, &row, Millis(9)), "revoked");
    }
}
