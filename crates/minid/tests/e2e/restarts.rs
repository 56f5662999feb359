//! The platform stops, dies and comes back: everything is as it was, and nothing runs twice.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mini_core::id::DeploymentId;
use mini_core::ports::{InstanceSpec, NetworkSpec, Runtime};
use mini_core::release::Limits;

use crate::platform::{Platform, block_on, deploy, fixture, kill, until, write_fixture};
use crate::said::Said;

fn ids(platform: &Platform, app: &str) -> Vec<String> {
    let ps = platform.json(&["ps", "--app", app]);
    ps["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn after_a_stop_or_a_kill_everything_is_as_it_was() {
    let mut platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&["env", "set", "KEPT=yes", "--app", "app"]);
    let running =
        until("one instance is left", || Some(ids(&platform, "app")).filter(|i| i.len() == 1));
    for how in ["stop", "kill -9"] {
        if how == "stop" {
            platform.down()
        } else {
            platform.kill_everything()
        }
        platform.up();
        assert_eq!(platform.get("app", "/env").json()["KEPT"], "yes", "{how}");
        let now = until("the engine is seen", || {
            let ps = platform.json(&["ps", "--app", "app"]);
            (ps["known"] == true).then(|| ids(&platform, "app"))
        });
        assert_eq!(now, running, "adopted, not started again: {how}");
    }
    // And it goes on from there.
    write_fixture(folder.path(), &[("NEXT", "1")]);
    platform.ok(&deploy(folder.path(), "app"));
    assert_eq!(platform.get("app", "/").text().trim(), "hello from app v3");
}

#[test]
fn a_dead_controller_or_proxy_is_back_and_the_apps_never_notice() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.kill_controller();
    for _ in 0..20 {
        assert_eq!(platform.get("app", "/").status, 200);
    }
    until("the API is back", || {
        (platform.api(("GET", "/v1/apps"), &[], b"").status == 200).then_some(())
    });
    kill(platform.pid_of("proxy"), "KILL");
    // The listening socket lives on in the parent: connections wait, and are answered.
    assert_eq!(platform.get("app", "/").status, 200);
    platform.ok(&["restart", "--app", "app"]);
    assert_eq!(platform.get("app", "/").status, 200);
}

#[test]
fn a_deploy_goes_on_over_a_controller_that_dies() {
    let platform = Platform::start();
    let folder = fixture(&[("FIXTURE_MODE", "slow"), ("FIXTURE_DELAY_MS", "2500")]);
    platform.ok(&["apps", "create", "app"]);
    for when in ["building", "starting"] {
        write_fixture(
            folder.path(),
            &[("FIXTURE_MODE", "slow"), ("FIXTURE_DELAY_MS", "2500"), ("WHEN", when)],
        );
        let child = platform
            .mini(&deploy(folder.path(), "app"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        until("the deployment is that far", || {
            let deploys = platform.json(&["deploys", "--app", "app"]);
            let status = deploys["deployments"][0]["status"].as_str()?.to_owned();
            (status == when || status == "starting").then_some(())
        });
        platform.kill_controller();
        let said = Said::from(child.wait_with_output().unwrap());
        assert_eq!(said.code, 0, "killed while {when}: {said:?}\n{}", platform.log());
        assert!(said.out.contains("Your app is live at"), "{said:?}");
    }
    assert_eq!(platform.get("app", "/env").json()["WHEN"], "starting");
    until("one instance is left", || (platform.left_on_engine().0 == 1).then_some(()));
}

#[test]
fn what_died_meanwhile_is_started_and_what_nobody_knows_is_removed() {
    let mut platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let server = platform.server_id();
    let image = platform.json(&["releases", "--app", "app"])["releases"][0]["image"].clone();
    let docker = platform.engine(&server);
    let instances = block_on(docker.observe()).unwrap();
    let own = instances[0].clone();
    platform.down();
    // It dies, and somebody leaves an instance of an app that the store does not know.
    let stranger = InstanceSpec {
        id: "feedfacefeedface".parse().unwrap(),
        app: "stranger".parse().unwrap(),
        rollout: "d0".parse::<DeploymentId>().unwrap(),
        release: 1,
        process: "web".parse().unwrap(),
        ordinal: 1,
        image: image.as_str().unwrap().to_owned(),
        command: None,
        env: vec![],
        address: "10.250.0.2".parse().unwrap(),
        port: Some(8080),
        limits: Limits::default(),
        alone: false,
        volumes: Vec::new(),
        one_off: None,
    };
    let network =
        NetworkSpec { app: stranger.app.clone(), subnet: "10.250.0.0/26".parse().unwrap() };
    block_on(async {
        docker.stop(own.id.clone(), 1000).await.unwrap();
        docker.ensure_network(network).await.unwrap();
        docker.start(stranger).await.unwrap();
    });
    // One of another server's must not be touched.
    let other = platform.engine("0123456789abcdef");
    let foreign =
        NetworkSpec { app: "foreign".parse().unwrap(), subnet: "10.250.0.64/26".parse().unwrap() };
    block_on(other.ensure_network(foreign)).unwrap();
    platform.up();
    until("the app is back", || platform.try_get("app", "/").ok().filter(|a| a.status == 200));
    until("the stranger is gone", || {
        let (instances, networks, _) = platform.left_on_engine();
        (instances == 1 && networks == 1).then_some(())
    });
    let now = block_on(docker.observe()).unwrap();
    assert_eq!(
        (&now[0].id, now[0].address),
        (&own.id, own.address),
        "the same one, at its address"
    );
    let foreign = block_on(other.networks()).unwrap();
    block_on(other.remove_network("foreign".parse().unwrap())).unwrap();
    assert_eq!(foreign.len(), 1, "another server's network was touched");
}

#[test]
fn an_engine_that_is_away_stops_no_traffic_and_is_waited_for() {
    // A relay in front of the engine's socket, which a test can close.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine.sock");
    let host = format!("unix://{}", socket.display());
    let platform = Platform::start_with(&[], &[("DOCKER_HOST", &host)]);
    let health = platform.api(("GET", "/v1/health"), &[], b"").json();
    assert_eq!(health["status"], "degraded", "it starts without an engine, and says so");
    let app = fixture(&[]);
    let said = platform.fails(&deploy(app.path(), "app"));
    assert!(said.err.contains("error: ") && said.err.contains("hint: "), "{said:?}");

    let mut relay = Relay::start(&socket);
    until("the engine is seen", || {
        (platform.api(("GET", "/v1/health"), &[], b"").json()["status"] == "ok").then_some(())
    });
    platform.ok(&deploy(app.path(), "app"));
    relay.stop();
    until("its absence is seen", || {
        (platform.api(("GET", "/v1/health"), &[], b"").json()["status"] == "degraded").then_some(())
    });
    for _ in 0..10 {
        assert_eq!(platform.get("app", "/").status, 200, "traffic needs no engine");
    }
    let said = platform.fails(&deploy(app.path(), "app"));
    assert!(said.err.contains("the Docker Engine is away"), "{said:?}");
    let _relay = Relay::start(&socket);
    until("it is well again", || {
        (platform.api(("GET", "/v1/health"), &[], b"").json()["status"] == "ok").then_some(())
    });
    platform.ok(&["restart", "--app", "app"]);
    assert_eq!(platform.get("app", "/").status, 200);
}

/// A socket that leads to the real engine while it is open.
struct Relay {
    socket: PathBuf,
    open: Arc<Mutex<Vec<UnixStream>>>,
    closed: Arc<AtomicBool>,
}

impl Relay {
    fn start(socket: &Path) -> Self {
        let real =
            std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
        let real = real.strip_prefix("unix://").expect("an engine on a Unix socket").to_owned();
        let listener = UnixListener::bind(socket).unwrap();
        let (open, closed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let relay = Self { socket: socket.to_owned(), open: open.clone(), closed: closed.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if closed.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(engine) = UnixStream::connect(&real) else { continue };
                let ends = [&client, &engine].map(|s| s.try_clone().unwrap());
                open.lock().unwrap().extend(ends);
                pipe(client.try_clone().unwrap(), engine.try_clone().unwrap());
                pipe(engine, client);
            }
        });
        relay
    }

    fn stop(&mut self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        // One last connection lets the accepting thread see that it is over.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Copies one way, and passes the end on.
fn pipe(mut from: UnixStream, mut to: UnixStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}
