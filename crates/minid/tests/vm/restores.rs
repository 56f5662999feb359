//! A backup of one machine, restored on another: app, data, settings and tokens are there, and clients that
//! have pinned the first one's certificate believe the second.

use std::fs;
use std::path::Path;

use crate::host::{Host, Site, until};
use crate::step;

/// The value of `NAME = "VALUE"` in the client's settings.
fn setting(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ="))).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

pub(crate) fn onto_another(site: &Site, first: &Host<'_>, archive: &Path) {
    site.mini(&["volumes", "add", "data:/data", "--app", "blue"]).ok();
    site.mini(&["env", "set", "COLOUR=deep", "--app", "blue"]).ok();
    first.get_path("http", "blue", "/write?path=/data/kept&text=word").ok();
    let backup = site.laptop.path().join("backup.tar.gz");
    step("minid backup, and verify", || {
        first
            .ssh("minid backup /root/backup.tar.gz && minid backup verify /root/backup.tar.gz")
            .ok();
    });
    first.fetch("/root/backup.tar.gz", &backup);
    let config = site.laptop.path().join("config/mini/config.toml");
    let client = fs::read_to_string(&config).unwrap();
    let (token, fingerprint) = (setting(&client, "token"), setting(&client, "fingerprint"));

    let second = site.host("b", 11);
    let admin = second.admin();
    let (said, _) =
        step("another machine is installed, by a user with sudo, from an archive", || {
            site.mini(&["server", "install", &admin, "--from", archive.to_str().unwrap()])
        });
    assert_eq!(said.code, 0, "{said:?}");
    second.put(&backup, "/root/backup.tar.gz");
    step("a backup that was cut is refused, and nothing is stopped", || {
        let cut =
            "head -c 20000 /root/backup.tar.gz >/root/cut.tar.gz && minid restore /root/cut.tar.gz";
        let said = second.ssh(cut);
        assert!(said.code == 1 && said.err.contains("damaged"), "{said:?}");
        second.ssh("minid status").ok();
    });
    let said = second.ssh("flock /var/lib/mini minid restore /root/backup.tar.gz");
    assert!(
        said.code == 1 && said.err.contains("a backup of this server is being made"),
        "{said:?}"
    );
    step("minid restore, until the app answers", || {
        second.ssh("minid restore /root/backup.tar.gz").ok();
        until("the app is back", || second.get("https", "blue").code == 0);
    });
    assert_eq!(second.get_path("http", "blue", "/read?path=/data/kept").ok().trim(), "word");
    assert!(second.get_path("http", "blue", "/env").ok().contains("deep"));
    let door = format!("https://{}", second.address);
    site.mini(&["login", &door, "--fingerprint", &fingerprint, "--token", &token]).ok();
    assert!(site.mini(&["apps"]).ok().contains("blue"), "the token of the first is the second's");
    let said = second.ssh("minid restore /root/backup.tar.gz");
    assert!(said.code == 1 && said.err.contains("has 1 apps"), "{said:?}");
    // The laptop's settings are for the first again.
    fs::write(&config, client).unwrap();
}
