//! Ready images: from the engine, and from a registry that the test starts.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::http::over_unix;
use crate::platform::{Platform, deploy, fixture, until};

struct Registry {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// Debian's `docker-registry`, on loopback, which engines trust without TLS.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = folder.path().join("registry.yml");
        let storage = folder.path().join("storage");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the package docker-registry is there (scripts/test installs it)");
        until("the registry answers", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port, _folder: folder }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn engine(what: (&str, &str), headers: &[(&str, &str)]) -> crate::http::Answer {
    let host =
        std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let path = host.strip_prefix("unix://").expect("an engine on a Unix socket").to_owned();
    over_unix(Path::new(&path), what, headers, b"").expect("the engine answers")
}

#[test]
fn an_image_is_pulled_from_a_registry_and_run() {
    let registry = Registry::start();
    let platform = Platform::start();
    let folder = fixture(&[("FROM_REGISTRY", "yes")]);
    platform.ok(&deploy(folder.path(), "made"));
    let id = platform.json(&["releases", "--app", "made"])["releases"][0]["image"].clone();
    let id = id.as_str().unwrap();
    let repository = format!("127.0.0.1:{}/team/app", registry.port);
    let tag = format!("/images/{id}/tag?repo={repository}&tag=7");
    assert_eq!(engine(("POST", &tag), &[]).status, 201);
    // `{}` in base64: no credentials.
    let push = engine(
        ("POST", &format!("/images/{repository}/push?tag=7")),
        &[("X-Registry-Auth", "e30=")],
    );
    let pushed = push.text();
    let digest = pushed
        .split("digest: ")
        .nth(1)
        .and_then(|t| t.split(' ').next())
        .expect("a digest")
        .to_owned();
    platform.ok(&["apps", "destroy", "made", "--yes"]);
    // Other builds of the same fixture may hold the layers; the name must be gone.
    assert_eq!(engine(("DELETE", &format!("/images/{repository}:7?force=1")), &[]).status, 200);

    let image = format!("{repository}:7");
    let said = platform.ok(&["deploy", "--image", &image, "--app", "pulled"]);
    assert!(said.out.contains("Your app is live at"), "{said:?}");
    assert_eq!(platform.get("pulled", "/env").json()["FROM_REGISTRY"], "yes");
    let by_digest = format!("{repository}@{digest}");
    platform.ok(&["deploy", "--image", &by_digest, "--app", "pulled"]);
    assert_eq!(platform.get("pulled", "/").text().trim(), "hello from pulled v2");

    let said =
        platform.fails(&["deploy", "--image", &format!("{repository}:none"), "--app", "pulled"]);
    assert!(said.err.contains(":none"), "{said:?}");
    let said =
        platform.fails(&["deploy", "--image", "127.0.0.1:1/nobody/home:1", "--app", "pulled"]);
    assert!(said.err.contains("127.0.0.1:1"), "{said:?}");
    let said = platform.fails(&["deploy", "--image", "UPPER CASE", "--app", "pulled"]);
    assert!(said.err.contains("hint: "), "{said:?}");
    assert_eq!(
        platform.get("pulled", "/").text().trim(),
        "hello from pulled v2",
        "and v2 serves on"
    );
    platform.ok(&["apps", "destroy", "pulled", "--yes"]);
    engine(("DELETE", &format!("/images/{image}?force=1")), &[]);
}
