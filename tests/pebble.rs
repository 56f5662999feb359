//! Let's Encrypt's `pebble`, a certificate authority for tests, with its challenge DNS, for the
//! length of one test. Every name leads to 127.0.0.1, a fifth of all nonces is refused, and nothing
//! is taken over from an earlier proof. `scripts/pebble` gets the programs.
//!
//! A file of its own that tests of several crates take in by its path.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

/// How pebble is set up.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// Where it looks for HTTP-01 answers, and for TLS-ALPN-01 ones.
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    pub(crate) validity_s: u64,
}

pub(crate) struct Pebble {
    folder: tempfile::TempDir,
    children: Vec<Child>,
    /// `https://127.0.0.1:PORT/dir`
    pub(crate) directory: String,
    management: u16,
    dns_management: u16,
}

/// Below the ports that the kernel gives to clients.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let place = std::process::id() * 89 + 6_000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (place % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn programs() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/pebble");
    assert!(target.join("pebble").is_file(), "pebble is missing: scripts/pebble gets it");
    target
}

impl Pebble {
    pub(crate) fn start(setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        write_certificates(folder.path());
        let (listen, management) = (free_port(), free_port());
        let (dns, dns_management) = (free_port(), free_port());
        let profile = json!({ "description": "test", "validityPeriod": setup.validity_s });
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{listen}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": setup.http_port, "tlsPort": setup.tls_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
            "domainBlocklist": ["blocked.example.net"],
            "retryAfter": { "authz": 1, "order": 1 }, "keyAlgorithm": "ecdsa",
            "profiles": { "default": profile }
        }});
        std::fs::write(path("config.json"), config.to_string()).expect("a file");
        let log = |name: &str| std::fs::File::create(path(name)).expect("a file");
        let names = Command::new(programs().join("pebble-challtestsrv"))
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", ""])
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            .args(["-management", &format!("127.0.0.1:{dns_management}")])
            .stdin(Stdio::null())
            .stdout(log("dns.log"))
            .stderr(log("dns.err"))
            .spawn();
        let authority = Command::new(programs().join("pebble"))
            .arg("-config")
            .arg(path("config.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "20")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(log("pebble.log"))
            .stderr(log("pebble.err"))
            .spawn();
        let children = vec![names.expect("the DNS starts"), authority.expect("pebble starts")];
        let directory = format!("https://127.0.0.1:{listen}/dir");
        let mut pebble = Self { folder, children, directory, management, dns_management };
        pebble.wait_for([listen, management, dns_management]);
        pebble
    }

    fn wait_for(&mut self, ports: [u16; 3]) {
        let begun = Instant::now();
        while ports.iter().any(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_err()) {
            let died = self.children.iter_mut().any(|c| c.try_wait().expect("its state").is_some());
            assert!(
                !died && begun.elapsed() < Duration::from_secs(20),
                "pebble did not start:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the directory's own certificate is checked with.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What its certificates are checked with.
    #[allow(dead_code, reason = "not every crate that takes this file in asks for it")]
    pub(crate) fn root(&self) -> String {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let said = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-m", "10", "--cacert"])
            .arg(self.bundle())
            .arg(url)
            .output()
            .expect("curl runs");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).expect("PEM")
    }

    #[allow(dead_code, reason = "the same")]
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name));
        ["pebble.log", "pebble.err", "dns.err"].map(|n| read(n).unwrap_or_default()).concat()
    }

    /// Whether a name can be looked up.
    #[allow(dead_code, reason = "the same")]
    pub(crate) fn set_resolves(&self, name: &str, resolves: bool) {
        let what = if resolves { "clear-servfail" } else { "set-servfail" };
        let url = format!("http://127.0.0.1:{}/{what}", self.dns_management);
        self.curl(&url, &json!({ "host": name }));
    }

    /// The window that the authority suggests for the renewal of a certificate (RFC 3339 times).
    pub(crate) fn suggest(&self, certificate: &str, (start, end): (&str, &str)) {
        let url = format!("https://127.0.0.1:{}/set-renewal-info/", self.management);
        let window = json!({ "suggestedWindow": { "start": start, "end": end } });
        self.curl(&url, &json!({ "certificate": certificate, "ariResponse": window.to_string() }));
    }

    fn curl(&self, url: &str, body: &Value) {
        let said = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-m", "10", "--cacert"])
            .arg(self.bundle())
            .args(["--data-binary", &body.to_string(), url])
            .output()
            .expect("curl runs");
        assert!(said.status.success(), "{url}: {said:?}");
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An authority for pebble's own door, and what it serves with.
fn write_certificates(folder: &Path) {
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("a file");
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.distinguished_name.push(DnType::CommonName, "pebble's door");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
    write("ca.pem", ca_certificate.pem());
    write("cert.pem", leaf.pem());
    write("key.pem", key.serialize_pem());
}
