//! TLS at the front door: which certificate a client meets, and the handshake with it.
//!
//! Certificates come from the controller and are kept in a folder of the proxy's own ([`keep`]), so
//! that it starts alone with them. Beside them there is always one of its own making ([`door`]),
//! which a client meets whose name has no other. All of them are behind one atomic pointer: a
//! change needs no restart, and connections that are there do not notice.
//!
//! [`handshake`] takes a client from its first byte to a TLS stream; [`plain`] has what becomes of
//! requests that came without TLS.

mod certs;
mod door;
mod handshake;
mod keep;
mod limits;
mod plain;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use mini_core::control::{Certificate, Challenge, SecretPem};
use mini_core::name::HostName;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::ServerSessionMemoryCache;
use tokio::sync::watch;

use crate::shared::lock;
use certs::{Certs, Held};

pub use door::fingerprint;
pub use handshake::SPEAKS_HTTPS;

/// What is spoken inside of TLS, best first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// The protocol of a certificate authority that looks who has a name (RFC 8737).
const ACME: &[u8] = b"acme-tls/1";
/// Sessions of TLS 1.2 clients that take no tickets.
const SESSIONS: usize = 4096;

pub(crate) struct Tls {
    certs: Arc<ArcSwap<Certs>>,
    challenges: ArcSwap<Challenges>,
    config: Arc<ServerConfig>,
    underway: limits::Underway,
    /// How long a handshake may take.
    patience: Duration,
    pub(crate) counters: Counters,
    domains: Vec<HostName>,
    folder: PathBuf,
    /// Certificates that are served and not yet on disk.
    unsaved: Mutex<Option<Vec<Certificate>>>,
    to_save: watch::Sender<()>,
}

/// Handshakes since this process started.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) full: AtomicU64,
    pub(crate) resumed: AtomicU64,
    /// Broken off: by the client, by what it cannot do, or for taking too long.
    pub(crate) failed: AtomicU64,
    /// Not begun, since too many were under way.
    pub(crate) refused: AtomicU64,
}

/// What certificate authorities are to be shown at the moment.
#[derive(Default)]
struct Challenges {
    /// By name, then token.
    http: HashMap<String, HashMap<String, Arc<str>>>,
    /// By name: a configuration that has one certificate and speaks nothing but `acme-tls/1`.
    alpn: HashMap<String, Arc<ServerConfig>>,
}

/// Why TLS cannot be had at all.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

impl Tls {
    /// With what the folder holds; a certificate of its own is made if there is none. What cannot
    /// be read or written there is said, and does not keep the proxy from starting.
    pub(crate) fn open(
        folder: PathBuf,
        domains: Vec<HostName>,
        patience: Duration,
    ) -> Result<Self, TlsError> {
        let door = door::open(&folder, &domains)?;
        let held = keep::read_all(&folder);
        let certs = Arc::new(ArcSwap::from_pointee(Certs::new(door, held, &domains)));
        Ok(Self {
            config: server_config(Arc::clone(&certs))?,
            certs,
            challenges: ArcSwap::default(),
            underway: limits::Underway::default(),
            patience,
            counters: Counters::default(),
            domains,
            folder,
            unsaved: Mutex::new(None),
            to_save: watch::Sender::new(()),
        })
    }

    /// Serves these certificates instead of those that came before; one that cannot be used is
    /// said and left out.
    pub(crate) fn replace(&self, certificates: Vec<Certificate>) {
        let mut unsaved = lock(&self.unsaved);
        let now = self.certs.load_full();
        let held = certificates.iter().filter_map(|certificate| match Held::read(certificate) {
            Ok(new) => Some(now.same(&new).unwrap_or_else(|| Arc::new(new))),
            Err(why) => {
                let names = certificate.names.join(" ");
                tracing::error!(names, "a certificate cannot be used: {why}");
                None
            }
        });
        let held: Vec<_> = held.collect();
        tracing::info!(certificates = held.len(), "the certificates were replaced");
        let new = Certs::new(now.door(), held, &self.domains);
        self.certs.store(Arc::new(new));
        *unsaved = Some(certificates);
        self.to_save.send_replace(());
    }

    /// Answers these questions instead of those before.
    pub(crate) fn challenge(&self, challenges: Vec<Challenge>) {
        let mut new = Challenges::default();
        for challenge in challenges {
            match challenge {
                Challenge::Http { name, token, answer } => {
                    let tokens = new.http.entry(name.to_ascii_lowercase()).or_default();
                    tokens.insert(token, answer.into());
                }
                Challenge::TlsAlpn { name, chain, key } => match challenge_config(&chain, &key) {
                    Ok(config) => {
                        new.alpn.insert(name.to_ascii_lowercase(), config);
                    }
                    Err(why) => tracing::error!(name, "a challenge cannot be answered: {why}"),
                },
            }
        }
        self.challenges.store(Arc::new(new));
    }

    /// Whether there is a certificate for this name (in lower case) that came from the controller.
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.certs.load().find(name).is_some()
    }
}

/// Writes what is served and not yet on disk, for ever.
pub(crate) async fn keep(tls: Arc<Tls>) {
    let mut wanted = tls.to_save.subscribe();
    let mut failing = false;
    loop {
        wanted.mark_unchanged();
        let unsaved = lock(&tls.unsaved).clone();
        if let Some(certificates) = unsaved {
            let of = Arc::clone(&tls);
            let saved = tokio::task::spawn_blocking(move || {
                keep::write_all(&of.folder, &certificates).map(|()| certificates)
            });
            match saved.await {
                Ok(Ok(saved)) => {
                    lock(&tls.unsaved).take_if(|now| *now == saved);
                    if std::mem::take(&mut failing) {
                        tracing::info!("the certificates can be written again");
                    }
                }
                Ok(Err(error)) => {
                    if !std::mem::replace(&mut failing, true) {
                        let path = tls.folder.display();
                        tracing::error!(%error, %path, "the certificates cannot be written; trying again");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// For everybody: TLS 1.2 and 1.3, sessions resumed by tickets whose key changes by itself.
fn server_config(certs: Arc<ArcSwap<Certs>>) -> Result<Arc<ServerConfig>, TlsError> {
    let failed = |error: rustls::Error| TlsError(error.to_string());
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certs::BySni(certs)));
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    config.ticketer = ring::Ticketer::new().map_err(failed)?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(Arc::new(config))
}

fn challenge_config(chain: &str, key: &SecretPem) -> Result<Arc<ServerConfig>, String> {
    let key = certs::unread(chain, key)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certs::One(key)));
    config.alpn_protocols = vec![ACME.to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    static ONE: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(ONE.get_or_init(|| Arc::new(ring::default_provider())))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
