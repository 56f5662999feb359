//! https from the first start, and what comes over http.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use mini_core::ports::Runtime;

use crate::platform::{Platform, block_on, deploy, fixture, free_port, until};
use crate::said::Said;

/// The CLI of somebody who has the config file of this test and no other settings.
fn mini(platform: &Platform, arguments: &[&str]) -> Said {
    let mut command = platform.mini(arguments);
    Said::from(command.env_remove("MINI_HOST").env_remove("MINI_TOKEN").output().unwrap())
}

/// An app's answer over https, by a client that this project did not write.
fn curl(platform: &Platform, https: &str, app: &str, arguments: &[&str]) -> String {
    let (ip, port) = https.rsplit_once(':').unwrap();
    let name = format!("{app}.localhost");
    let said = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20", "--insecure"])
        .args(["--resolve", &format!("{name}:{port}:{ip}")])
        .args(arguments)
        .arg(format!("https://{name}:{port}/"))
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{said:?}\n{}", platform.log());
    text
}

#[test]
fn the_door_has_tls_from_the_first_start_and_its_certificate_is_pinned() {
    let mut platform = Platform::start();
    let (https, fingerprint) = (platform.ready("https"), platform.ready("fingerprint"));
    let url = format!("https://{https}");
    let token = platform.token.clone();
    let unpinned = mini(&platform, &["login", &url, "--token", &token]);
    assert_eq!(unpinned.code, 6, "{unpinned:?}");
    assert!(unpinned.err.contains(&fingerprint), "{unpinned:?}");
    let login = ["login", &url, "--token", &token, "--fingerprint", &fingerprint];
    let login = mini(&platform, &login);
    assert_eq!(login.code, 0, "{login:?}");
    assert!(!login.err.contains("plain http"), "{login:?}");

    let folder = fixture(&[]);
    let deployed = mini(&platform, &deploy(folder.path(), "blue"));
    assert_eq!(deployed.code, 0, "{deployed:?}");
    let ran = mini(&platform, &["run", "--app", "blue", "--", "/app", "print", "hello"]);
    assert!(ran.code == 0 && ran.out.contains("hello"), "a session over TLS: {ran:?}");
    for version in ["--http1.1", "--http2"] {
        let answer = curl(&platform, &https, "blue", &[version, "--include"]);
        assert!(answer.lines().next().is_some_and(|l| l.contains(" 200")), "{answer}");
    }

    let mut status = Command::new(env!("CARGO_BIN_EXE_minid"));
    let status = status.arg("status").env("MINID_DATA_DIR", platform.data()).output().unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains(&fingerprint));
    platform.down();
    platform.up();
    assert_eq!(platform.ready("fingerprint"), fingerprint, "clients have pinned it");
}

/// An address of this machine that is not loopback: its end of the app's network.
fn far_address(platform: &Platform) -> IpAddr {
    let docker = platform.engine(&platform.server_id());
    let instances = block_on(docker.observe()).unwrap();
    let of_app = instances.iter().find_map(|i| i.address).unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((of_app, 9)).unwrap();
    socket.local_addr().unwrap().ip()
}

#[test]
fn a_token_that_came_over_http_from_elsewhere_is_marked() {
    let far = free_port();
    let platform = Platform::start_with(&["--http-listen", &format!("0.0.0.0:{far}")], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let seen = || {
        let tokens = platform.json(&["tokens", "list"]);
        let all = tokens["tokens"].as_array().unwrap().clone();
        all.into_iter().find(|t| t["name"] == "test").unwrap()["seen_over_http_at"].clone()
    };
    assert!(seen().is_null(), "loopback is nobody's to read");

    let ours = far_address(&platform);
    let mut command = platform.mini(&["apps"]);
    command.env("MINI_HOST", format!("http://{ours}:{far}"));
    let said = Said::from(command.output().unwrap());
    assert_eq!(said.code, 0, "{said:?}");
    until("the token is marked", || seen().is_string().then_some(()));
    let list = platform.ok(&["tokens", "list"]);
    assert!(list.out.contains("seen over http"), "{list:?}");
    assert!(list.err.contains("mini tokens revoke"), "{list:?}");
    let mut own = Command::new(env!("CARGO_BIN_EXE_minid"));
    let own = own.args(["token", "list"]).env("MINID_DATA_DIR", platform.data()).output().unwrap();
    let own = String::from_utf8_lossy(&own.stdout).into_owned();
    let marked = own.lines().find(|line| line.contains("SEEN OVER HTTP"));
    assert!(marked.is_some_and(|line| line.contains("  test")), "{own}");
}

#[test]
fn a_door_that_refuses_http_tells_of_the_tokens_that_came_by_it() {
    let far = free_port();
    let listen = format!("0.0.0.0:{far}");
    let platform =
        Platform::start_with(&["--http-listen", &listen, "--domain", "apps.example.net"], &[]);
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let ours = far_address(&platform);
    let wall = platform.ok(&["tokens", "create", "wall", "--scope", "read"]).out.trim().to_owned();
    let ask = |method: &str, path: &str, fields: &[&str]| -> (u16, serde_json::Value) {
        let mut command = Command::new("curl");
        command.args(["-sS", "-m", "10", "-X", method, "-w", "\n%{http_code}"]);
        for field in fields {
            command.args(["-H", field]);
        }
        let said = command.arg(format!("http://{ours}:{far}{path}")).output().expect("curl runs");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("a status");
        (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_default())
    };
    let with = |secret: &str| format!("Authorization: Bearer {secret}");
    let seen = |name: &str| {
        let tokens = platform.json(&["tokens", "list"]);
        let all = tokens["tokens"].as_array().unwrap().clone();
        all.into_iter().find(|t| t["name"] == name).unwrap()["seen_over_http_at"].clone()
    };
    let json = "Accept: application/json";

    // From here on the door has a certificate that counts.
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["apps.example.net".to_owned()]).unwrap();
    let files = ["chain.pem", "key.pem"].map(|name| platform.folder.path().join(name));
    std::fs::write(&files[0], params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&files[1], key.serialize_pem()).unwrap();
    let [chain, key] = files.each_ref().map(|path| path.to_str().unwrap());
    platform.ok(&["certs", "add", chain, key]);
    until("the door refuses http", || (ask("GET", "/v1/apps", &[json]).0 == 403).then_some(()));
    let (status, body) = ask("GET", "/v1/health", &[json]);
    assert_eq!((status, body["code"].as_str()), (403, Some("https_required")));

    // Neither what is no token of ours nor one that is unknown changes anything.
    let unknown = wall.replace(&wall[..17], "mini_000000000000");
    for secret in ["mini_guess", "other", &unknown] {
        let (status, body) = ask("GET", "/v1/apps", &[json, &with(secret)]);
        assert_eq!((status, body["code"].as_str()), (403, Some("https_required")), "{secret}");
    }
    assert!(seen("wall").is_null() && seen("test").is_null());

    // A good one is marked, and what it asked for is not done.
    let (status, body) = ask("DELETE", "/v1/apps/app", &[json, &with(&platform.token)]);
    assert_eq!((status, body["code"].as_str()), (403, Some("https_required")), "{body}");
    let hint = body["hint"].as_str().unwrap();
    assert!(hint.contains("https://") && hint.contains("revoke this one"), "{hint}");
    until("the token is marked", || seen("test").is_string().then_some(()));
    assert!(seen("wall").is_null(), "the other one was not seen");
    assert_eq!(platform.json(&["apps", "info", "app"])["state"], "running", "it was not destroyed");
    let mut command = platform.mini(&["apps"]);
    command.env("MINI_HOST", format!("http://{ours}:{far}")).env("MINI_TOKEN", &wall);
    let said = Said::from(command.output().unwrap());
    assert!(said.code == 3 && said.err.contains("over https only"), "{said:?}");
    until("the other one too", || seen("wall").is_string().then_some(()));
    let trail = platform.json(&["audit"])["entries"].clone();
    let told = trail.as_array().unwrap().iter().filter(|e| e["action"] == "api.over_http");
    let told: Vec<_> = told.map(|e| (e["actor"].clone(), e["status"].clone())).collect();
    assert_eq!(told, [("wall".into(), 403.into()), ("test".into(), 403.into())]);

    // However many come, the controller is asked a few times only, and the answer stays the same.
    for _ in 0..40 {
        assert_eq!(ask("GET", "/v1/apps", &[json, &with(&wall)]).0, 403);
    }
    let trail = platform.json(&["audit", "-n", "1000"])["entries"].clone();
    let asked = trail.as_array().unwrap().iter().filter(|e| e["action"] == "api.over_http").count();
    assert!((3..=10).contains(&asked), "{asked}");
}
