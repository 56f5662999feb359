//! TLS to a server: whom a client believes.
//!
//! A server is believed if its certificate is the pinned one, or if it is valid for the name that
//! was asked for by the system's authorities. So a pin holds until a public certificate comes, and
//! then makes room for it. Either way the server proves in the handshake that it has the key.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// SHA-256 over a server's certificate (DER). `Display` is 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Why a text is no [`Fingerprint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is SHA-256 in 64 hex digits, as `minid status` on the server prints it")]
pub struct BadFingerprint;

impl Fingerprint {
    fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    /// Also as `openssl x509 -fingerprint -sha256` writes it: with colons, in capitals.
    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let text = text.trim().to_ascii_lowercase().replace(':', "");
        let text = text.strip_prefix("sha256").unwrap_or(&text);
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadFingerprint);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| BadFingerprint)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| BadFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// In words for the user, without the address.
    Because(String),
    Untrusted(Untrusted),
}

/// A server's certificate that is not believed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Untrusted {
    pub(crate) seen: Fingerprint,
    pub(crate) why: String,
}

/// What the connections of one client share.
pub(crate) struct Tls {
    pub(crate) pin: Option<Fingerprint>,
    config: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Tls {
    pub(crate) fn new(pin: Option<Fingerprint>) -> Self {
        Self { pin, config: OnceLock::new() }
    }

    /// The stream inside of TLS. `host` is a name, or an address without brackets.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
    ) -> Result<TlsStream<TcpStream>, NoConnection> {
        let config = self.config.get_or_init(|| config(self.pin)).clone();
        let config = config.map_err(NoConnection::Because)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| NoConnection::Because(format!("{host:?} cannot be asked for by TLS")))?;
        let handshake = TlsConnector::from(config).connect(name, stream);
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(why(&error)),
            Err(_) => Err(NoConnection::Because(format!(
                "no TLS handshake within {} s",
                HANDSHAKE_TIMEOUT.as_secs()
            ))),
        }
    }
}

fn why(error: &io::Error) -> NoConnection {
    let Some(fault) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
        return NoConnection::Because(match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                "the connection was closed within the TLS handshake".to_owned()
            }
            _ => error.to_string(),
        });
    };
    NoConnection::Because(match fault {
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            match other.downcast_ref::<Untrusted>() {
                Some(untrusted) => return NoConnection::Untrusted(untrusted.clone()),
                None => other.to_string(),
            }
        }
        Error::InvalidMessage(_) => "it does not speak https there".to_owned(),
        fault => format!("the TLS handshake failed: {fault}"),
    })
}

fn config(pin: Option<Fingerprint>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier { pin, provider: Arc::clone(&provider), system: OnceLock::new() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Verifier {
    pin: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
    /// The system's authorities: read when they are asked first, since that takes a while.
    system: OnceLock<Result<Arc<WebPkiServerVerifier>, String>>,
}

impl Verifier {
    fn system(&self) -> Result<&WebPkiServerVerifier, String> {
        let made = self.system.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            // One that cannot be read is one that nobody is believed for.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this system knows no certificate authorities".to_owned());
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|error| error.to_string())
        });
        made.as_deref().map_err(Clone::clone)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = Fingerprint::of(leaf);
        if self.pin == Some(seen) {
            return Ok(ServerCertVerified::assertion());
        }
        let system = self.system();
        let verified =
            system.and_then(|s| s.verify_server_cert(leaf, chain, name, ocsp, now).map_err(words));
        verified.map_err(|why| {
            let untrusted = OtherError(Arc::new(Untrusted { seen, why }));
            Error::InvalidCertificate(CertificateError::Other(untrusted))
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a chain is not believed; ends a sentence.
fn words(error: Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no authority that this system knows has signed it".to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "it is for another name".to_owned(),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "it has expired".to_owned(),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "it is not valid yet (is the clock of this machine right?)".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_write_them() {
        let plain = "0f".repeat(32);
        let colons = vec!["0F"; 32].join(":");
        for text in [&plain, &colons, &format!("SHA256:{plain}"), &format!(" sha256:{colons}\n")] {
            assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), plain, "{text}");
        }
        for bad in ["", "0f", &"0g".repeat(32), &"é".repeat(32), &"0f".repeat(33), "+1"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
        assert!(format!("+{}", "0f".repeat(31) + "0").parse::<Fingerprint>().is_err());
    }
}
