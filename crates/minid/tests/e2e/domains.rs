//! Names of one's own, who may come in, maintenance, and pages: what the front door does for an
//! app beside passing requests on.

use std::path::Path;

use crate::http::{self, Answer};
use crate::platform::{Platform, deploy, fixture};
use crate::prober::Prober;

/// A request to any host.
fn ask(platform: &Platform, host: &str, headers: &[(&str, &str)]) -> Answer {
    http::request(platform.port, host, ("GET", "/"), headers, b"").unwrap()
}

fn error(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("x-mini-error").unwrap_or("none"))
}

fn releases(platform: &Platform, app: &str) -> usize {
    platform.json(&["releases", "--app", app])["releases"].as_array().unwrap().len()
}

fn manifest(folder: &Path, text: &str) {
    std::fs::write(folder.join("mini.toml"), text).unwrap();
}

#[test]
fn a_domain_leads_to_its_app_at_once_and_is_one_apps_at_a_time() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    platform.ok(&["apps", "create", "red"]);
    let before = releases(&platform, "blue");

    let said = platform.ok(&["domains", "add", "WWW.Example.test.", "--app", "blue"]);
    assert!(said.err.contains("Added www.example.test: requests for it reach blue"), "{said:?}");
    assert!(said.err.contains("DNS: www.example.test "), "{said:?}");
    let answer = ask(&platform, "www.example.test:8080", &[]);
    assert_eq!(answer.text().trim(), "hello from blue v1", "at once: no retry");
    assert_eq!(error(&ask(&platform, "a.example.test", &[])), (404, "unknown_host"));

    platform.ok(&["domains", "add", "*.example.test", "--app", "red"]);
    assert_eq!(error(&ask(&platform, "a.example.test", &[])), (503, "H81"), "red has no release");
    assert_eq!(ask(&platform, "www.example.test", &[]).status, 200, "the name itself goes first");
    assert_eq!(error(&ask(&platform, "a.b.example.test", &[])), (404, "unknown_host"));

    let said = platform.fails(&["domains", "add", "www.example.test", "--app", "red"]);
    assert_eq!(said.code, 5, "{said:?}");
    assert!(said.err.contains("www.example.test belongs to the app blue"), "{said:?}");
    assert!(said.err.contains("mini domains remove www.example.test --app blue"), "{said:?}");
    for (name, why) in [
        ("localhost", "leads to the platform's own API"),
        ("blue.localhost", "is for the app of that name"),
        ("127.0.0.1", "is an address"),
        ("http://x.test/", "leave out http://"),
        ("*.test", "is not a domain"),
    ] {
        let said = platform.fails(&["domains", "add", name, "--app", "red"]);
        assert!(said.err.contains(why), "{name}: {said:?}");
    }

    let list = platform.ok(&["domains", "--app", "blue"]).out;
    assert!(list.contains("www.example.test"), "{list}");
    let info = platform.json(&["apps", "info", "blue"]);
    assert_eq!(info["domains"][0], "www.example.test", "{info}");
    let url = platform.ok(&["open", "--app", "blue"]).out;
    assert_eq!(url.trim(), format!("http://www.example.test:{}", platform.port));
    assert_eq!(releases(&platform, "blue"), before, "a domain makes no release");

    // Kept over a controller's death, and gone when it is removed.
    platform.kill_controller();
    assert_eq!(ask(&platform, "www.example.test", &[]).status, 200);
    platform.ok(&["domains", "remove", "www.example.test", "--app", "blue"]);
    assert_eq!(error(&ask(&platform, "www.example.test", &[])), (503, "H81"), "red's wildcard");
    assert_eq!(platform.fails(&["domains", "remove", "x.test", "--app", "blue"]).code, 4);

    // What is destroyed frees its names.
    platform.ok(&["apps", "destroy", "red", "--yes"]);
    platform.ok(&["domains", "add", "*.example.test", "--app", "blue"]);
    assert_eq!(ask(&platform, "a.example.test", &[]).status, 200);
}

#[test]
fn maintenance_answers_everybody_until_it_ends_with_a_page_of_the_apps_own() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    let before = releases(&platform, "blue");
    let page = folder.path().join("closed.html");
    std::fs::write(&page, "<h1>Back at noon</h1>").unwrap();
    let page = page.to_str().unwrap();
    let browser = [("Accept", "text/html,*/*")];

    let said = platform.ok(&["maintenance", "on", "--app", "blue"]);
    assert!(said.err.contains("blue answers every request with 503"), "{said:?}");
    let answer = ask(&platform, "blue.localhost", &browser);
    assert_eq!(error(&answer), (503, "H80"));
    assert!(answer.text().contains("Down for maintenance"), "{}", answer.text());
    assert_eq!(platform.ok(&["maintenance", "--app", "blue"]).out.trim(), "on");
    platform.ok(&["pages", "set", "h80", page, "--app", "blue"]);
    let answer = ask(&platform, "blue.localhost", &browser);
    assert_eq!((error(&answer), answer.text().as_str()), ((503, "H80"), "<h1>Back at noon</h1>"));
    let json = ask(&platform, "blue.localhost", &[("Accept", "application/json")]).json();
    assert_eq!(json["code"], "H80");

    // A deploy goes live behind it, and the proxy remembers it by itself.
    platform.ok(&deploy(folder.path(), "blue"));
    crate::platform::kill(platform.pid_of("proxy"), "KILL");
    let again = crate::platform::until("the proxy is back", || {
        http::request(platform.port, "blue.localhost", ("GET", "/"), &browser, b"").ok()
    });
    assert_eq!((error(&again), again.text().as_str()), ((503, "H80"), "<h1>Back at noon</h1>"));
    platform.ok(&["maintenance", "off", "--app", "blue"]);
    assert_eq!(ask(&platform, "blue.localhost", &browser).status, 200);

    // The page for all codes; then the router's own again.
    platform.ok(&["pages", "set", "*", page, "--app", "blue"]);
    let list = platform.ok(&["pages", "--app", "blue"]).out;
    assert!(list.contains("H80") && list.contains('*') && list.contains("21 B"), "{list}");
    platform.ok(&["stop", "--app", "blue"]);
    crate::platform::until("it has stopped", || {
        let answer = ask(&platform, "blue.localhost", &browser);
        (error(&answer) == (503, "H14")).then(|| assert_eq!(answer.text(), "<h1>Back at noon</h1>"))
    });
    platform.ok(&["pages", "unset", "*", "--app", "blue"]);
    assert!(ask(&platform, "blue.localhost", &browser).text().contains("App stopped"));
    let large = folder.path().join("large.html");
    std::fs::write(&large, "x".repeat(70_000)).unwrap();
    let said = platform.fails(&["pages", "set", "*", large.to_str().unwrap(), "--app", "blue"]);
    assert!(said.err.contains("larger than 64 KiB"), "{said:?}");
    assert_eq!(releases(&platform, "blue"), before + 1, "only the deploy made a release");
}

#[test]
fn the_rules_of_mini_toml_are_part_of_the_release() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "blue"));
    let prober = Prober::start(platform.port, "blue");

    // What cannot be read fails the deploy with the place and the reason, and changes nothing.
    manifest(folder.path(), "[http]\nallow = [\"10.0.0/8\"]\n");
    let said = platform.fails(&deploy(folder.path(), "blue"));
    assert!(said.err.contains("line 2") && said.err.contains("is not a network"), "{said:?}");
    let ours = "[http]\nbasic_auth = { admin = \"$ADMIN_PASSWORD\" }\nbody_limit = \"1KB\"\n\
                allow = [\"127.0.0.0/8\", \"::1\"]\n";
    manifest(folder.path(), ours);
    let said = platform.fails(&deploy(folder.path(), "blue"));
    assert!(said.err.contains("ADMIN_PASSWORD, which is not set"), "{said:?}");
    assert!(said.err.contains("mini env set ADMIN_PASSWORD="), "{said:?}");
    assert!(!said.err.contains("Building image"), "before anything is built: {said:?}");
    assert_eq!(prober.failures(), Vec::<String>::new());
    drop(prober);

    platform.ok(&["env", "set", "ADMIN_PASSWORD=correct horse", "--stage", "--app", "blue"]);
    platform.ok(&deploy(folder.path(), "blue"));
    // "admin:correct horse", "admin:battery staple"
    let first = [("Authorization", "Basic YWRtaW46Y29ycmVjdCBob3JzZQ==")];
    let second = [("Authorization", "Basic YWRtaW46YmF0dGVyeSBzdGFwbGU=")];
    let answer = ask(&platform, "blue.localhost", &[]);
    assert_eq!(error(&answer), (401, "password_required"));
    assert!(answer.header("www-authenticate").unwrap().starts_with("Basic "));
    assert_eq!(ask(&platform, "blue.localhost", &first).status, 200);
    let upload = |bytes: usize| {
        let what = ("POST", "/upload");
        let body = vec![b'x'; bytes];
        http::request(platform.port, "blue.localhost", what, &first, &body).unwrap()
    };
    assert_eq!((upload(1000).status, error(&upload(1001))), (200, (413, "H26")));
    for file in ["mini.db", "mini.db-wal", "routes.snapshot"] {
        let bytes = std::fs::read(platform.data().join(file)).unwrap_or_default();
        assert!(!bytes.windows(13).any(|w| w == b"correct horse"), "a password in {file}");
    }

    // Another password comes in with its config var; the release before has its own.
    platform.ok(&["env", "set", "ADMIN_PASSWORD=battery staple", "--app", "blue"]);
    let status = |credentials| ask(&platform, "blue.localhost", credentials).status;
    assert_eq!((status(&first), status(&second)), (401, 200));
    let diff = platform.ok(&["diff", "v1", "v2", "--app", "blue"]).out;
    assert!(diff.contains("+ http basic_auth") && diff.contains("+ http allow"), "{diff}");
    platform.ok(&["rollback", "v2", "--app", "blue"]);
    assert_eq!((status(&first), status(&second)), (200, 401));
    platform.ok(&["rollback", "v1", "--app", "blue"]);
    assert_eq!(status(&[]), 200, "v1 asked nobody");

    manifest(folder.path(), "[http]\nallow = [\"10.0.0.0/8\"]\nbasic_auth = { a = \"literal\" }\n");
    let said = platform.ok(&deploy(folder.path(), "blue"));
    assert!(said.err.contains("the password of a in the clear"), "{said:?}");
    assert_eq!(error(&ask(&platform, "blue.localhost", &[])), (403, "address_not_allowed"));
}
