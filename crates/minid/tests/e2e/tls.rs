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

    // An address of this machine that is not loopback: its end of the app's network.
    let docker = platform.engine(&platform.server_id());
    let instances = block_on(docker.observe()).unwrap();
    let of_app = instances.iter().find_map(|i| i.address).unwrap();
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((of_app, 9)).unwrap();
    let ours: IpAddr = socket.local_addr().unwrap().ip();
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
