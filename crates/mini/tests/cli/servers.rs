//! Who answers, and which token goes where.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::fake::{Asked, Fake, Reply};
use super::platform::{Platform, app};
use super::{Machine, Ran, assert_in};

#[test]
fn a_refused_token_is_3_and_names_login() {
    let fake = Platform::good().start();
    let machine = Machine::new();
    machine.configure(&format!("current = 'a'\n[servers.a]\nhost = '{}'\n", fake.url));
    let ran = machine.mini(&["apps"]);
    assert_eq!(ran.code, 3);
    assert_in(&ran.err, "error: the token is unknown\nhint: `mini login`");
}

#[test]
fn a_server_named_by_the_environment_needs_no_home() {
    let fake = Fake::start(|asked: &Asked| {
        assert_eq!(asked.token.as_deref(), Some("mini_good"));
        Reply::json(200, &json!({ "apps": [app("blue-sky", Some("v3"))] }))
    });
    let machine = Machine::new();
    let without_home = |args: &[&str]| {
        let mut command = machine.command(args);
        command.env_remove("MINI_CONFIG").env("MINI_HOST", &fake.url);
        Ran::from(command.env("MINI_TOKEN", "mini_good").output().unwrap())
    };
    let ran = without_home(&["apps"]);
    assert_eq!((ran.code, &*ran.err), (0, ""));
    assert_in(&ran.out, "blue-sky");
    // What has to be kept needs a place.
    let ran = without_home(&["config", "set-host", "http://a.test"]);
    assert_eq!(ran.code, 1);
    assert_in(&ran.err, "HOME is not set\nhint: set MINI_CONFIG");
}

#[test]
fn a_wrong_host_is_6_at_once() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let machine = Machine::new();
    let began = std::time::Instant::now();
    let ran = machine.mini(&["apps", "--host", &format!("http://{gone}")]);
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, &format!("error: cannot reach http://{gone}: connection refused\n"));
    assert!(began.elapsed().as_secs() < 10);
}

#[test]
fn what_is_no_mini_server_is_told() {
    let fake = Fake::start(|_| Reply::bare(200, "<html>hello</html>"));
    let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
    assert_eq!(ran.code, 6);
    assert_in(&ran.err, "is not a mini server");
    let fake = Fake::start(|_| Reply::bare(302, "").header("location", "https://x.test/"));
    let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
    assert_in(&ran.err, "it redirects to \"https://x.test/\"");
    let fake = Fake::start(|_| Reply::bare(404, "<html>").header("x-mini-error", "H404"));
    let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
    assert_in(&ran.err, "that name is not its API's");
}

#[test]
fn servers_of_another_level_are_told() {
    for (level, words, hint) in [
        ("2", "too new for this client", "update this client"),
        ("0", "too old", "update the server"),
    ] {
        let fake = Fake::start(move |_| {
            Reply::json(200, &json!({ "apps": [] }))
                .header("mini-api-level", level)
                .header("mini-version", "9.9.9")
        });
        let ran = Machine::new().mini(&["apps", "--host", &fake.url]);
        assert_eq!(ran.code, 6);
        assert_in(&ran.err, "runs mini 9.9.9");
        assert_in(&ran.err, words);
        assert_in(&ran.err, &format!("hint: {hint}"));
    }
}

#[test]
fn a_server_that_restarts_is_waited_for() {
    let times = AtomicUsize::new(0);
    let fake = Fake::start(move |_| match times.fetch_add(1, Ordering::SeqCst) {
        // As the proxy's door answers, which knows no API level.
        0 => Reply::bare(503, r#"{"code":"controller_unavailable","message":"it is away"}"#)
            .header("x-mini-error", "H99"),
        1 => Reply::lines(&[]).cut(),
        _ => Reply::json(200, &json!({ "apps": [app("blue-sky", Some("v3"))] })),
    });
    let ran = Machine::of(&fake).mini(&["apps"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.out, "APP       STATE    RELEASE  DEPLOYED  URL\nblue-sky  running  v3");
    assert_eq!(fake.lines().len(), 3);
}

#[test]
fn an_unknown_app_is_4_and_names_the_list() {
    let fake = Platform::good().start();
    let ran = Machine::of(&fake).mini(&["ps", "-a", "nobody"]);
    assert_eq!(ran.code, 4);
    assert_in(&ran.err, "error: there is no app named nobody\nhint: `mini apps`");
}

#[test]
fn without_a_server_or_an_app_the_next_step_is_named() {
    let machine = Machine::new();
    let ran = machine.mini(&["apps"]);
    assert_eq!(ran.code, 1);
    assert_in(&ran.err, "error: no server is configured\nhint: `mini config set-host URL`");
    let fake = Platform::good().start();
    let ran = Machine::of(&fake).mini(&["logs"]);
    assert_eq!(ran.code, 2);
    assert_in(&ran.err, "error: no app is named\nhint: pass --app NAME");
    assert_eq!(machine.mini(&["deploy", "--nonsense"]).code, 2);
}

#[test]
fn a_server_is_set_and_logged_in_to_and_its_token_stays_its_own() {
    let healthy = |_: &Asked| {
        Reply::json(
            200,
            &json!({
                "status": "ok", "version": "0.1.0", "api_level": 1, "id": "s1", "domains": [],
                "engine": null, "token": "laptop", "problems": []
            }),
        )
    };
    let (first, second) = (Fake::start(healthy), Fake::start(healthy));
    let machine = Machine::new();
    let set = machine.mini(&["config", "set-host", &first.url]);
    assert_eq!(set.code, 0, "{}", set.err);
    assert_in(&set.err, &format!("Server \"local\" is {} (mini 0.1.0).", first.url));
    let login = machine.mini_with_stdin(&["login"], "mini_secret\n");
    assert_eq!(login.code, 0, "{}", login.err);
    assert_eq!(first.asked().last().unwrap().token.as_deref(), Some("mini_secret"));
    assert!(!login.err.contains("mini_secret") && login.out.is_empty());
    let listed = machine.mini(&["config", "list"]).out;
    assert_in(&listed, "local  ");
    assert_in(&listed, "yes    current");

    machine.mini(&["apps", "--host", &second.url]);
    let moved = machine.mini(&["config", "set-host", &second.url]);
    assert_in(&moved.err, &format!("\"local\" was {}; the token for it is forgotten.", first.url));
    machine.mini(&["apps"]);
    assert!(second.asked().len() >= 3);
    assert!(second.asked().iter().all(|a| a.token.is_none()), "{:?}", second.asked());
}

#[test]
fn a_token_that_is_refused_is_not_stored() {
    let fake = Platform::good().start();
    let machine = Machine::of(&fake);
    let before = fs::read_to_string(&machine.config).unwrap();
    let ran = machine.mini(&["login", "--token", "mini_bad"]);
    assert_eq!(ran.code, 3);
    assert_in(&ran.err, "minid token create");
    assert_eq!(fs::read_to_string(&machine.config).unwrap(), before);
}

#[test]
fn a_host_that_is_no_server_is_not_stored() {
    let fake = Fake::start(|_| Reply::bare(200, "<html>"));
    let machine = Machine::new();
    assert_eq!(machine.mini(&["config", "set-host", &fake.url]).code, 6);
    assert_eq!(machine.mini(&["config", "set-host", "ssh://example.com"]).code, 2);
    assert!(!machine.config.exists());
}
