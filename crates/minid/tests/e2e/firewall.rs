//! What an app reaches of the machine that it runs on, and that it stays so.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;

use mini_core::ports::Runtime;
use mini_core::subnet::{APP_PREFIX, Subnet};

use crate::platform::{Platform, block_on, deploy, fixture, free_port, until};

/// A platform that containers can reach too, as on a machine with public addresses.
fn public_platform() -> (Platform, u16) {
    let port = free_port();
    (Platform::start_with(&["--http-listen", &format!("0.0.0.0:{port}")], &[]), port)
}

/// The addresses of each app's instances.
fn addresses(platform: &Platform) -> BTreeMap<String, Vec<Ipv4Addr>> {
    let mut all: BTreeMap<String, Vec<Ipv4Addr>> = BTreeMap::new();
    for instance in block_on(platform.engine(&platform.server_id()).observe()).unwrap() {
        all.entry(instance.app.to_string()).or_default().extend(instance.address);
    }
    all
}

fn dial(platform: &Platform, app: &str, to: &str, more: &str) -> String {
    platform.get(app, &format!("/dial?to={to}{more}")).text().trim().to_owned()
}

fn nft(arguments: &[&str]) -> bool {
    Command::new("/usr/sbin/nft").args(arguments).output().expect("nft runs").status.success()
}

fn table(platform: &Platform) -> String {
    format!("mini-{}", platform.server_id())
}

fn table_is_there(platform: &Platform) -> bool {
    nft(&["list", "table", "inet", &table(platform)])
}

/// The host's address on the way to the world. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.200:9").or_else(|_| socket.connect("198.51.100.1:9")).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

#[test]
fn an_app_reaches_its_own_network_and_the_front_door_and_nothing_else_of_the_host() {
    let (platform, port) = public_platform();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "one"));
    platform.ok(&deploy(folder.path(), "two"));
    platform.ok(&["scale", "web=2", "--app", "one"]);
    let all = until("all are there", || {
        let all = addresses(&platform);
        (all.get("one")?.len() == 2 && all.get("two")?.len() == 1).then_some(all)
    });
    // Its own instances: whichever answers, both are reached.
    for address in &all["one"] {
        assert_eq!(dial(&platform, "one", &format!("{address}:8080"), ""), "open");
    }
    let other = format!("{}:8080", all["two"][0]);
    assert_eq!(dial(&platform, "one", &other, ""), "timeout", "another app's instance");

    // A service of the host's, at every address that the app could know it by.
    let service = TcpListener::bind("0.0.0.0:0").unwrap();
    let private = service.local_addr().unwrap().port();
    let gateway = Subnet::containing(all["one"][0], APP_PREFIX).gateway().to_string();
    let others = Subnet::containing(all["two"][0], APP_PREFIX).gateway().to_string();
    let mut hosts = vec![gateway.clone(), others];
    hosts.extend(own_address());
    for host in &hosts {
        assert_eq!(dial(&platform, "one", &format!("{host}:{private}"), ""), "timeout", "{host}");
        // The platform is reached there, and other apps by their names.
        let answer = dial(&platform, "one", &format!("{host}:{port}"), "&host=two.localhost");
        assert!(answer.contains("200 OK") && answer.contains("hello from two"), "{answer}");
    }
    for metadata in ["169.254.169.254:80", "100.100.100.200:80"] {
        assert_eq!(dial(&platform, "one", metadata, ""), "timeout", "{metadata}");
    }
    // Not by accident: without the table the service is open.
    assert!(nft(&["delete", "table", "inet", &table(&platform)]));
    assert_eq!(dial(&platform, "one", &format!("{gateway}:{private}"), ""), "open");
    until("the table is back", || table_is_there(&platform).then_some(()));
    assert_eq!(dial(&platform, "one", &format!("{gateway}:{private}"), ""), "timeout");
    assert_eq!(platform.log().matches("the firewall was removed").count(), 1);

    // So it is after a rule was put before all others.
    let rule = ["insert", "rule", "inet", &table(&platform), "from_app", "accept"];
    assert!(nft(&rule));
    assert_eq!(dial(&platform, "one", &format!("{gateway}:{private}"), ""), "open");
    until("the rule is gone", || {
        let there = dial(&platform, "one", &format!("{gateway}:{private}"), "&ms=300");
        (there == "timeout").then_some(())
    });
}

#[test]
fn the_table_outlives_the_server_and_is_nobody_elses() {
    let (mut platform, _) = public_platform();
    let (neighbour, _) = public_platform();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    neighbour.ok(&deploy(folder.path(), "app"));
    let far = format!("{}:8080", addresses(&neighbour)["app"][0]);
    assert_eq!(dial(&platform, "app", &far, ""), "timeout", "an app of another server");
    assert!(table_is_there(&platform) && table_is_there(&neighbour));

    let refused = platform.minid(&["firewall", "remove"]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && words.contains("the controller runs"), "{words}");

    platform.down();
    assert!(table_is_there(&platform), "apps run on, and are still held");
    let shown = platform.minid(&["firewall", "show"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&table(&platform)));
    let removed = platform.minid(&["firewall", "remove"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    assert!(!table_is_there(&platform) && table_is_there(&neighbour));
    // Once more is no error.
    assert!(platform.minid(&["firewall", "remove"]).status.success());
    assert_eq!(platform.minid(&["firewall", "show"]).status.code(), Some(1));

    platform.up();
    assert!(table_is_there(&platform), "a start puts it back before it is ready");
    let service = TcpListener::bind("0.0.0.0:0").unwrap();
    let to = format!(
        "{}:{}",
        Subnet::containing(addresses(&neighbour)["app"][0], APP_PREFIX).gateway(),
        service.local_addr().unwrap().port()
    );
    assert_eq!(dial(&neighbour, "app", &to, ""), "timeout", "the neighbour's own table holds");
}

#[test]
fn a_server_that_is_told_so_has_no_firewall_and_says_it() {
    let platform = Platform::start_with(&["--firewall", "off"], &[]);
    assert!(!table_is_there(&platform));
    assert!(platform.log().contains("no firewall (--firewall off)"), "{}", platform.log());
    let doctor = platform.minid(&["doctor", "--firewall", "off"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("no firewall (it is off)"));
}
