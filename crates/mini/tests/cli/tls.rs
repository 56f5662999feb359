//! Which server is believed over https.

use std::fs;

use rcgen::{Certificate, CertificateParams, Issuer, KeyPair};
use serde_json::json;

use super::fake::{Asked, Fake, Reply};
use super::platform::app;
use super::{Machine, Ran, assert_in};

fn answer(asked: &Asked) -> Reply {
    let path = asked.path.as_str();
    if path != "/v1/health" && asked.token.as_deref() != Some("mini_good") {
        return Reply::error(401, "unauthorized", "the token is unknown");
    }
    match path {
        "/v1/apps" => Reply::json(200, &json!({ "apps": [app("blue-sky", Some("v3"))] })),
        _ => Reply::json(
            200,
            &json!({
                "status": "ok", "version": "0.1.0", "api_level": 1, "id": "s1", "domains": [],
                "engine": null, "token": "laptop", "problems": []
            }),
        ),
    }
}

/// As the proxy makes its own: for names, not for the address that the tests use.
fn own() -> (Certificate, KeyPair) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert, made.signing_key)
}

/// An authority's certificate in PEM, and one that it signed for the address of the tests.
fn public() -> (String, (Certificate, KeyPair)) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap();
    (authority.pem(), (signed, key))
}

/// What the client saw, by its own words.
fn seen(ran: &Ran) -> String {
    let (_, rest) = ran.err.split_once("SHA-256 fingerprint is ").unwrap();
    rest.chars().take_while(char::is_ascii_hexdigit).collect()
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_named_with_the_two_ways_out() {
    let fake = Fake::start_secure(own(), answer);
    let machine = Machine::new();
    for args in [
        &["login", &fake.url, "--token", "mini_good"][..],
        &["config", "set-host", &fake.url],
        &["apps", "--host", &fake.url],
    ] {
        let ran = machine.mini(args);
        assert_eq!(ran.code, 6, "{}", ran.err);
        assert_in(&ran.err, &format!("error: the certificate of {} is not trusted", fake.url));
        let fingerprint = seen(&ran);
        assert_eq!(fingerprint.len(), 64);
        let pin = format!("`mini login {} --fingerprint {fingerprint}`", fake.url);
        assert_in(&ran.err, &pin);
        assert_in(&ran.err, "has a public certificate");
    }
    assert!(fake.asked().is_empty() && !machine.config.exists(), "nothing was sent or kept");
}

#[test]
fn a_pinned_certificate_is_believed_and_no_other() {
    let fake = Fake::start_secure(own(), answer);
    let machine = Machine::new();
    let fingerprint = seen(&machine.mini(&["config", "set-host", &fake.url]));
    let colons: Vec<String> = fingerprint
        .as_bytes()
        .chunks(2)
        .map(|c| String::from_utf8_lossy(c).to_uppercase())
        .collect();

    let wrong = "ab".repeat(32);
    let login = ["login", &fake.url, "--token", "mini_good", "--fingerprint"];
    let ran = machine.mini(&[&login[..], &[&wrong]].concat());
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, &format!("is {fingerprint}, pinned is {wrong}"));
    assert_in(&ran.err, "hint: `minid status` on the server names the right one");
    assert!(fake.asked().is_empty() && !machine.config.exists());
    assert_eq!(machine.mini(&[&login[..], &["beef"]].concat()).code, 2);

    let ran = machine.mini(&[&login[..], &[&colons.join(":")]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.contains("plain http"), "{}", ran.err);
    assert_in(&machine.mini(&["apps"]).out, "blue-sky");
    assert_in(&machine.mini(&["config", "show"]).out, &format!("pinned  {fingerprint}"));
    assert_in(&fs::read_to_string(&machine.config).unwrap(), &fingerprint);

    // The same server with another certificate: the token stays here.
    let other = Fake::start_secure(own(), answer);
    let config = fs::read_to_string(&machine.config).unwrap().replace(&fake.url, &other.url);
    machine.configure(&config);
    let ran = machine.mini(&["apps"]);
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, &format!("pinned is {fingerprint}"));
    assert!(other.asked().is_empty());

    let env = [("MINI_HOST", fake.url.as_str()), ("MINI_TOKEN", "mini_good")];
    let mut command = machine.command(&["apps"]);
    let ran = Ran::from(command.envs(env).env("MINI_FINGERPRINT", &fingerprint).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn a_pin_makes_room_for_a_public_certificate() {
    let (authority, signed) = public();
    let fake = Fake::start_secure(signed, answer);
    let machine = Machine::new();
    machine.file("authority.pem", &authority);
    let trusting = |args: &[&str]| {
        let mut command = machine.command(args);
        // What rustls-native-certs reads instead of the system's authorities.
        command.env("SSL_CERT_FILE", machine.work.join("authority.pem"));
        Ran::from(command.output().unwrap())
    };
    let set = trusting(&["config", "set-host", &fake.url]);
    assert_eq!(set.code, 0, "{}", set.err);
    let old = format!("fingerprint = \"{}\"", "ab".repeat(32));
    machine.configure(&format!(
        "current = \"a\"\n[servers.a]\nhost = \"{}\"\ntoken = \"mini_good\"\n{old}\n",
        fake.url
    ));
    let ran = trusting(&["apps"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = machine.mini(&["apps"]);
    assert_eq!(ran.code, 6, "without that authority");
    // For another name it is good for nothing.
    let elsewhere = fake.url.replace("127.0.0.1", "localhost");
    assert_in(&trusting(&["apps", "--host", &elsewhere]).err, "it is for another name");
}

#[test]
fn what_does_not_speak_https_is_told_and_only_https_has_a_pin() {
    let fake = Fake::start(answer);
    let machine = Machine::new();
    let secure = fake.url.replace("http://", "https://");
    let ran = machine.mini(&["config", "set-host", &secure]);
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, &format!("error: cannot reach {secure}: it does not speak https there"));
    let pin = "ab".repeat(32);
    let ran = machine.mini(&["config", "set-host", &fake.url, "--fingerprint", &pin]);
    assert_eq!(ran.code, 2);
    assert_in(&ran.err, "hint: --fingerprint goes with an address that begins with https://");
}
