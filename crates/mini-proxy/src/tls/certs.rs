//! The certificates that are served, and which of them a name gets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mini_core::control::{Certificate, SecretPem};
use mini_core::name::HostName;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate that can be served.
#[derive(Debug)]
pub(super) struct Held {
    /// In lower case; `*.example.com` among them.
    names: Vec<String>,
    /// Of names, chain and key: two with the same are the same.
    pub(super) digest: blake3::Hash,
    pub(super) key: Arc<CertifiedKey>,
}

impl Held {
    /// Reads PEM. The error ends a sentence for the log, and holds nothing of the key.
    pub(super) fn read(certificate: &Certificate) -> Result<Self, String> {
        let names = certificate.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let (chain, key) = from_pem(&certificate.chain, &certificate.key)?;
        Self::new(names, chain, key)
    }

    fn new(
        names: Vec<String>,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, String> {
        let mut hasher = blake3::Hasher::new();
        let names_as_bytes = names.iter().map(String::as_bytes);
        for part in names_as_bytes.chain(chain.iter().map(AsRef::as_ref)).chain([key.secret_der()])
        {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        if chain.is_empty() {
            return Err("its chain holds no certificate".to_owned());
        }
        let key = CertifiedKey::from_der(chain, key, &super::provider());
        let key = Arc::new(key.map_err(|error| format!("{error}"))?);
        Ok(Self { names, digest: hasher.finalize(), key })
    }
}

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn from_pem(chain: &str, key: &SecretPem) -> Result<ChainAndKey, String> {
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("its chain is not PEM ({error})"))?;
    let key = PrivateKeyDer::from_pem_slice(key.0.as_bytes());
    Ok((chain, key.map_err(|_| "its key is not PEM".to_owned())?))
}

/// The certificate of a proof (RFC 8737 section 3). It is not looked into: it has a critical
/// extension, which rustls does not know and would refuse it for.
pub(super) fn unread(chain: &str, key: &SecretPem) -> Result<Arc<CertifiedKey>, String> {
    let (chain, key) = from_pem(chain, key)?;
    if chain.is_empty() {
        return Err("its chain holds no certificate".to_owned());
    }
    let key = super::provider().key_provider.load_private_key(key);
    let key = key.map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

/// Every certificate, by name. Immutable: a change makes another.
pub(super) struct Certs {
    exact: HashMap<String, Arc<Held>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<Held>>,
    by_digest: HashMap<blake3::Hash, Arc<Held>>,
    door: Arc<CertifiedKey>,
    /// A name of the platform's API has a certificate of the controller's.
    pub(super) door_is_covered: bool,
}

impl Certs {
    /// Of two certificates for one name the first is served.
    pub(super) fn new(door: Arc<CertifiedKey>, held: Vec<Arc<Held>>, domains: &[HostName]) -> Self {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for one in &held {
            for name in &one.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_insert_with(|| Arc::clone(one));
            }
        }
        let by_digest = held.into_iter().map(|one| (one.digest, one)).collect();
        let mut certs = Self { exact, wildcard, by_digest, door, door_is_covered: false };
        certs.door_is_covered = domains.iter().any(|domain| {
            certs.find(domain.as_str()).is_some() || certs.find(&format!("mini.{domain}")).is_some()
        });
        certs
    }

    /// The certificate for a name in lower case. A wildcard stands for one label (RFC 6125
    /// section 6.4.3).
    pub(super) fn find(&self, name: &str) -> Option<&Arc<Held>> {
        self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// The very same certificate, if it is served already.
    pub(super) fn same(&self, other: &Held) -> Option<Arc<Held>> {
        self.by_digest.get(&other.digest).cloned()
    }

    pub(super) fn door(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.door)
    }

    fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let found = match name {
            Some(name) if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                self.find(&name.to_ascii_lowercase())
            }
            Some(name) => self.find(name),
            None => None,
        };
        found.map_or_else(|| self.door(), |held| Arc::clone(&held.key))
    }
}

/// The certificate for the name that a client asks for; without a name, and for a name that has
/// none, the proxy's own.
pub(super) struct BySni(pub(super) Arc<ArcSwap<Certs>>);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().choose(hello.server_name()))
    }
}

impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BySni")
    }
}

/// One certificate for everybody.
#[derive(Debug)]
pub(super) struct One(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use mini_core::control::SecretPem;

    use super::*;

    pub(in crate::tls) fn made(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let key = SecretPem(made.signing_key.serialize_pem());
        Certificate { names, chain: made.cert.pem(), key }
    }

    #[test]
    fn exact_then_wildcard_then_the_doors_own() {
        let read = |names: &[&str]| Arc::new(Held::read(&made(names)).unwrap());
        let (door, exact, wild) =
            (read(&["door"]), read(&["A.example.com", "b.test"]), read(&["*.example.com"]));
        let held = vec![Arc::clone(&wild), Arc::clone(&exact)];
        let certs = Certs::new(Arc::clone(&door.key), held, &["example.com".parse().unwrap()]);
        for (name, expected) in [
            (Some("a.example.com"), &exact),
            (Some("b.test"), &exact),
            (Some("x.example.com"), &wild),
            (Some("X.Example.COM"), &wild),
            (Some("x.y.example.com"), &door),
            (Some("example.com"), &door),
            (Some("other.test"), &door),
            (None, &door),
        ] {
            assert!(Arc::ptr_eq(&certs.choose(name), &expected.key), "{name:?}");
        }
        assert!(certs.door_is_covered, "mini.example.com is one label below");
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (a, b) = (made(&["a"]), made(&["b"]));
        let mixed = Certificate { key: b.key, ..a.clone() };
        assert!(Held::read(&mixed).is_err(), "the key of another certificate");
        let none = Certificate { chain: String::new(), ..a.clone() };
        assert!(Held::read(&none).unwrap_err().contains("no certificate"));
        let junk = Certificate { key: SecretPem("secret".into()), ..a };
        assert!(!Held::read(&junk).unwrap_err().contains("secret"));
    }
}
