//! What a certificate says, and whether a key is its key.

use mini_core::name::HostName;
use mini_core::time::Millis;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The most certificates in one chain.
const LONGEST: usize = 10;

/// What the first certificate of a chain says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// In lower case, sorted, each once; `*.example.com` too.
    pub(crate) names: Vec<String>,
    /// Other things that it is for, such as addresses, and cannot be used for here.
    pub(crate) others: usize,
    pub(crate) issuer: String,
    pub(crate) not_before: Millis,
    pub(crate) not_after: Millis,
    /// SHA-256 of its DER, in hex.
    pub(crate) fingerprint: String,
}

/// Why a chain or its key cannot be used. `Display` is a clause for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChain {
    #[error("the chain is not PEM: {0}")]
    NotPem(String),
    #[error("there is no certificate in the chain")]
    Empty,
    #[error("there are more than {LONGEST} certificates in the chain")]
    TooLong,
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the certificate names no host (browsers read its subject alternative names only)")]
    NoNames,
    #[error("the certificate names {0:?}, which is no host name")]
    BadName(String),
    #[error("the key is no private key in PEM: {0}")]
    BadKey(String),
    #[error("the key belongs to another certificate of the chain: the server's own must be first")]
    LeafNotFirst,
    #[error("the key does not belong to the certificate")]
    OtherKey,
}

/// The certificates of a chain.
fn certificates(chain: &str) -> Result<Vec<CertificateDer<'static>>, BadChain> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let found = found.map_err(|e| BadChain::NotPem(e.to_string()))?;
    match found.len() {
        0 => Err(BadChain::Empty),
        1..=LONGEST => Ok(found),
        _ => Err(BadChain::TooLong),
    }
}

/// The first certificate of a chain, as it is.
pub(super) fn first(chain: &str) -> Result<CertificateDer<'static>, BadChain> {
    Ok(certificates(chain)?.swap_remove(0))
}

/// Reads the first certificate of a chain.
pub(crate) fn leaf(chain: &str) -> Result<Leaf, BadChain> {
    let der = first(chain)?;
    let unreadable = |why: String| BadChain::Unreadable(why);
    let (rest, parsed) = X509Certificate::from_der(&der).map_err(|e| unreadable(e.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("something follows it".to_owned()));
    }
    let alternative = parsed.subject_alternative_name().map_err(|e| unreadable(e.to_string()))?;
    let (mut names, mut others) = (Vec::new(), 0);
    for name in alternative.iter().flat_map(|a| &a.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push(checked(name)?),
            _ => others += 1,
        }
    }
    if names.is_empty() {
        return Err(BadChain::NoNames);
    }
    names.sort();
    names.dedup();
    let seconds = |at: x509_parser::time::ASN1Time| Millis(at.timestamp().max(0) as u64 * 1000);
    Ok(Leaf {
        names,
        others,
        issuer: issuer(&parsed),
        not_before: seconds(parsed.validity().not_before),
        not_after: seconds(parsed.validity().not_after),
        fingerprint: hex::encode(Sha256::digest(&der)),
    })
}

fn checked(name: &str) -> Result<String, BadChain> {
    let bad = || BadChain::BadName(name.to_owned());
    let (wildcard, rest) = match name.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", name),
    };
    let rest: HostName = rest.parse().map_err(|_| bad())?;
    Ok(format!("{wildcard}{rest}"))
}

/// The issuer as people call it: `Let's Encrypt R11`.
fn issuer(parsed: &X509Certificate<'_>) -> String {
    let mut words: Vec<&str> = Vec::new();
    let issuer = parsed.issuer();
    for attribute in issuer.iter_organization().chain(issuer.iter_common_name()) {
        words.extend(attribute.as_str().ok().filter(|word| !words.contains(word)));
    }
    if words.is_empty() { issuer.to_string() } else { words.join(" ") }
}

/// Whether `key` is the key of the chain's first certificate, and one that we can serve with.
pub(crate) fn check_key(chain: &str, key: &str) -> Result<(), BadChain> {
    let certificates = certificates(chain)?;
    let bad = |why: String| BadChain::BadKey(why);
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let key = any_supported_type(&key).map_err(|e| bad(e.to_string()))?;
    let is_of = |certificate: &CertificateDer<'static>| {
        CertifiedKey::new(vec![certificate.clone()], key.clone()).keys_match().is_ok()
    };
    match certificates.iter().position(is_of) {
        Some(0) => Ok(()),
        Some(_) => Err(BadChain::LeafNotFirst),
        None => Err(BadChain::OtherKey),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_leaf_is_read() {
        let (chain, key) = made(&["B.example.com", "*.example.com", "1.2.3.4"]);
        let leaf = leaf(&chain).unwrap();
        assert_eq!(leaf.names, ["*.example.com", "b.example.com"]);
        assert_eq!(leaf.others, 1);
        assert!(leaf.not_before < leaf.not_after);
        assert_eq!(leaf.fingerprint.len(), 64);
        assert_eq!(check_key(&chain, &key), Ok(()));
    }

    #[test]
    fn what_does_not_belong_together_is_refused_in_words() {
        let ((chain, key), (other, other_key)) = (made(&["a.b"]), made(&["c.d"]));
        assert_eq!(check_key(&chain, &other_key), Err(BadChain::OtherKey));
        assert_eq!(check_key(&format!("{other}{chain}"), &key), Err(BadChain::LeafNotFirst));
        assert_eq!(check_key(&format!("{chain}{other}"), &key), Ok(()));
        assert_eq!(leaf(""), Err(BadChain::Empty));
        assert_eq!(leaf(&key), Err(BadChain::Empty));
        assert_eq!(leaf(&chain.repeat(11)), Err(BadChain::TooLong));
        assert!(matches!(check_key(&chain, &chain), Err(BadChain::BadKey(_))));
        let cut = chain.replacen('M', "N", 1);
        assert!(matches!(leaf(&cut), Err(BadChain::Unreadable(_) | BadChain::NotPem(_))));
        let (nameless, _) = made(&[]);
        assert_eq!(leaf(&nameless), Err(BadChain::NoNames));
    }
}
