//! Certificates, ordered from Let's Encrypt's pebble; a fake proxy answers its questions.

use std::sync::Arc;
use std::time::Duration;

use mini_api::{Cert, CertSource, CertState, ErrorCode, NewCert};
use mini_core::control::{Challenge, SecretPem};
use mini_core::testing::until;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::LazyConfigAcceptor;

use super::proxy::FakeProxy;
use super::{House, SOON};
use crate::{Acme, Config};

#[path = "../../../../tests/pebble.rs"]
mod pebble;

use pebble::{Pebble, Setup, free_port};

const DOMAIN: &str = "apps.example.net";
const DAY: u64 = 24 * 3600;

/// What listens at the authority's ports.
#[derive(Clone, Copy)]
struct Ways {
    http: bool,
    tls: bool,
}

const BOTH: Ways = Ways { http: true, tls: true };

/// A house whose controller orders from an authority of its own.
struct Street {
    house: House,
    pebble: Pebble,
    config: Config,
}

impl Street {
    async fn new(ways: Ways, adjust: impl FnOnce(&mut Acme)) -> Self {
        let mut house = House::unstarted();
        let (http_port, tls_port) = (free_port(), free_port());
        let pebble = Pebble::start(Setup { http_port, tls_port, validity_s: 90 * DAY });
        if ways.http {
            tokio::spawn(answer_http(http_port, house.proxy.clone()));
        }
        if ways.tls {
            tokio::spawn(answer_handshakes(tls_port, house.proxy.clone()));
        }
        let mut acme = Acme {
            directory: pebble.directory.clone(),
            email: Some("admin@example.net".into()),
            ca_bundle: Some(pebble.bundle()),
            retry: Duration::from_secs(1),
            ..Acme::default()
        };
        adjust(&mut acme);
        let config = Config { domains: vec![DOMAIN.parse().unwrap()], acme, ..house.config() };
        house.start_with(config.clone()).await;
        Self { house, pebble, config }
    }

    async fn cert(&self, name: &str) -> Cert {
        self.house.client.cert(name).await.unwrap().cert
    }

    /// Waits until the proxy serves the name with a certificate, and returns its chain.
    async fn served(&self, name: &str) -> String {
        let chain = || async { self.house.proxy.certificate(name).map(|c| c.chain) };
        until(SOON, "the name has a certificate", chain).await
    }

    async fn events(&self, name: &str) -> Vec<String> {
        let found = self.house.client.cert(name).await.unwrap();
        found.events.into_iter().map(|e| e.text).collect()
    }

    async fn reaches(&self, name: &str, state: CertState) -> Cert {
        let reached = || async { Some(self.cert(name).await).filter(|c| c.state == state) };
        until(SOON, "the name's certificate is in that state", reached).await
    }
}

async fn answer_http(port: u16, proxy: FakeProxy) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    while let Ok((mut stream, _)) = listener.accept().await {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).to_ascii_lowercase();
            let found = proxy.challenges().into_iter().find_map(|c| match c {
                Challenge::Http { name, token, answer } => {
                    let path = format!("get /.well-known/acme-challenge/{token} ");
                    let asked = head.starts_with(&path.to_ascii_lowercase())
                        && head.contains(&format!("host: {name}"));
                    asked.then_some(answer)
                }
                Challenge::TlsAlpn { .. } => None,
            });
            let (status, body) = found.map_or(("404 Not Found", String::new()), |a| ("200 OK", a));
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

async fn answer_handshakes(port: u16, proxy: FakeProxy) {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await;
            let Ok(start) = start else { return };
            let asked = start.client_hello().server_name().unwrap_or_default().to_owned();
            let found = proxy.challenges().into_iter().find_map(|c| match c {
                Challenge::TlsAlpn { name, chain, key } if name == asked => Some((chain, key)),
                _ => None,
            });
            if let Some((chain, key)) = found {
                // The handshake is all that is asked for.
                let _ = start.into_stream(Arc::new(for_handshake(&chain, &key))).await;
            }
        });
    }
}

fn for_handshake(chain: &str, key: &SecretPem) -> ServerConfig {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(key.0.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // rustls does not look into such a certificate, whose extension is critical and unknown to it.
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let one = SingleCertAndKey::from(CertifiedKey::new(chain.unwrap(), key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(one));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    config
}

/// A certificate of the test's own, and its key.
fn own(names: &[&str]) -> NewCert {
    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    NewCert { chain, key: key.serialize_pem(), app: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_gets_a_certificate_over_http() {
    let mut street = Street::new(BOTH, |_| {}).await;
    street.served(DOMAIN).await;
    street.served(&format!("mini.{DOMAIN}")).await;
    let app = format!("blue.{DOMAIN}");
    street.house.create("blue").await;
    assert!(street.house.client.cert(&app).await.is_err(), "nothing was deployed yet");
    street.house.deploy_live("hello:1").await;
    let chain = street.served(&app).await;
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2, "with what signed it");
    let cert = street.cert(&app).await;
    assert_eq!((cert.state, cert.source), (CertState::Valid, Some(CertSource::Acme)));
    assert_eq!(cert.app.as_ref().map(AsRef::as_ref), Some("blue"));
    let events = street.events(&app).await;
    assert!(events[0].contains("proven by http-01"), "{events:?}");
    let log = street.house.log(&super::blue()).await;
    assert!(log.iter().any(|l| l.contains(&format!("Certificate for {app}: issued"))), "{log:?}");
    assert!(street.house.proxy.challenges().is_empty(), "what was asked is answered no longer");

    // Nothing is ordered twice: not by a controller that comes back, nor for a proxy that does.
    street.house.kill().await;
    street.house.proxy.forget_certificates();
    street.house.start_with(street.config.clone()).await;
    assert_eq!(street.served(&app).await, chain);
    let database = std::fs::read(street.house.folder.path().join("mini.db")).unwrap();
    let log = std::fs::read(street.house.folder.path().join("mini.db-wal")).unwrap_or_default();
    let lies_open = |bytes: &[u8]| bytes.windows(11).any(|w| w == b"PRIVATE KEY");
    assert!(!lies_open(&database) && !lies_open(&log), "keys are sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_http_is_not_served_a_handshake_proves_the_name() {
    let street = Street::new(Ways { http: false, tls: true }, |_| {}).await;
    street.served(DOMAIN).await;
    let events = street.events(DOMAIN).await;
    assert!(events.last().unwrap().contains("tls-alpn-01"), "{events:?}");
    let street = Street::new(Ways { http: false, tls: true }, |acme| acme.http = false).await;
    street.served(DOMAIN).await;
    assert_eq!(street.events(DOMAIN).await.len(), 1, "the other way was not tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_proven_waits_and_holds_no_other_up() {
    let street = Street::new(BOTH, |acme| acme.retry = Duration::from_secs(600)).await;
    let bad = format!("mini.{DOMAIN}");
    street.pebble.set_resolves(&bad, false);
    street.house.client.retry_cert(&bad).await.ok();
    street.served(DOMAIN).await;
    let failed = street.reaches(&bad, CertState::Failed).await;
    assert_eq!(failed.attempts, 1);
    let error = failed.last_error.unwrap();
    assert!(error.contains("http-01:") && error.contains("tls-alpn-01:"), "{error}");
    let wait = failed.next_try_at.unwrap().duration_since(jiff::Timestamp::now()).as_secs();
    assert!((590..=720).contains(&wait), "{wait}");
    street.pebble.set_resolves(&bad, true);
    assert_eq!(street.house.client.retry_cert(&bad).await.unwrap().state, CertState::Ordering);
    street.served(&bad).await;
    let refused = street.house.client.retry_cert(&bad).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Conflict), "it holds, so nothing is ordered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_is_renewed_when_the_authority_suggests_it() {
    let street = Street::new(BOTH, |acme| acme.check_every = Some(Duration::from_secs(1))).await;
    let first = street.served(DOMAIN).await;
    let suggested = || async { Some(street.cert(DOMAIN).await).filter(|c| c.renewal_suggested) };
    let cert = until(SOON, "the authority was asked when to renew", suggested).await;
    assert!(cert.renew_at.unwrap() > jiff::Timestamp::now());
    let leaf = first.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    street.pebble.suggest(leaf, ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"));
    let renewed = || async { Some(street.served(DOMAIN).await).filter(|chain| *chain != first) };
    until(SOON, "it is renewed", renewed).await;
    let log = street.pebble.log();
    assert!(!log.contains("panic"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_certificate_wins_and_goes_again() {
    let street = Street::new(BOTH, |_| {}).await;
    let ordered = street.served(DOMAIN).await;
    let new = own(&[DOMAIN, "*.example.com"]);
    let added = street.house.client.add_cert(&new).await.unwrap();
    assert_eq!(added.certs.len(), 2);
    let served = || async { Some(street.served(DOMAIN).await).filter(|c| *c == new.chain) };
    until(SOON, "the own one is served", served).await;
    assert!(street.house.proxy.certificate("*.example.com").is_some());
    assert_eq!(street.cert(DOMAIN).await.source, Some(CertSource::Own));
    let other = own(&[DOMAIN]);
    let wrong = NewCert { key: other.key, ..new.clone() };
    let refused = street.house.client.add_cert(&wrong).await.unwrap_err();
    assert!(refused.to_string().contains("does not belong"), "{refused}");
    street.house.client.remove_cert(DOMAIN).await.unwrap();
    let served = || async { Some(street.served(DOMAIN).await).filter(|c| *c == ordered) };
    until(SOON, "the ordered one is served again", served).await;
    let kept = street.house.client.remove_cert(DOMAIN).await.unwrap_err();
    assert_eq!(kept.code(), Some(ErrorCode::Conflict));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_ordered_where_it_was_not_agreed_to_and_nothing_for_names_inside() {
    let why = || Some("the terms are not agreed to".to_owned());
    let street = Street::new(BOTH, |acme| acme.off = why()).await;
    let cert = street.cert(DOMAIN).await;
    assert_eq!((cert.state, cert.note), (CertState::None, why()));
    assert_eq!(street.house.client.certs().await.unwrap().acme.off, why());
    let log = street.pebble.log();
    assert!(!log.contains("newAccount") && !log.contains("/sign-me-up"), "{log}");
    assert_eq!(
        street.house.client.retry_cert(DOMAIN).await.unwrap_err().code(),
        Some(ErrorCode::Conflict)
    );
}
