//! The front door over TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mini_core::control::{Certificate, Challenge, SecretPem, ToProxy};
use mini_core::rules::Https;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::*;

/// Believes everybody: the tests look at which certificate came.
#[derive(Debug)]
struct Believe;

/// An authority knows the critical extension of a proof (RFC 8737); rustls does not, and looks at
/// nothing that is signed with such a certificate.
fn but_for_proofs(
    verified: Result<HandshakeSignatureValid, rustls::Error>,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    match verified {
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(_))) => {
            Ok(HandshakeSignatureValid::assertion())
        }
        verified => verified,
    }
}

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = ring::default_provider().signature_verification_algorithms;
        but_for_proofs(rustls::crypto::verify_tls12_signature(message, cert, dss, &known))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = ring::default_provider().signature_verification_algorithms;
        but_for_proofs(rustls::crypto::verify_tls13_signature(message, cert, dss, &known))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

const BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

fn config(versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believe))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

/// A connection; `name` empty: without SNI.
async fn try_connect(
    proxy: SocketAddr,
    name: &str,
    mut config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(proxy).await?;
    config.enable_sni = !name.is_empty();
    let name = if name.is_empty() { "none" } else { name };
    let name = ServerName::try_from(name.to_owned()).unwrap();
    soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn connect(proxy: &Proxy, name: &str) -> TlsStream<TcpStream> {
    try_connect(proxy.https, name, config(&BOTH, &[])).await.unwrap()
}

fn leaf(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn ask(stream: &mut TlsStream<TcpStream>, host: &str, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let text = soon("an answer", async {
        loop {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "ended early");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = header(head, "content-length").unwrap().parse::<usize>().unwrap();
                if body.len() >= length {
                    return text;
                }
            }
        }
    })
    .await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn made(names: &[&str]) -> (Certificate, Vec<u8>) {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let key = SecretPem(made.signing_key.serialize_pem());
    let der = made.cert.der().to_vec();
    (Certificate { names, chain: made.cert.pem(), key }, der)
}

/// What proves a name in a handshake: its extension is critical (RFC 8737 section 3).
fn proof_of(name: &str) -> (String, SecretPem, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&[7; 32])];
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), SecretPem(key.serialize_pem()), certificate.der().to_vec())
}

/// Sends it and waits until it is taken: the proxy answers what comes after it.
async fn tell(controller: &mut Controller, document: ToProxy) {
    controller.send(&document).await;
    controller.status_without(|_| false).await;
}

async fn certify(controller: &mut Controller, certificates: Vec<Certificate>) {
    tell(controller, ToProxy::Certificates { certificates }).await;
}

/// The leaf of `door.pem`.
fn door_of(proxy: &Proxy) -> Vec<u8> {
    let text = std::fs::read(proxy.dir.path().join("tls/door.pem")).unwrap();
    CertificateDer::from_pem_slice(&text).unwrap().to_vec()
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_all_others_the_doors_own() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let (blue, blue_der) = made(&["blue.localhost"]);
    let (wild, wild_der) = made(&["*.example.com"]);
    certify(&mut c, vec![blue, wild]).await;
    let door = door_of(&proxy);
    for (name, expected) in [
        ("blue.localhost", &blue_der),
        ("BLUE.localhost", &blue_der),
        ("a.example.com", &wild_der),
        ("a.b.example.com", &door),
        ("unknown.test", &door),
        ("", &door),
    ] {
        for version in BOTH {
            let stream = try_connect(proxy.https, name, config(&[version], &["http/1.1"]));
            let mut stream = stream.await.unwrap();
            assert_eq!(&leaf(&stream), expected, "{name:?}");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
            let (head, body) = ask(&mut stream, "blue.localhost", "/").await;
            assert!(head.starts_with("HTTP/1.1 200") && body == "blue", "{head}");
        }
    }
}

#[tokio::test]
async fn an_app_is_told_that_its_client_came_over_tls() {
    let proxy = Proxy::start().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let (addr, _) = upstream(move |_, mut conn, _| {
        let log = Arc::clone(&log);
        async move {
            while let Some(head) = conn.try_head().await {
                log.lock().unwrap().push(head);
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    ask(&mut connect(&proxy, "blue.localhost").await, "blue.localhost", "/").await;
    proxy.get("blue.localhost").await;
    let heads = seen.lock().unwrap();
    let port = proxy.https.port().to_string();
    assert_eq!(header(&heads[0], "x-forwarded-proto"), Some("https"));
    assert_eq!(header(&heads[0], "x-forwarded-port"), Some(port.as_str()));
    assert_eq!(header(&heads[1], "x-forwarded-proto"), Some("http"));
}

#[tokio::test]
async fn certificates_change_under_connections_that_live() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let mut c = proxy.with_table(vec![serving("blue", addr)]).await;
    let (first, first_der) = made(&["blue.localhost"]);
    certify(&mut c, vec![first]).await;
    let mut old = connect(&proxy, "blue.localhost").await;
    assert_eq!(ask(&mut old, "blue.localhost", "/").await.1, "blue");
    let (second, second_der) = made(&["blue.localhost"]);
    certify(&mut c, vec![second.clone()]).await;
    let mut new = connect(&proxy, "blue.localhost").await;
    assert_eq!((leaf(&old), leaf(&new)), (first_der, second_der.clone()));
    assert_eq!(ask(&mut old, "blue.localhost", "/").await.1, "blue");
    assert_eq!(ask(&mut new, "blue.localhost", "/").await.1, "blue");

    // One that cannot be used leaves the others in place.
    let broken = Certificate { key: SecretPem("junk".into()), ..made(&["x.test"]).0 };
    certify(&mut c, vec![broken, second]).await;
    assert_eq!(leaf(&connect(&proxy, "blue.localhost").await), second_der);
    certify(&mut c, Vec::new()).await;
    assert_eq!(leaf(&connect(&proxy, "blue.localhost").await), door_of(&proxy));
}

#[tokio::test]
async fn a_proxy_starts_alone_with_the_certificates_of_before() {
    let proxy = Proxy::start().await;
    let mut c = proxy.with_table(Vec::new()).await;
    let (blue, blue_der) = made(&["blue.localhost"]);
    let (red, _) = made(&["red.localhost"]);
    certify(&mut c, vec![blue, red]).await;
    let folder = proxy.dir.path().join("tls");
    let files = || std::fs::read_dir(&folder).unwrap().filter(|e| is_pem(e.as_ref().unwrap()));
    soon("both on disk", async {
        while files().count() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let door = door_of(&proxy);
    let dir = Arc::clone(&proxy.dir);
    drop(c);
    proxy.finish().await;

    let again = Proxy::start_in(Arc::clone(&dir), |_| {}).await;
    assert_eq!(leaf(&connect(&again, "blue.localhost").await), blue_der);
    assert_eq!(leaf(&connect(&again, "other.test").await), door, "pinned by clients");
    again.finish().await;

    // One that is damaged costs no other.
    let damaged = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).find(|path| {
        std::fs::read_to_string(path).is_ok_and(|text| text.contains("red.localhost\n"))
    });
    std::fs::write(damaged.unwrap(), "junk").unwrap();
    let again = Proxy::start_in(dir, |_| {}).await;
    assert_eq!(leaf(&connect(&again, "blue.localhost").await), blue_der);
    assert_eq!(leaf(&connect(&again, "red.localhost").await), door);
}

fn is_pem(entry: &std::fs::DirEntry) -> bool {
    entry.path().extension().is_some_and(|e| e == "pem")
}

#[tokio::test]
async fn sessions_are_resumed_by_both_versions() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    for version in BOTH {
        let config = config(&[version], &[]);
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let stream = try_connect(proxy.https, "blue.localhost", config.clone()).await;
            let mut stream = stream.unwrap();
            // Tickets of TLS 1.3 come behind the handshake.
            ask(&mut stream, "blue.localhost", "/").await;
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        use HandshakeKind::{Full, Resumed};
        assert_eq!(kinds, [Full, Resumed, Resumed], "{version:?}");
    }
}

#[tokio::test]
async fn a_certificate_authority_is_answered_and_nobody_else() {
    let proxy = Proxy::start().await;
    let mut c = proxy.with_table(Vec::new()).await;
    let (chain, key, proof) = proof_of("new.test");
    let alpn = Challenge::TlsAlpn { name: "new.test".into(), chain, key };
    let (name, token, answer) = ("new.test".into(), "tok".into(), "tok.thumb".into());
    let http = Challenge::Http { name, token, answer };
    tell(&mut c, ToProxy::Challenges { sequence: 1, challenges: vec![alpn, http] }).await;

    let offer = |name: &'static str, alpn: &[&str]| {
        let config = config(&BOTH, alpn);
        async move { try_connect(proxy.https, name, config).await }
    };
    let mut stream = offer("new.test", &["acme-tls/1"]).await.unwrap();
    assert_eq!(leaf(&stream), proof);
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(soon("the end", stream.read(&mut [0])).await.unwrap(), 0, "and closes");
    assert!(offer("old.test", &["acme-tls/1"]).await.is_err(), "there is no such challenge");
    let browser = offer("new.test", &["h2", "http/1.1", "acme-tls/1"]).await.unwrap();
    assert_eq!(leaf(&browser), door_of(&proxy));
    assert_eq!(browser.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let path = "/.well-known/acme-challenge/tok";
    let answer = proxy.client().await.get("new.test", path).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "tok.thumb"));
    let other = proxy.client().await.get("old.test", path).await;
    assert_eq!(other.error(), (404, "unknown_host"));

    tell(&mut c, ToProxy::Challenges { sequence: 2, challenges: Vec::new() }).await;
    assert!(offer("new.test", &["acme-tls/1"]).await.is_err());
}

#[tokio::test]
async fn clients_that_do_not_speak_tls_are_told_or_cut() {
    let wait = Duration::from_millis(400);
    let proxy = Proxy::start_with(|config| config.timeouts.handshake = wait).await;
    let connect = || async {
        Client { stream: TcpStream::connect(proxy.https).await.unwrap(), buf: Vec::new() }
    };
    let mut plain = connect().await;
    let answer = plain.get("blue.localhost", "/").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("This port speaks https"), "{}", answer.body);
    assert_eq!(plain.rest().await, "", "and closes");

    // One that says nothing at all is left to the kernel for a while (TCP_DEFER_ACCEPT).
    let begun = Instant::now();
    let mut slow = connect().await;
    slow.send("\x16\x03\x01\x02\x00\x01\x00").await;
    slow.rest().await;
    assert!(begun.elapsed() >= wait, "cut early");
    let mut junk = connect().await;
    junk.send("\0\0\0\0").await;
    junk.rest().await;
    assert!(proxy.get("blue.localhost").await.status == 404, "others are served");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_says_that_it_is_whole() {
    let proxy = Proxy::start().await;
    let (addr, _) = upstream(|_, mut conn, _| async move {
        let head = conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf").await;
        if head.starts_with("GET /whole") {
            conn.send(" and half").await;
        } else {
            conn.stream.set_zero_linger().unwrap();
        }
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let get = |path: &'static str| {
        let connecting = connect(&proxy, "blue.localhost");
        async move {
            let mut stream = connecting.await;
            let request = format!("GET {path} HTTP/1.0\r\nHost: blue.localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let end = soon("the end", stream.read_to_string(&mut answer)).await;
            end.map(|_| answer)
        }
    };
    assert!(get("/whole").await.unwrap().ends_with("\r\n\r\nhalf and half"));
    assert!(get("/broken").await.is_err(), "an end that is not said is none");
}

#[tokio::test]
async fn only_versions_that_are_safe_are_spoken() {
    let proxy = Proxy::start().await;
    let stream = connect(&proxy, "a.test").await;
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    // A ClientHello of TLS 1.1, as an old client would send it: one cipher suite, no extension.
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0, 47, 1, 0]);
    let mut old = TcpStream::connect(proxy.https).await.unwrap();
    old.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the end", old.read_to_end(&mut answer)).await;
    assert_eq!(answer.first(), Some(&21), "an alert, no ServerHello: {answer:?}");
}

#[tokio::test]
async fn http_leads_to_https_where_the_app_wants_it_and_it_can() {
    let proxy = Proxy::start().await;
    let (addr, seen) = named("blue").await;
    let mut route = serving("blue", addr);
    route.rules.https = Https { redirect: true, hsts_s: Some(3600) };
    let mut c = proxy.with_table(vec![route, serving("red", addr)]).await;
    assert_eq!(proxy.get("blue.localhost").await.status, 200, "no certificate yet");
    certify(&mut c, vec![made(&["*.localhost"]).0]).await;
    let before = seen.requests.load(std::sync::atomic::Ordering::SeqCst);
    let mut client = proxy.client().await;
    client.send("POST /a?b HTTP/1.1\r\nHost: Blue.localhost:80\r\nContent-Length: 0\r\n\r\n").await;
    let answer = client.answer().await;
    let location = format!("https://blue.localhost:{}/a?b", proxy.https.port());
    assert_eq!((answer.status, answer.header("location")), (308, Some(location.as_str())));
    assert_eq!(seen.requests.load(std::sync::atomic::Ordering::SeqCst), before);
    assert_eq!(answer.header("strict-transport-security"), None);
    assert_eq!(proxy.get("red.localhost").await.status, 200, "it did not ask for that");

    let mut stream = connect(&proxy, "blue.localhost").await;
    let (head, body) = ask(&mut stream, "blue.localhost", "/").await;
    assert_eq!(header(&head, "strict-transport-security"), Some("max-age=3600"));
    assert_eq!(body, "blue");
    let (head, _) = ask(&mut stream, "red.localhost", "/").await;
    assert_eq!(header(&head, "strict-transport-security"), None);
}

#[tokio::test]
async fn http2_is_what_a_client_gets_that_knows_both() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("blue").await;
    let mut route = serving("blue", addr);
    route.rules.https = Https { redirect: true, hsts_s: Some(3600) };
    let mut c = proxy.with_table(vec![route]).await;
    certify(&mut c, vec![made(&["blue.localhost"]).0]).await;
    let stream = try_connect(proxy.https, "blue.localhost", config(&BOTH, &["http/1.1", "h2"]));
    let stream = stream.await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (executor, io) = (TokioExecutor::new(), TokioIo::new(stream));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://blue.localhost/").body(Empty::<Bytes>::new());
    let response = soon("an answer", client.send_request(request.unwrap())).await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
    assert_eq!(response.headers()["strict-transport-security"], "max-age=3600");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "blue");
    drop(client);
    soon("the end", driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn of_what_the_door_refuses_over_http_the_controller_sees_tokens_and_not_many() {
    // Behind a load balancer, so that clients are not this machine.
    let trusted = vec!["127.0.0.1/32".parse().unwrap()];
    let proxy = Proxy::start_with(|config| config.clients.trusted = trusted).await;
    let mut c = proxy.with_table(Vec::new()).await;
    let from = async |client: &str, request: &str, fields: &str| {
        let fields = format!("X-Forwarded-For: {client}\r\n{fields}");
        let mut conn = proxy.client().await;
        conn.send(&format!("{request} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).await;
        conn.answer().await
    };
    let token = "Authorization: Bearer mini_0123\r\n";
    let away = from("203.0.113.7", "GET /v1/apps", token).await;
    assert_eq!(away.error(), (503, "controller_unavailable"), "http is no matter yet");
    certify(&mut c, vec![made(&["mini.localhost"]).0]).await;
    // With the controller away it is refused all the same.
    let away = from("203.0.113.7", "GET /v1/apps", token).await;
    assert_eq!(away.error(), (403, "https_required"));

    let heads = Arc::new(Mutex::new(Vec::new()));
    let api = tokio::net::UnixListener::bind(proxy.dir.path().join("api.sock")).unwrap();
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = api.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            seen.lock().unwrap().push(String::from_utf8(head).unwrap());
            let answer = b"HTTP/1.1 403 Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    });
    let come = || std::mem::take(&mut *heads.lock().unwrap());
    for fields in ["", "Authorization: Basic bWluaTptaW5p\r\n", "Cookie: t=mini_0123\r\n"] {
        let answer = from("203.0.113.8", "GET /v1/apps", fields).await;
        assert_eq!(answer.error(), (403, "https_required"), "{fields}");
    }
    assert!(come().is_empty(), "without a token the proxy answers alone");
    let upgrade = format!("{token}Connection: upgrade\r\nUpgrade: mini-session\r\n");
    for request in ["GET /v1/apps?a=b", "DELETE /v1/apps/blue", "HEAD /", "POST /v1/apps/a/runs"] {
        let answer = from("203.0.113.8", request, &upgrade).await;
        assert_eq!(answer.status, 403, "{request}");
        let [head] = &come()[..] else { panic!("one request") };
        let method = request.split(' ').next().unwrap();
        assert!(head.starts_with(&format!("{method} /v1/overheard HTTP/1.1\r\n")), "{head}");
        assert_eq!(header(head, "x-forwarded-proto"), Some("http"));
        assert_eq!(header(head, "x-forwarded-for"), Some("203.0.113.8"));
        assert_eq!(header(head, "authorization"), Some("Bearer mini_0123"));
        assert!(!head.contains("blue") && header(head, "upgrade").is_none(), "{head}");
    }
    let over_https = format!("{token}X-Forwarded-Proto: https\r\n");
    from("203.0.113.8", "GET /v1/apps", &over_https).await;
    assert!(come()[0].starts_with("GET /v1/apps "), "that came over https in front");
    // Four of its ten are used up.
    for _ in 0..20 {
        assert_eq!(from("203.0.113.8", "GET /v1/apps", token).await.status, 403);
    }
    assert_eq!(come().len(), 6);
    from("203.0.113.9", "GET /v1/apps", token).await;
    assert_eq!(come().len(), 1, "others are not slowed");
}
