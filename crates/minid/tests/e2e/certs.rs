//! Certificates by themselves: the whole server, ordering from Let's Encrypt's pebble.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::platform::{Platform, deploy, fixture, until};

#[path = "../../../../tests/pebble.rs"]
mod pebble;

use pebble::{Pebble, Setup, free_port};

const DOMAIN: &str = "apps.example.net";

/// A server that orders from an authority of its own.
struct Public {
    platform: Platform,
    pebble: Pebble,
    https: u16,
    root: PathBuf,
    folder: tempfile::TempDir,
}

impl Public {
    /// `http`: whether the authority can reach the server over http.
    fn start(http: bool) -> Self {
        let (http_port, https, closed) = (free_port(), free_port(), free_port());
        let asked = if http { http_port } else { closed };
        let pebble =
            Pebble::start(Setup { http_port: asked, tls_port: https, validity_s: 90 * 24 * 3600 });
        let (listen, listen_tls) = (format!("127.0.0.1:{http_port}"), format!("127.0.0.1:{https}"));
        let bundle = pebble.bundle();
        let flags = [
            ("--domain", DOMAIN),
            ("--http-listen", &listen),
            ("--https-listen", &listen_tls),
            ("--acme-directory", &pebble.directory),
            ("--acme-ca", bundle.to_str().expect("a plain path")),
            ("--acme-email", "admin@example.net"),
        ];
        let flags: Vec<&str> = flags.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
        let quick = [("MINID_ACME_RETRY_S", "1"), ("MINID_ACME_CHECK_S", "1")];
        let platform = Platform::start_with(&flags, &quick);
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root.pem");
        std::fs::write(&root, pebble.root()).unwrap();
        Self { platform, pebble, https, root, folder }
    }

    fn cert(&self, name: &str) -> Option<Value> {
        let all = self.platform.json(&["certs"]);
        all["certs"].as_array()?.iter().find(|c| c["name"] == name).cloned()
    }

    fn valid(&self, name: &str) -> Value {
        until("the name has a certificate", || self.cert(name).filter(|c| c["state"] == "valid"))
    }

    /// GET over https, verified with that root: the status, and what curl said.
    fn get(&self, name: &str, root: &Path) -> (String, String) {
        let port = self.https;
        let said = Command::new("curl")
            .args(["-sS", "-m", "10", "-o", "-", "-w", "\n%{http_code}"])
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1"), "--cacert"])
            .arg(root)
            .arg(format!("https://{name}:{port}/"))
            .output()
            .expect("curl runs");
        let (out, err) =
            (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        (out.lines().last().unwrap_or_default().to_owned(), err.into_owned())
    }

    /// The name's own certificate without what signed it, in a file.
    fn leaf(&self, name: &str) -> PathBuf {
        let chain = self.platform.json(&["certs", "show", name])["chain"].clone();
        let chain = chain.as_str().expect("a chain");
        let leaf = chain.split_inclusive("-----END CERTIFICATE-----").next().expect("a leaf");
        let path = self.folder.path().join("leaf.pem");
        std::fs::write(&path, format!("{leaf}\n")).unwrap();
        path
    }

    fn serves(&self, name: &str, root: &Path) {
        until("it is served with that certificate", || {
            let (status, _) = self.get(name, root);
            (status == "200").then_some(())
        });
    }
}

#[test]
fn an_app_has_a_certificate_by_itself_and_it_is_renewed_when_the_authority_says() {
    let public = Public::start(true);
    let folder = fixture(&[]);
    public.platform.ok(&deploy(folder.path(), "blue"));
    let name = format!("blue.{DOMAIN}");
    let first = public.valid(&name);
    public.serves(&name, &public.root);
    let (_, why) = public.get(&name, &public.pebble.bundle());
    assert!(why.contains("certificate"), "it is verified: {why}");
    let shown = public.platform.ok(&["certs", "show", &name]).out;
    assert!(shown.contains("proven by http-01"), "{shown}");
    let urls = public.platform.json(&["apps", "info", "blue"])["urls"].clone();
    assert!(urls[0].as_str().is_some_and(|u| u.starts_with(&format!("https://{name}:"))), "{urls}");
    let log = public.platform.ok(&["logs", "--app", "blue", "--source", "mini"]).out;
    assert!(log.contains(&format!("mini[certs]: Certificate for {name}: issued by")), "{log}");

    public.platform.kill_controller();
    let again = public.valid(&name);
    assert_eq!(again["fingerprint"], first["fingerprint"], "nothing is ordered twice");

    until("the authority was asked when to renew", || {
        public.cert(&name).filter(|c| c["renewal_suggested"] == true)
    });
    let old = public.leaf(&name);
    public.serves(&name, &old);
    let suggested = ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z");
    public.pebble.suggest(&std::fs::read_to_string(&old).unwrap(), suggested);
    until("it is renewed", || {
        public.cert(&name).filter(|c| c["fingerprint"] != first["fingerprint"])
    });
    public.serves(&name, &public.root);
    until("the old one is served no longer", || {
        let (status, _) = public.get(&name, &old);
        (status != "200").then_some(())
    });
}

#[test]
fn where_the_authority_cannot_come_by_http_the_name_is_proven_by_a_handshake() {
    let public = Public::start(false);
    public.valid(DOMAIN);
    let shown = public.platform.ok(&["certs", "show", DOMAIN]).out;
    assert!(shown.contains("proven by tls-alpn-01"), "{shown}");
    public.door_is_served_with(&public.root);
}

#[test]
fn an_own_certificate_is_served_before_an_ordered_one() {
    let public = Public::start(true);
    public.valid(DOMAIN);
    let own = public.folder.path();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![DOMAIN.to_owned()]).unwrap();
    let (chain_file, key_file) = (own.join("chain.pem"), own.join("key.pem"));
    std::fs::write(&chain_file, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let (chain_file, key_file) = (chain_file.to_str().unwrap(), key_file.to_str().unwrap());
    let wrong = public.platform.fails(&["certs", "add", key_file, chain_file]);
    assert!(wrong.err.contains("no certificate in the chain"), "{wrong:?}");
    public.platform.ok(&["certs", "add", chain_file, key_file]);
    public.door_is_served_with(Path::new(chain_file));
    let kept = public.platform.fails(&["certs", "remove", DOMAIN]);
    assert_eq!(kept.code, 2, "it asks first: {kept:?}");
    public.platform.ok(&["certs", "remove", DOMAIN, "--yes"]);
    public.door_is_served_with(&public.root);
}

impl Public {
    /// The door answers over https with a certificate that this one stands for.
    fn door_is_served_with(&self, root: &Path) {
        until("the door is served with that certificate", || {
            let (status, why) = self.get(DOMAIN, root);
            // The API has nothing at its root.
            (status == "404" && why.is_empty()).then_some(())
        });
    }
}
