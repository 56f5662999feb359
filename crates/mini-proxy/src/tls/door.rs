//! The certificate that the proxy makes for itself, so that the door has TLS from the first start.
//!
//! Nobody vouches for it: clients pin its SHA-256 fingerprint, which is over the whole certificate.
//! So it is made once and kept, and is good for ten years.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mini_core::control::{Certificate, SecretPem};
use mini_core::name::HostName;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::certs::Held;
use super::{TlsError, keep};

pub(super) const FILE: &str = "door.pem";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Ten years, and what is left of them when it is made anew.
const LIFE: Duration = DAY.saturating_mul(3653);
const RENEW: Duration = DAY.saturating_mul(30);

/// The one in the folder, else a new one, which is written there.
pub(super) fn open(folder: &Path, domains: &[HostName]) -> Result<Arc<CertifiedKey>, TlsError> {
    let path = folder.join(FILE);
    match keep::read(&path).and_then(|c| Held::read(&c).map(|h| (c, h)).map_err(io::Error::other)) {
        Ok((certificate, held)) if !is_due(&certificate) => return Ok(held.key),
        Ok(_) => tracing::warn!("the door's own certificate ends soon: clients pin a new one"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let path = path.display();
            tracing::error!(%error, %path, "the door's own certificate cannot be used: clients pin a new one");
            // Beside its place, for whoever wants to look.
            let _ = std::fs::rename(folder.join(FILE), folder.join("door.damaged"));
        }
    }
    let certificate = make(domains).map_err(|error| TlsError(error.to_string()))?;
    if let Err(error) = keep::write(folder, FILE, &certificate) {
        let path = path.display();
        tracing::error!(%error, %path, "the door's own certificate cannot be kept: the next start makes another");
    }
    Ok(Held::read(&certificate).map_err(TlsError)?.key)
}

/// SHA-256 over the certificate (DER) of the folder, in hex; `None` if there is none.
pub fn fingerprint(folder: &Path) -> Option<String> {
    let certificate = keep::read(&folder.join(FILE)).ok()?;
    let leaf = CertificateDer::from_pem_slice(certificate.chain.as_bytes()).ok()?;
    Some(hex::encode(Sha256::digest(&leaf)))
}

fn make(domains: &[HostName]) -> Result<Certificate, rcgen::Error> {
    let mut names = vec!["localhost".to_owned(), "*.localhost".to_owned()];
    for domain in domains.iter().filter(|d| d.as_str() != "localhost") {
        names.extend([domain.to_string(), format!("*.{domain}")]);
    }
    let now = now();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "mini");
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // A client's clock may be behind ours.
    params.not_before = epoch + now.saturating_sub(DAY);
    params.not_after = epoch + now + LIFE;
    let key = KeyPair::generate()?;
    let chain = params.self_signed(&key)?.pem();
    // Its end stands where its names would: it is served for every name that has no other.
    let end = (now + LIFE).as_secs().to_string();
    Ok(Certificate { names: vec![end], chain, key: SecretPem(key.serialize_pem()) })
}

/// Whether it must be made anew. One without an end is not one that we wrote.
fn is_due(certificate: &Certificate) -> bool {
    let end = certificate.names.first().and_then(|end| end.parse().ok());
    end.is_none_or(|end| now() + RENEW >= Duration::from_secs(end))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(folder: &Path) -> (Vec<u8>, String) {
        let key = open(folder, &["apps.example.com".parse().unwrap()]).unwrap();
        (key.cert[0].to_vec(), fingerprint(folder).unwrap())
    }

    #[test]
    fn it_is_made_once_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(fingerprint(folder.path()), None);
        let first = door(folder.path());
        assert_eq!(first.1, hex::encode(Sha256::digest(&first.0)));
        assert_eq!(door(folder.path()), first);
    }

    #[test]
    fn one_that_ends_or_is_damaged_makes_room_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let first = door(folder.path());
        let mut ends = keep::read(&folder.path().join(FILE)).unwrap();
        ends.names = vec![(now() + DAY).as_secs().to_string()];
        keep::write(folder.path(), FILE, &ends).unwrap();
        let second = door(folder.path());
        assert_ne!(second, first);
        std::fs::write(folder.path().join(FILE), "junk").unwrap();
        assert_eq!(fingerprint(folder.path()), None);
        assert_ne!(door(folder.path()), second);
        assert!(folder.path().join("door.damaged").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_written_still_gives_one() {
        assert!(open(Path::new("/proc/nowhere"), &[]).is_ok());
    }
}
