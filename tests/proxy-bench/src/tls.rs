//! TLS handshakes, each with one request: as many as a few clients get, with a session of before or
//! without. It is the client that has none, so that every server is as it comes.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream};

use crate::load::Load;
use crate::upstream::Certificate;
use crate::{HOST, http};

const CLIENTS: usize = 16;

/// TLS 1.3 for `time`. Each connection is closed after its request.
pub(crate) fn handshakes(
    to: SocketAddr,
    certificate: &Certificate,
    resumed: bool,
    time: Duration,
) -> Result<Load> {
    let (done, begun) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        let client = || -> Result<()> {
            // Sessions of its own: a ticket of TLS 1.3 is for one use.
            let config = config(certificate, resumed)?;
            let mut first = true;
            while begun.elapsed() < time {
                let kind = once(to, &config)?;
                // The first one makes the session.
                let expected = if resumed { HandshakeKind::Resumed } else { HandshakeKind::Full };
                if kind != Some(expected) && !std::mem::take(&mut first) {
                    bail!("{kind:?} instead of {expected:?}");
                }
                first = false;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client broke off"))??;
        }
        let requests = done.load(Ordering::Relaxed);
        Ok(Load { requests, per_second: requests as f64 / begun.elapsed().as_secs_f64() })
    })
}

fn config(certificate: &Certificate, resumed: bool) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate.chain).context("the certificate")?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resumed {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

fn once(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Option<HandshakeKind>> {
    let mut socket = http::connect(to)?;
    let mut session = ClientConnection::new(Arc::clone(config), HOST.try_into()?)?;
    let mut stream = Stream::new(&mut session, &mut socket);
    write!(stream, "GET /1k HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")?;
    http::answer(&mut stream)?;
    session.send_close_notify();
    while session.wants_write() {
        // The other side may have closed first, as it was asked to.
        if session.write_tls(&mut socket).is_err() {
            break;
        }
    }
    Ok(session.handshake_kind())
}
