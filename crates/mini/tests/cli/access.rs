//! Tokens and the audit trail, as they are typed and read.

use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::{Machine, assert_in};

fn token(id: &str, name: &str, scope: &str, apps: Value) -> Value {
    json!({
        "id": id, "name": name, "scope": scope, "apps": apps, "current": false,
        "created_at": "2026-11-23T09:30:00Z", "expires_at": "2999-11-23T09:30:00Z",
        "last_used_at": null
    })
}

/// A server with two tokens of one name, and one of another.
fn server() -> Fake {
    Fake::start(|asked| {
        let ci = token("aaa", "ci", "deploy", json!(["blue", "red"]));
        match (asked.method.as_str(), asked.path.as_str()) {
            ("GET", "/v1/tokens") => {
                let old = token("bbb", "twin", "admin", Value::Null);
                let none = token("ccc", "twin", "read", json!([]));
                Reply::json(200, &json!({ "tokens": [ci, old, none] }))
            }
            ("POST", "/v1/tokens") => {
                Reply::json(201, &json!({ "token": ci, "secret": "mini_new" }))
            }
            ("POST", _) => {
                let mut ci = ci;
                ci["old_secret_until"] = json!("2026-11-25T10:00:00Z");
                Reply::json(200, &json!({ "token": ci, "secret": "mini_next" }))
            }
            _ => Reply::json(204, &Value::Null),
        }
    })
}

#[test]
fn a_token_for_ci_is_one_line() {
    let fake = server();
    let machine = Machine::of(&fake);
    let line = [
        "tokens",
        "create",
        "ci",
        "--scope",
        "deploy",
        "-a",
        "blue",
        "--app",
        "red",
        "--expires",
        "1y",
    ];
    let ran = machine.mini(&line);
    assert_eq!((ran.code, ran.out.as_str()), (0, "mini_new\n"), "{}", ran.err);
    assert_eq!(
        ran.err,
        "Token \"ci\" (id aaa) may deploy blue, red until 2999-11-23; its secret is shown this once:\n"
    );
    let body: Value = serde_json::from_slice(&fake.asked()[0].body).unwrap();
    let wanted = json!({
        "name": "ci", "scope": "deploy", "apps": ["blue", "red"], "expires_in_seconds": 31_536_000
    });
    assert_eq!(body, wanted);
    // The app of the folder or of the environment binds no token.
    machine.file("mini.toml", "app = 'blue'\n");
    machine.mini(&["tokens", "create", "laptop"]);
    let body: Value = serde_json::from_slice(&fake.asked()[1].body).unwrap();
    assert_eq!((&body["scope"], &body["apps"]), (&json!("admin"), &json!([])));
    let ran = machine.mini(&["tokens", "create", "x", "--scope", "root"]);
    assert_eq!(ran.code, 2);
    assert_in(&ran.err, "\"root\" is no scope: admin, deploy or read");
    let ran = machine.mini(&["logs", "--app", "blue", "--app", "red"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert_in(&ran.err, "--app is given more than once");
}

#[test]
fn tokens_are_named_by_name_or_id() {
    let fake = server();
    let machine = Machine::of(&fake);
    let list = machine.mini(&["tokens"]).out;
    assert_in(&list, "aaa  ci    deploy  blue, red  ");
    assert_in(&list, "bbb  twin  admin   all        ");
    assert_in(&list, "ccc  twin  read    none left  ");
    let ran = machine.mini(&["tokens", "rotate", "ci"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "mini_next\n"), "{}", ran.err);
    assert_in(&ran.err, "the old one works until 2026-11-25 10:00 UTC:");
    let sent = fake.asked().pop().unwrap();
    assert_eq!(sent.line(), "POST /v1/tokens/aaa/rotate");
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body, json!({ "overlap_seconds": 3600, "expires_in_seconds": null }));
    let ran = machine.mini(&["tokens", "revoke", "twin"]);
    assert_eq!(ran.code, 5);
    assert_in(&ran.err, "error: 2 tokens are named \"twin\"\nhint: name one by its id: bbb, ccc");
    assert_eq!(machine.mini(&["tokens", "revoke", "nobody"]).code, 4);
}

#[test]
fn the_trail_is_a_table_and_a_refusal_says_what_to_do() {
    let fake = Fake::start(|asked| {
        if asked.path.starts_with("/v1/audit") {
            let entry = json!({
                "at": "2026-11-23T09:30:00.5Z", "actor": "ci", "token_id": "aaa",
                "action": "apps.destroy", "app": "blue", "target": null, "status": 403,
                "request_id": "r1", "source": "203.0.113.7"
            });
            let stranger = json!({
                "at": "2026-11-23T09:29:00Z", "actor": null, "token_id": null,
                "action": "apps.list", "app": null, "target": null, "status": 401,
                "request_id": "r0", "source": null
            });
            return Reply::json(200, &json!({ "entries": [entry, stranger] }));
        }
        let said = json!({
            "code": "token_expired", "message": "the token \"ci\" expired", "hint": "rotate it"
        });
        Reply::json(401, &said)
    });
    let machine = Machine::of(&fake);
    let ran =
        machine.mini(&["audit", "--app", "blue", "-n", "9", "--since", "2026-11-23T00:00:00Z"]);
    assert_eq!(
        ran.out,
        "TIME                  WHO           ACTION        APP   WHAT  STATUS  FROM         REQUEST\n\
         2026-11-23T09:30:00Z  ci            apps.destroy  blue  -     403     203.0.113.7  r1\n\
         2026-11-23T09:29:00Z  nobody known  apps.list     -     -     401     -            r0\n"
    );
    assert_eq!(fake.lines(), ["GET /v1/audit?app=blue&since=2026-11-23T00:00:00Z&n=9"]);
    let ran = machine.mini(&["apps"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (3, "error: the token \"ci\" expired\nhint: rotate it\n")
    );
}
