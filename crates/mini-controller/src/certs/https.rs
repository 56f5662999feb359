//! How we speak to a certificate authority: https only, one connection for each request (an order
//! takes about ten), answers bounded in time and size.

use std::cell::Cell;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// From the first look at DNS to the end of the handshake.
const CONNECT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(60);
const LARGEST_ANSWER: usize = 1 << 20;

tokio::task_local! {
    /// What the last refusal said in `Retry-After`, for the order that this task works on:
    /// instant-acme's errors have no headers.
    static RETRY_AFTER: Cell<Option<Duration>>;
}

/// Does `work` and also returns how long the authority asked to be left alone, if it did.
pub(super) async fn heeding<T>(work: impl Future<Output = T>) -> (T, Option<Duration>) {
    RETRY_AFTER
        .scope(Cell::new(None), async {
            let done = work.await;
            (done, RETRY_AFTER.with(Cell::get))
        })
        .await
}

#[derive(Clone)]
pub(super) struct Https {
    tls: Arc<ClientConfig>,
}

impl Https {
    /// Trusts what the bundle holds, or what the system trusts.
    pub(super) fn new(bundle: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match bundle {
            Some(path) => {
                let failed = |why: String| format!("--acme-ca {}: {why}", path.display());
                let found =
                    CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
                for certificate in found {
                    let certificate = certificate.map_err(|e| failed(e.to_string()))?;
                    roots.add(certificate).map_err(|e| failed(e.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(failed("there is no certificate in it".to_owned()));
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err("this machine trusts no authority: install ca-certificates, or \
                                name a bundle with --acme-ca"
                        .to_owned());
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let uri = request.uri().clone();
        let host = uri.host().ok_or_else(|| other("the URL names no host"))?.to_owned();
        if uri.scheme_str() != Some("https") {
            return Err(other(format!("{uri} is not https")));
        }
        let port = uri.port_u16().unwrap_or(443);
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare.clone()).map_err(other)?;
        let connector = TlsConnector::from(self.tls.clone());
        let connected = tokio::time::timeout(CONNECT, async {
            let stream = TcpStream::connect((bare.as_str(), port)).await?;
            connector.connect(name, stream).await
        });
        let stream = connected
            .await
            .map_err(|_| other(format!("{host}:{port} does not answer")))?
            .map_err(|e| other(format!("{host}:{port}: {e}")))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
        // Ends with the answer, or with this future.
        let connection = tokio::spawn(connection);
        let request = in_origin_form(request, &host, port)?;
        let answered = tokio::time::timeout(ANSWER, async {
            let response = sender.send_request(request).await.map_err(other)?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await;
            let body = body.map_err(|e| other(e.to_string()))?.to_bytes();
            Ok::<_, Error>(Response::from_parts(parts, Full::new(body)))
        })
        .await;
        connection.abort();
        let response = answered.map_err(|_| other(format!("{host}:{port} takes too long")))??;
        note_retry_after(&response);
        Ok(BytesResponse::from(response))
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().exchange(request))
    }
}

fn other(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Other(why.into())
}

/// `https://HOST/PATH` as `/PATH` and a Host header (RFC 9112 section 3.2.1).
fn in_origin_form(
    request: Request<BodyWrapper<Bytes>>,
    host: &str,
    port: u16,
) -> Result<Request<BodyWrapper<Bytes>>, Error> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
    parts.uri = path.parse().map_err(other)?;
    parts.headers.insert(header::HOST, authority.parse().map_err(other)?);
    Ok(Request::from_parts(parts, body))
}

fn note_retry_after<B>(response: &Response<B>) {
    if response.status().is_success() {
        return;
    }
    let Some(value) = response.headers().get(header::RETRY_AFTER) else { return };
    let Some(wait) = value.to_str().ok().and_then(|v| read_retry_after(v, SystemTime::now()))
    else {
        return;
    };
    // Outside of an order nobody asks.
    let _ = RETRY_AFTER.try_with(|cell| cell.set(Some(wait)));
}

/// Seconds or a date (RFC 9110 section 10.2.3).
fn read_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    SystemTime::from(at).duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(read_retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        let date = "Thu, 01 Jan 1970 00:01:00 GMT";
        assert_eq!(read_retry_after(date, now), Some(Duration::from_secs(60)));
        assert_eq!(read_retry_after("soon", now), None);
        assert_eq!(read_retry_after("-1", now), None);
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "hello").unwrap();
        assert!(Https::new(Some(&path)).is_err_and(|e| e.contains("no certificate")));
        assert!(Https::new(Some(&folder.path().join("none"))).is_err());
    }
}
