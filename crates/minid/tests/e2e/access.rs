//! Who may do what, and what hostile or clumsy requests get.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::http;
use crate::platform::{Platform, deploy, fixture, until};
use crate::said::Said;

#[test]
fn without_a_good_token_nothing_is_told() {
    let platform = Platform::start();
    let ask = |headers: &[(&str, &str)]| {
        http::request(platform.port, "localhost", ("GET", "/v1/apps"), headers, b"").unwrap()
    };
    let answer = ask(&[]);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("unauthorized")));
    assert!(answer.json()["hint"].as_str().unwrap().contains("minid token create"));
    assert_eq!(answer.json()["request_id"].as_str(), answer.header("x-request-id"));
    let health =
        http::request(platform.port, "127.0.0.1", ("GET", "/v1/health"), &[], b"").unwrap();
    assert_eq!(health.status, 200, "health needs none");

    let created = platform.json(&["tokens", "create", "laptop"]);
    let secret = created["secret"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {secret}");
    assert_eq!(ask(&[("Authorization", &bearer)]).status, 200);
    let used = until("its use is written down", || {
        let tokens = platform.json(&["tokens", "list"]);
        let token = tokens["tokens"].as_array()?.iter().find(|t| t["name"] == "laptop")?.clone();
        token["last_used_at"].is_string().then_some(token)
    });
    platform.ok(&["tokens", "revoke", used["id"].as_str().unwrap(), "--yes"]);
    assert_eq!(ask(&[("Authorization", &bearer)]).status, 401, "revoked at once");

    // The database holds no secret in the clear.
    platform.ok(&["apps", "create", "vault"]);
    platform.ok(&["env", "set", "PASSWORD=correct-horse-battery", "--app", "vault"]);
    for file in ["mini.db", "mini.db-wal"] {
        let bytes = std::fs::read(platform.data().join(file)).unwrap_or_default();
        for secret in [secret.as_str(), "correct-horse-battery"] {
            assert!(
                !bytes.windows(secret.len()).any(|w| w == secret.as_bytes()),
                "{secret} in {file}"
            );
        }
    }
    let mode = |name: &str| {
        std::fs::metadata(platform.data().join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(""), mode("secret.key"), mode("admin.sock")), (0o700, 0o600, 0o600));

    // Guessing is slowed; a good token from the same address is not.
    let statuses: Vec<u16> =
        (0..15).map(|n| ask(&[("Authorization", &format!("Bearer mini_{n}"))]).status).collect();
    assert!(statuses.contains(&429) && !statuses.contains(&200), "{statuses:?}");
    let limited = ask(&[]);
    assert_eq!(limited.status, 429);
    assert!(limited.header("retry-after").is_some());
    platform.ok(&["apps"]);
}

#[test]
fn a_token_goes_to_its_own_host_only() {
    let [one, two] = [Platform::start(), Platform::start()];
    let config = one.folder.path().join("cli.toml");
    let mini = |arguments: &[&str]| -> Said {
        let mut command = one.mini(arguments);
        command.env("MINI_CONFIG", &config).env_remove("MINI_HOST").env_remove("MINI_TOKEN");
        command.output().unwrap().into()
    };
    let said = mini(&["apps"]);
    assert!(said.code != 0 && said.err.contains("config set-host"), "{said:?}");
    let urls = [&one, &two].map(|p| format!("http://localhost:{}", p.port));
    for (name, url, token) in [("one", &urls[0], &one.token), ("two", &urls[1], &two.token)] {
        let said = mini(&["config", "set-host", url, "--as", name]);
        assert_eq!(said.code, 0, "{said:?}");
        let said = mini(&["--server", name, "login", "--token", token]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    one.ok(&["apps", "create", "on-one"]);
    two.ok(&["apps", "create", "on-two"]);
    assert!(mini(&["--server", "one", "apps"]).out.contains("on-one"));
    assert!(mini(&["--server", "two", "apps"]).out.contains("on-two"));
    assert_eq!(mini(&["config", "use", "one"]).code, 0);
    assert!(mini(&["apps"]).out.contains("on-one"));
    let mode = std::fs::metadata(&config).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // The name now points elsewhere: the token stays behind.
    let said = mini(&["config", "set-host", &urls[1], "--as", "one"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(mini(&["--server", "one", "apps"]).code, 3);
    let wrong =
        Said::from(one.mini(&["apps"]).env("MINI_HOST", "http://127.0.0.1:9").output().unwrap());
    assert_eq!(wrong.code, 6, "{wrong:?}");
}

#[test]
fn a_ci_token_deploys_one_app_and_the_trail_names_it() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    for app in ["blue", "red"] {
        platform.ok(&["apps", "create", app]);
    }
    platform.ok(&["env", "set", "PASSWORD=correct-horse-battery", "--app", "blue"]);
    let create =
        ["tokens", "create", "ci", "--scope", "deploy", "--app", "blue", "--expires", "1y"];
    let created = platform.ok(&create);
    assert!(created.err.contains("may deploy blue until 2"), "{created:?}");
    let as_ci = |secret: &str, arguments: &[&str]| -> Said {
        platform.mini(arguments).env("MINI_TOKEN", secret).output().unwrap().into()
    };
    let secret = created.out.trim().to_owned();
    let deployed = as_ci(&secret, &deploy(folder.path(), "blue"));
    assert_eq!(deployed.code, 0, "{deployed:?}");
    let env = as_ci(&secret, &["env", "list", "--app", "blue"]);
    assert_eq!((env.code, env.out.as_str()), (0, "PASSWORD\n"), "{env:?}");
    let refused = as_ci(&secret, &["apps", "destroy", "blue", "--yes"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.err.contains("may deploy and read blue"), "{refused:?}");
    assert!(refused.err.contains("hint: use a token of the scope admin"), "{refused:?}");
    assert_eq!(as_ci(&secret, &["logs", "--app", "red"]).code, 4, "red is not there");
    let apps = as_ci(&secret, &["apps"]);
    assert!(apps.out.contains("blue") && !apps.out.contains("red"), "{apps:?}");

    // Another secret; the old one works on for an hour, then not at all.
    let second = platform.ok(&["tokens", "rotate", "ci", "--overlap", "1h"]).out.trim().to_owned();
    for secret in [&secret, &second] {
        assert_eq!(as_ci(secret, &["releases", "--app", "blue"]).code, 0);
    }
    let third = platform.ok(&["tokens", "rotate", "ci", "--overlap", "0s"]).out.trim().to_owned();
    let ended = as_ci(&second, &["releases", "--app", "blue"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("has another secret by now"), "{ended:?}");
    assert_eq!(as_ci(&third, &["releases", "--app", "blue"]).code, 0);

    // On the server itself, bound too.
    let made = Command::new(env!("CARGO_BIN_EXE_minid"))
        .args(["token", "create", "--name", "wall", "--scope", "read", "--app", "red"])
        .args(["--expires", "1s"])
        .env("MINID_DATA_DIR", platform.data())
        .output()
        .unwrap();
    let wall = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let expired = until("it expires", || {
        let said = as_ci(&wall, &["apps"]);
        (said.code != 0).then_some(said)
    });
    assert_eq!(expired.code, 3, "{expired:?}");
    assert!(expired.err.contains("the token \"wall\" expired"), "{expired:?}");

    let trail = until("the refusals are written", || {
        let trail = platform.json(&["audit", "-n", "100"])["entries"].as_array()?.clone();
        let wall = |e: &serde_json::Value| e["actor"] == "wall" && e["status"] == 401;
        trail.iter().any(wall).then_some(trail)
    });
    let has = |actor: &str, action: &str, app: Option<&str>, status: u16| {
        let same = |e: &&serde_json::Value| {
            e["actor"] == actor && e["action"] == action && e["status"] == status
        };
        let entry = trail.iter().filter(same).find(|e| e["app"].as_str() == app);
        let entry = entry.unwrap_or_else(|| panic!("no {actor} {action} {status}: {trail:?}"));
        assert!(entry["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{entry}");
        entry.clone()
    };
    let ci = has("ci", "deployments.create", Some("blue"), 202);
    assert_eq!(ci["source"], "127.0.0.1");
    has("ci", "apps.destroy", Some("blue"), 403);
    has("ci", "logs.read", Some("red"), 404);
    has("test", "tokens.rotate", None, 200);
    let uid = std::fs::metadata(platform.data()).map(|m| std::os::unix::fs::MetadataExt::uid(&m));
    let admin = format!("admin socket (uid {})", uid.unwrap());
    assert!(has(&admin, "tokens.create", None, 201)["source"].is_null());
    let text = serde_json::to_string(&trail).unwrap();
    for secret in ["correct-horse-battery", "mini_"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    let table = platform.ok(&["audit", "--app", "blue"]);
    assert!(
        table.out.contains("deployments.create") && !table.out.contains("tokens."),
        "{table:?}"
    );
}

#[test]
fn a_deploy_token_gets_no_image_of_another_app_whatever_it_is_called_by() {
    let platform = Platform::start();
    let (blue, red) = (fixture(&[("IT", "blue")]), fixture(&[("IT", "secret")]));
    platform.ok(&deploy(blue.path(), "blue"));
    platform.ok(&deploy(red.path(), "red"));
    let create = ["tokens", "create", "ci", "--scope", "deploy", "--app", "blue"];
    let ci = platform.ok(&create).out.trim().to_owned();
    let as_ci = |image: &str| -> Said {
        let mut command = platform.mini(&["deploy", "--image", image, "--app", "blue"]);
        command.env("MINI_TOKEN", &ci).output().unwrap().into()
    };
    let image_of = |app: &str| {
        let path = format!("/v1/apps/{app}/releases/v1");
        let release = platform.api(("GET", &path), &[], b"").json();
        release["image_id"].as_str().unwrap().to_owned()
    };
    let id = image_of("red");
    let hex = id.strip_prefix("sha256:").unwrap();
    let found = Command::new("docker")
        .args(["image", "inspect", "--format", "{{index .RepoTags 0}}", &id])
        .output()
        .expect("docker runs");
    let tag = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    assert!(tag.starts_with("mini-") && tag.contains("/red:"), "{tag}");
    let long = format!("docker.io/{tag}");
    for name in [tag.as_str(), &long, &id, hex, &hex[..12], &hex[..7]] {
        let refused = as_ci(name);
        assert_eq!(refused.code, 3, "{name}: {refused:?}");
        assert!(refused.err.contains("belongs to an app that the token \"ci\" is not for"));
        assert!(refused.err.contains("hint: use a token that is for both apps"), "{refused:?}");
    }
    assert_eq!(
        platform.json(&["deploys", "--app", "blue"])["deployments"][1],
        serde_json::Value::Null
    );
    // Its own, by a short id too.
    let own = image_of("blue");
    let said = as_ci(&own["sha256:".len()..][..12]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(platform.get("blue", "/env").json()["IT"], "blue");
}

#[test]
fn a_session_ends_with_its_token() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let token = platform.new_token("shell");
    let mut command =
        platform.mini(&["exec", "web.1", "--app", "app", "--", "/app", "sleep", "600000"]);
    let mut session = command.env("MINI_TOKEN", token).spawn().unwrap();
    until("it is in the trail, before it ends", || {
        let trail = platform.json(&["audit"])["entries"].clone();
        let begun =
            |e: &&serde_json::Value| e["action"] == "sessions.exec" && e["actor"] == "shell";
        let entry = trail.as_array()?.iter().find(begun)?.clone();
        (entry["status"] == 101).then_some(())
    });
    assert!(session.try_wait().unwrap().is_none(), "it goes on");
    platform.ok(&["tokens", "revoke", "shell", "--yes"]);
    let ended = until("it ends", || session.try_wait().unwrap());
    assert!(!ended.success(), "{ended}");
}

#[test]
fn an_archive_by_plain_http_deploys_and_a_hostile_one_does_not() {
    let platform = Platform::start();
    platform.ok(&["apps", "create", "curl"]);
    let archive = |entries: &[(&str, tar::EntryType, &[u8])]| {
        let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gz);
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    };
    let post = |body: &[u8]| {
        let kind = [("Content-Type", "application/gzip")];
        platform.api(("POST", "/v1/apps/curl/deployments"), &kind, body)
    };
    let file = tar::EntryType::Regular;
    let good = archive(&[("index.html", file, b"<p>from curl</p>")]);
    let answer = post(&good);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/deployments/{id}/events?follow=true");
    let events = platform.api(("GET", &path), &[], b"").text();
    assert!(events.trim_end().ends_with("\"status\":\"live\"}"), "{events}");
    assert_eq!(platform.get("curl", "/").text(), "<p>from curl</p>");
    // Resumed: what came after number 3, and the end.
    let path = format!("/v1/deployments/{id}/events?follow=true&after=3");
    let rest = platform.api(("GET", &path), &[], b"").text();
    assert!(events.ends_with(&rest) && rest.starts_with("{\"number\":4,"), "{rest}");

    let cases: [(Vec<u8>, &str); 5] = [
        (archive(&[("../../etc/cron.d/x", file, b"x")]), "climbs out"),
        (archive(&[("/etc/passwd", file, b"x")]), "absolute"),
        (archive(&[("Dockerfile", tar::EntryType::Fifo, b"")]), "FIFO"),
        (good[..good.len() / 2].to_vec(), "damaged or cut short"),
        (b"not an archive at all".repeat(100), "damaged or cut short"),
    ];
    for (body, words) in cases {
        let answer = post(&body);
        assert_eq!(answer.json()["code"], "source_refused", "{words}: {}", answer.text());
        assert!(answer.json()["message"].as_str().unwrap().contains(words), "{}", answer.text());
    }
    let left = std::fs::read_dir(platform.data().join("sources")).unwrap().count();
    assert_eq!(left, 1, "nothing is kept of what was refused");
}

#[test]
fn the_same_idempotency_key_is_the_same_deployment() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let image = platform.json(&["releases", "--app", "app"])["releases"][0]["image"].clone();
    let post = |key: &str, body: &serde_json::Value| {
        let headers = [("Idempotency-Key", key), ("Content-Type", "application/json")];
        platform.api(("POST", "/v1/apps/app/deployments"), &headers, body.to_string().as_bytes())
    };
    let body = serde_json::json!({ "image": image });
    let (first, second) = (post("k1", &body), post("k1", &body));
    assert_eq!((first.status, second.status), (202, 202));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_ne!(post("k2", &body).json()["id"], first.json()["id"]);
    let other = post("k1", &serde_json::json!({ "image": "other:1" }));
    assert_eq!(other.json()["code"], "idempotency_conflict");
}

#[test]
fn bad_requests_get_words_and_a_way_out() {
    let platform = Platform::start();
    let cases: [(&str, &str, &[u8], u16); 8] = [
        ("GET", "/v1/nothing", b"", 404),
        ("PUT", "/v1/apps", b"", 405),
        ("GET", "/v1/apps/no-such-app", b"", 404),
        ("GET", "/v1/apps/NOT--A--NAME", b"", 422),
        ("POST", "/v1/apps", b"{\"name\": 7}", 400),
        ("POST", "/v1/apps", b"{broken", 400),
        ("POST", "/v1/apps", b"{\"name\":\"mini\"}", 422),
        ("GET", "/v1/deployments/none", b"", 404),
    ];
    for (method, path, body, status) in cases {
        let answer = platform.api((method, path), &[], body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        let body = answer.json();
        for field in ["code", "message", "request_id"] {
            assert!(body[field].is_string(), "{method} {path}: no {field} in {body}");
        }
    }
    platform.ok(&["apps", "create", "app"]);
    let said = platform.fails(&["env", "set", "1BAD=x", "--app", "app"]);
    assert!(said.err.contains("1BAD"), "{said:?}");
    let big = platform.folder.path().join("big.env");
    std::fs::write(&big, format!("BIG={}\n", "x".repeat(300_000))).unwrap();
    let said = platform.fails(&["env", "set", "--file", big.to_str().unwrap(), "--app", "app"]);
    assert!(said.err.contains("262144"), "{said:?}");
    let said = platform.fails(&["restart", "--app", "app"]);
    assert!(said.err.contains("no release yet"), "{said:?}");
}

#[test]
fn values_can_come_from_a_file_or_standard_input() {
    let platform = Platform::start();
    platform.ok(&["apps", "create", "app"]);
    let mut child = platform
        .mini(&["env", "set", "--file", "-", "--app", "app"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"# a comment\nexport A=1\nB=\"two words\"\n").unwrap();
    assert!(child.wait().unwrap().success());
    let vars = platform.json(&["env", "list", "--app", "app"])["vars"].clone();
    assert_eq!(vars, serde_json::json!({"A": "1", "B": "two words"}));
}

#[test]
fn a_port_that_is_taken_and_a_folder_in_use_are_named() {
    let platform = Platform::start();
    let listen = format!("127.0.0.1:{}", platform.port);
    let other = tempfile::tempdir().unwrap();
    let said = Said::from(
        Command::new(env!("CARGO_BIN_EXE_minid"))
            .args(["run", "--http-listen", &listen, "--data-dir"])
            .arg(other.path())
            .output()
            .unwrap(),
    );
    assert_eq!(said.code, 1);
    assert!(said.err.contains(&format!("{listen} is taken by another program")), "{said:?}");
    assert!(said.err.contains("--http-listen"), "{said:?}");
    let said = Said::from(
        Command::new(env!("CARGO_BIN_EXE_minid"))
            .args(["doctor", "--http-listen", &listen, "--data-dir"])
            .arg(platform.data())
            .output()
            .unwrap(),
    );
    assert_eq!(said.code, 0, "{said:?}");
    for words in ["ok    engine ", "is served by mini", "no faults"] {
        assert!(said.out.contains(words), "{words}: {said:?}");
    }
    let said = Said::from(
        Command::new(env!("CARGO_BIN_EXE_minid"))
            .args(["doctor", "--http-listen", "127.0.0.1:1", "--data-dir"])
            .arg(other.path())
            .env("DOCKER_HOST", "unix:///no/such/engine.sock")
            .output()
            .unwrap(),
    );
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("FAULT the engine"), "{said:?}");
    let nowhere = other.path().join("nowhere");
    let said = Said::from(
        Command::new(env!("CARGO_BIN_EXE_minid"))
            .args(["token", "create", "--name", "lost", "--data-dir"])
            .arg(&nowhere)
            .output()
            .unwrap(),
    );
    assert!(said.code == 1 && said.out.is_empty(), "{said:?}");
    assert!(said.err.contains("there is no server's data in") && !nowhere.exists(), "{said:?}");
}
