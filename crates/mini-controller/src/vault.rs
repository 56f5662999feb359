//! Secrets at rest: sealed with a key that lies outside the database.
//!
//! XChaCha20-Poly1305 with a random nonce; the associated data says what a sealed value is for,
//! so that one cannot be put in another's place. A sealed value is `nonce (24) || ciphertext`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

const NONCE: usize = 24;

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the key file {0}: {1}")]
    KeyFile(String, String),
    #[error("{0} cannot be opened with this data folder's key")]
    Sealed(String),
    #[error("no random numbers: {0}")]
    Random(String),
}

pub(crate) struct Vault {
    cipher: XChaCha20Poly1305,
    fingerprint_key: [u8; 32],
}

impl Vault {
    /// Reads the key file (32 bytes), or makes it (0600) when there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, VaultError> {
        let name = path.display().to_string();
        let failed = |e: std::io::Error| VaultError::KeyFile(name.clone(), e.to_string());
        let mut key = [0_u8; 32];
        match std::fs::File::open(path) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(failed)?;
                let wrong = || VaultError::KeyFile(name.clone(), "is not 32 bytes long".into());
                key = bytes.try_into().map_err(|_| wrong())?;
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                random(&mut key)?;
                let mut new = std::fs::OpenOptions::new();
                let mut file =
                    new.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
                file.write_all(&key).and_then(|()| file.sync_all()).map_err(failed)?;
            }
            Err(e) => return Err(failed(e)),
        }
        // A key of its own, from which the first cannot be had.
        let fingerprint_key = Sha256::digest([&key[..], b"fingerprints"].concat()).into();
        Ok(Self { cipher: XChaCha20Poly1305::new(&Key::from(key)), fingerprint_key })
    }

    /// Makes fingerprints of secrets that only this data folder can make.
    pub(crate) fn fingerprint_key(&self) -> &[u8; 32] {
        &self.fingerprint_key
    }

    /// A word that only this data folder can make, the same each time for one purpose: 32 hex digits.
    pub(crate) fn word_for(&self, purpose: &str) -> String {
        let digest = Sha256::digest([&self.fingerprint_key[..], purpose.as_bytes()].concat());
        hex::encode(&digest[..16])
    }

    pub(crate) fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut nonce = [0_u8; NONCE];
        random(&mut nonce)?;
        let payload = Payload { msg: secret, aad: purpose.as_bytes() };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| VaultError::Sealed(purpose.to_owned()))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    pub(crate) fn open_sealed(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, VaultError> {
        let failed = || VaultError::Sealed(purpose.to_owned());
        let (nonce, text) = sealed.split_first_chunk::<NONCE>().ok_or_else(failed)?;
        let payload = Payload { msg: text, aad: purpose.as_bytes() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| failed())
    }
}

/// Random bytes from the kernel.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), VaultError> {
    getrandom::fill(bytes).map_err(|e| VaultError::Random(e.to_string()))
}

/// 16 random bytes, for ids.
pub(crate) fn random_id() -> Result<[u8; 16], VaultError> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_purpose_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let sealed = Vault::open(&path).unwrap().seal("env of blue", b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        let vault = Vault::open(&path).unwrap();
        assert_eq!(vault.open_sealed("env of blue", &sealed).unwrap(), b"hunter2");
        assert!(vault.open_sealed("env of red", &sealed).is_err());
        assert!(vault.open_sealed("env of blue", &sealed[..10]).is_err());
        let other = Vault::open(&folder.path().join("other")).unwrap();
        assert!(other.open_sealed("env of blue", &sealed).is_err());
    }
}
