//! What a user does all day, as a user sees it.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::http::{self, read_answer};
use crate::platform::{Platform, deploy, fixture, project, until, write_fixture};
use crate::said::Said;

#[test]
fn a_folder_of_files_is_live_with_one_command() {
    let platform = Platform::start();
    let site = project().join("examples/static-site");
    let said = platform.ok(&deploy(&site, "site"));
    let url = format!("http://site.localhost:{}", platform.port);
    assert!(said.out.contains(&format!("Your app is live at: {url}")), "{said:?}");
    for step in [
        "[1/3] Packing source code... ",
        "[2/3] Building image \"app-site\"...",
        "[3/3] Starting container... healthy in ",
    ] {
        assert!(said.err.contains(step), "{step}\n{said:?}");
    }
    let page = platform.get("site", "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.body, std::fs::read(site.join("index.html")).unwrap());
    assert_eq!(platform.get("site", "/nowhere").status, 404);
    assert_eq!(
        platform.get("site", "/nowhere").body,
        std::fs::read(site.join("404.html")).unwrap()
    );
    let tag = page.header("etag").expect("an ETag").to_owned();
    let again = http::request(
        platform.port,
        "site.localhost",
        ("GET", "/"),
        &[("If-None-Match", &tag)],
        b"",
    );
    assert_eq!(again.unwrap().status, 304);

    let said = platform.ok(&deploy(&site, "site"));
    assert!(said.err.contains("unchanged"), "an unchanged tree is not sent again: {said:?}");
    assert!(said.err.contains("its image is used again"), "nor built: {said:?}");
    assert_eq!(platform.get("elsewhere", "/").status, 404);
}

#[test]
fn an_app_lives_through_its_day() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    // Config vars can be there before the first deploy.
    platform.ok(&["apps", "create", "blue"]);
    platform.ok(&["env", "set", "GREETING=hi", "--app", "blue"]);
    // The proxy is told of it a moment after.
    until("the app to have its own answer", || {
        (platform.get("blue", "/").header("x-mini-error") == Some("H81")).then_some(())
    });
    platform.ok(&deploy(folder.path(), "blue"));
    assert_eq!(platform.get("blue", "/").text().trim(), "hello from blue v1");
    let env = platform.get("blue", "/env").json();
    assert_eq!((&env["GREETING"], &env["PORT"]), (&"hi".into(), &"8080".into()));
    assert_eq!((&env["MINI_APP"], &env["MINI_PROCESS"]), (&"blue".into(), &"web.1".into()));
    assert_eq!(env["MINI_SOURCE_DIGEST"].as_str().map(str::len), Some(64));

    let said = platform.ok(&["env", "set", "GREETING=hello there", "SECRET=a=b", "--app", "blue"]);
    assert!(format!("{}{}", said.out, said.err).contains("v2"), "{said:?}");
    let env = platform.get("blue", "/env").json();
    assert_eq!((&env["GREETING"], &env["SECRET"]), (&"hello there".into(), &"a=b".into()));
    platform.ok(&["env", "set", "LATER=1", "--stage", "--app", "blue"]);
    assert!(platform.get("blue", "/env").json()["LATER"].is_null(), "staged, not set");
    platform.ok(&["env", "unset", "SECRET", "--app", "blue"]);
    let env = platform.get("blue", "/env").json();
    assert!(env["SECRET"].is_null() && env["LATER"] == "1", "{env}");

    let before = platform.json(&["ps", "--app", "blue"])["instances"][0]["id"].clone();
    platform.ok(&["restart", "--app", "blue"]);
    let ps = platform.json(&["ps", "--app", "blue"]);
    let live: Vec<_> =
        ps["instances"].as_array().unwrap().iter().filter(|i| i["state"] == "up").collect();
    assert!(live.len() == 1 && live[0]["id"] != before, "{ps}");
    let releases = platform.json(&["releases", "--app", "blue"]);
    let names: Vec<&str> = releases["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["v3", "v2", "v1"], "a restart makes no release");

    platform.ok(&["stop", "--app", "blue"]);
    assert_eq!(platform.get("blue", "/").header("x-mini-error"), Some("H14"));
    assert_eq!(platform.json(&["apps", "info", "blue"])["state"], "stopped");
    platform.ok(&["start", "--app", "blue"]);
    assert_eq!(platform.get("blue", "/").text().trim(), "hello from blue v3");

    let said = platform.fails(&["apps", "destroy", "blue"]);
    assert!(said.err.contains("--yes"), "without a terminal it asks for --yes: {said:?}");
    platform.ok(&["apps", "destroy", "blue", "--yes"]);
    assert_eq!(platform.fails(&["apps", "info", "blue"]).code, 4);
    until("nothing of the app is left on the engine", || {
        (platform.left_on_engine() == (0, 0, 0)).then_some(())
    });
    assert_eq!(platform.get("blue", "/").status, 404);
}

#[test]
fn a_redeploy_loses_no_line_of_the_log() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "chatty"));
    let print = |n: u32, word: &str| {
        assert_eq!(platform.get("chatty", &format!("/log?n={n}&text={word}")).status, 200);
    };
    print(500, "first");
    write_fixture(folder.path(), &[("ROUND", "2")]);
    platform.ok(&deploy(folder.path(), "chatty"));
    print(500, "second");
    let lines = until("all lines are there", || {
        let said = platform.ok(&["logs", "--app", "chatty", "-n", "5000", "--source", "app"]);
        (said.out.contains("second 499")).then_some(said.out)
    });
    for word in ["first", "second"] {
        for n in 0..500 {
            let line = format!(" app[web.1]: {word} {n}\n");
            assert_eq!(lines.matches(&line).count(), 1, "{line:?} once");
        }
    }
    let all = platform.ok(&["logs", "--app", "chatty", "-n", "5000"]).out;
    for line in
        ["mini[deploy]: Release v2 created", "mini[web.1]: State changed from starting to up"]
    {
        assert!(all.contains(line), "{line}\n{all}");
    }
    let last = platform.ok(&["logs", "--app", "chatty", "-n", "3", "--process", "web"]).out;
    assert_eq!(last.lines().count(), 3, "{last}");
}

#[test]
fn redeploys_under_load_drop_nothing() {
    let platform = Arc::new(Platform::start());
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "busy"));
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..6_usize)
        .map(|n| {
            let (stop, count, port) = (stop.clone(), count.clone(), platform.port);
            std::thread::spawn(move || hammer(port, n, &stop, &count))
        })
        .collect();
    for round in 1..=4 {
        write_fixture(folder.path(), &[("ROUND", &round.to_string())]);
        platform.ok(&deploy(folder.path(), "busy"));
    }
    platform.ok(&["restart", "--app", "busy"]);
    platform.kill_controller();
    platform.ok(&["env", "set", "A=1", "--app", "busy"]);
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
    let requests = count.load(Ordering::Relaxed);
    println!("{requests} requests, {} failed", failures.len());
    assert!(requests > 500, "only {requests} requests");
    assert_eq!(failures, Vec::<String>::new());
}

/// Requests over one keep-alive connection (even clients) or new ones (odd), until told to stop.
fn hammer(port: u16, n: usize, stop: &AtomicBool, count: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    let mut open: Option<BufReader<TcpStream>> = None;
    while !stop.load(Ordering::Relaxed) {
        let path =
            if count.load(Ordering::Relaxed).is_multiple_of(7) { "/sleep?ms=30" } else { "/" };
        let done = one(port, path, n.is_multiple_of(2), &mut open);
        count.fetch_add(1, Ordering::Relaxed);
        match done {
            Ok(200) => {}
            Ok(status) => failures.push(format!("{path}: {status}")),
            Err(error) => {
                open = None;
                failures.push(format!("{path}: {error}"));
            }
        }
    }
    failures
}

fn one(
    port: u16,
    path: &str,
    keep: bool,
    open: &mut Option<BufReader<TcpStream>>,
) -> std::io::Result<u16> {
    let mut connection = match open.take() {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            BufReader::new(stream)
        }
    };
    let close = if keep { "" } else { "Connection: close\r\n" };
    let head = format!("GET {path} HTTP/1.1\r\nHost: busy.localhost\r\n{close}\r\n");
    connection.get_mut().write_all(head.as_bytes())?;
    let answer = read_answer(&mut connection, "GET")?;
    let closes = answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    if keep && !closes {
        *open = Some(connection);
    }
    Ok(answer.status)
}

#[test]
fn of_two_deploys_that_wait_the_newest_wins() {
    let platform = Arc::new(Platform::start());
    let slow = fixture(&[("FIXTURE_MODE", "slow"), ("FIXTURE_DELAY_MS", "3000")]);
    let start = |description: &'static str| {
        let (platform, folder) = (platform.clone(), slow.path().to_owned());
        std::thread::spawn(move || {
            let [verb, path, flag, app] = deploy(&folder, "race");
            let all = [verb, path, flag, app, "--description", description];
            Said::from(platform.mini(&all).output().unwrap())
        })
    };
    platform.ok(&["apps", "create", "race"]);
    let deploys = || platform.json(&["deploys", "--app", "race"]);
    let status_of = |description: &str| {
        let all = deploys();
        let found =
            all["deployments"].as_array().unwrap().iter().find(|d| d["description"] == description);
        found.map(|d| d["status"].as_str().unwrap().to_owned())
    };
    let first = start("first");
    until("the first starts", || (status_of("first").as_deref() == Some("starting")).then_some(()));
    let second = start("second");
    until("the second waits", || (status_of("second").as_deref() == Some("queued")).then_some(()));
    let third = start("third");
    let (first, second, third) =
        (first.join().unwrap(), second.join().unwrap(), third.join().unwrap());
    assert_eq!((first.code, second.code, third.code), (0, 5, 0), "{first:?}{second:?}{third:?}");
    assert_eq!(status_of("second").as_deref(), Some("superseded"));
    assert_eq!(platform.get("race", "/").text().trim(), "hello from race v2");
}

#[test]
fn websockets_and_streams_pass_and_another_apps_deploy_leaves_them_alone() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "talk"));
    let mut socket = TcpStream::connect(("127.0.0.1", platform.port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
        .write_all(
            b"GET /ws HTTP/1.1\r\nHost: talk.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .unwrap();
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let answer = read_answer(&mut reader, "GET").unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let mut echo = |text: &[u8]| {
        // A masked text frame (RFC 6455 section 5.2), with a mask of zeros.
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(text);
        socket.write_all(&frame).unwrap();
        let mut back = vec![0; 2 + text.len()];
        std::io::Read::read_exact(&mut reader, &mut back).unwrap();
        assert_eq!(&back[2..], text);
    };
    echo(b"before");
    let other = fixture(&[("OTHER", "1")]);
    platform.ok(&deploy(other.path(), "other"));
    platform.ok(&deploy(&project().join("examples/static-site"), "third"));
    platform.kill_controller();
    echo(b"after");

    let body = vec![b'x'; 3_000_000];
    let up =
        http::request(platform.port, "talk.localhost", ("POST", "/upload"), &[], &body).unwrap();
    assert_eq!(up.json()["bytes"], 3_000_000);
    let stream = platform.get("talk", "/stream?n=5&ms=20");
    assert_eq!(stream.text().lines().count(), 5);
    let headers = http::request(
        platform.port,
        "talk.localhost",
        ("GET", "/headers"),
        &[("X-Forwarded-For", "6.6.6.6"), ("X-Request-ID", "my-id-1234567890")],
        b"",
    );
    let seen = headers.unwrap().text().to_lowercase();
    assert!(seen.contains("my-id-1234567890"), "a sane request id is kept: {seen}");
    assert!(
        !seen.contains("6.6.6.6"),
        "an address that a client makes up is not passed on: {seen}"
    );
    assert!(seen.contains("127.0.0.1") && seen.contains("x-request-start"), "{seen}");
}

#[test]
fn a_rollback_brings_everything_back_without_a_build() {
    let platform = Platform::start();
    let folder = fixture(&[("ROUND", "1")]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&["env", "set", "GREETING=old", "--app", "app"]);
    write_fixture(folder.path(), &[("ROUND", "2")]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.ok(&["env", "set", "GREETING=new", "EXTRA=1", "--app", "app"]);
    let said = platform.ok(&["rollback", "v2", "--app", "app"]);
    assert!(said.err.contains("v5 is live"), "{said:?}");
    assert!(!said.err.contains("Building"), "{said:?}");
    let env = platform.get("app", "/env").json();
    assert_eq!((&env["ROUND"], &env["GREETING"]), (&"1".into(), &"old".into()));
    assert!(env["EXTRA"].is_null(), "{env}");
    let vars = platform.json(&["env", "list", "--app", "app"])["vars"].clone();
    assert_eq!(vars, serde_json::json!({"GREETING": "old"}), "what is set is what runs");
    let releases = platform.json(&["releases", "--app", "app"]);
    assert_eq!(releases["releases"][0]["description"], "Rollback to v2");
    let diff = platform.ok(&["diff", "v2", "v4", "--app", "app"]).out;
    assert!(diff.contains("~ image: ") && diff.contains("+ config EXTRA"), "{diff}");
    assert!(
        diff.contains("~ config GREETING") && !diff.contains("new"),
        "names, no values: {diff}"
    );
    assert_eq!(platform.ok(&["diff", "v2", "v5", "--app", "app"]).out, "");
    let info = platform.ok(&["releases", "info", "v5", "--app", "app"]).out;
    assert!(info.contains("Rollback to v2") && info.contains("GREETING"), "{info}");
    // Without a number: what was live before, v4.
    platform.ok(&["rollback", "--app", "app"]);
    assert_eq!(platform.get("app", "/env").json()["ROUND"], "2");
    let said = platform.fails(&["rollback", "v77", "--app", "app"]);
    assert_eq!(said.code, 4, "{said:?}");
}

#[test]
fn process_types_come_from_the_procfile_and_scaling_drops_nothing() {
    let platform = Arc::new(Platform::start());
    let folder = fixture(&[]);
    let procfile = "# what runs\nweb: /app\nworker: /app worker\n";
    std::fs::write(folder.path().join("Procfile"), procfile).unwrap();
    platform.ok(&deploy(folder.path(), "busy"));
    let counts = || platform.json(&["scale", "--app", "busy"])["counts"].clone();
    assert_eq!(counts(), serde_json::json!({"web": 1, "worker": 0}));
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..4_usize)
        .map(|n| {
            let (stop, count, port) = (stop.clone(), count.clone(), platform.port);
            std::thread::spawn(move || hammer(port, n, &stop, &count))
        })
        .collect();
    platform.ok(&["scale", "web=3", "worker=1", "--app", "busy"]);
    let ps = platform.json(&["ps", "--app", "busy"]);
    let mut names: Vec<&str> =
        ps["instances"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["web.1", "web.2", "web.3", "worker.1"]);
    until("every instance gets requests", || {
        let served =
            || platform.get("busy", "/env").json()["MINI_PROCESS"].as_str().map(str::to_owned);
        let seen: std::collections::BTreeSet<_> = (0..30).filter_map(|_| served()).collect();
        (seen.len() == 3).then_some(())
    });
    // A redeploy keeps the formation, and replaces all three.
    write_fixture(folder.path(), &[("ROUND", "2")]);
    platform.ok(&deploy(folder.path(), "busy"));
    platform.ok(&["scale", "web=1", "worker=0", "--app", "busy"]);
    until("one is left", || (platform.left_on_engine().0 == 1).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let failures: Vec<String> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
    assert_eq!(failures, Vec::<String>::new(), "of {} requests", count.load(Ordering::Relaxed));
    let log = platform.ok(&["logs", "--app", "busy", "--process", "worker", "-n", "50"]).out;
    assert!(log.contains("app[worker.1]: "), "{log}");

    let said = platform.fails(&["scale", "nothing=1", "--app", "busy"]);
    assert!(said.err.contains("it has: web, worker"), "{said:?}");
    assert_ne!(platform.fails(&["scale", "web=1000000", "--app", "busy"]).code, 0);
    assert_eq!(platform.fails(&["scale", "web=-1", "--app", "busy"]).code, 2);
    std::fs::write(folder.path().join("Procfile"), "web: /app\noops\n").unwrap();
    let said = platform.fails(&deploy(folder.path(), "busy"));
    assert!(said.err.contains("Procfile line 2: "), "{said:?}");
}
