//! `mini certs`.

use serde_json::{Value, json};

use super::fake::{Fake, Reply};
use super::{Machine, assert_in};

fn cert(name: &str, state: &str, rest: Value) -> Value {
    let mut cert = json!({
        "name": name, "app": null, "state": state, "source": null, "names": [], "issuer": null,
        "fingerprint": null, "not_before": null, "not_after": null, "renew_at": null,
        "renewal_suggested": false, "attempts": 0, "last_error": null, "next_try_at": null,
        "note": null
    });
    for (field, value) in rest.as_object().unwrap() {
        cert[field] = value.clone();
    }
    cert
}

fn server() -> Fake {
    let good = cert(
        "blue.example.com",
        "valid",
        json!({ "source": "acme", "app": "blue", "not_after": "2090-01-31T00:00:00Z",
                "renew_at": "2020-01-01T00:00:00Z" }),
    );
    let note = "nip.io is shared";
    let failed = cert(
        "mini.1.2.3.4.nip.io",
        "failed",
        json!({ "last_error": "http-01: no route", "attempts": 2, "note": note,
                "next_try_at": "2090-01-01T00:00:00Z" }),
    );
    let other = cert("1.2.3.4.nip.io", "ordering", json!({ "note": note }));
    let acme = json!({ "directory": "https://ca.example/d", "email": null, "off": null });
    let all = json!({ "certs": [other, good, failed], "acme": acme });
    Fake::start(move |asked| match asked.line().as_str() {
        "GET /v1/certs" => Reply::json(200, &all),
        "GET /v1/certs/blue.example.com" => {
            let own = json!({ "source": "own", "names": ["blue.example.com", "*.example.com"],
                              "issuer": "Somebody" });
            let own = cert("blue.example.com", "valid", own);
            let event = json!({ "at": "2020-01-01T00:00:00Z", "text": "own certificate added" });
            Reply::json(200, &json!({ "cert": own, "chain": null, "events": [event] }))
        }
        "POST /v1/certs" => {
            let own =
                cert("a.example.com", "valid", json!({ "not_after": "2090-01-31T00:00:00Z" }));
            let added = json!({ "certs": [own], "warnings": ["no name on it leads here yet"] });
            Reply::json(201, &added)
        }
        "DELETE /v1/certs/blue.example.com" => Reply::json(200, &json!({})),
        "POST /v1/certs/blue.example.com/retry" => {
            Reply::error(409, "conflict", "the certificate for blue.example.com holds")
        }
        other => Reply::error(404, "not_found", &format!("there is nothing at {other}")),
    })
}

#[test]
fn the_list_is_a_table_and_notes_are_said_once() {
    let fake = server();
    let machine = Machine::of(&fake);
    let ran = machine.mini(&["certs"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["NAME", "APP", "SOURCE", "STATE", "EXPIRES", "NEXT", "LAST", "ERROR"]
    );
    assert_in(lines[2], "ordered  valid     2090-01-31  renew now");
    assert_in(lines[3], "http-01: no route");
    assert_in(&ran.err, "1.2.3.4.nip.io, mini.1.2.3.4.nip.io: nip.io is shared\n");
    assert_eq!(ran.err.matches("shared").count(), 1);
    let json = machine.mini(&["certs", "--json"]);
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["certs"][2]["attempts"], 2);
    let shown = machine.mini(&["certs", "show", "blue.example.com"]);
    assert_in(&shown.out, "source    own, issued by Somebody\n");
    assert_in(&shown.out, "own certificate added\n");
}

#[test]
fn an_own_certificate_is_sent_and_its_removal_confirmed() {
    let fake = server();
    let machine = Machine::of(&fake);
    machine.file("chain.pem", "CHAIN");
    machine.file("key.pem", "KEY");
    let ran = machine.mini(&["certs", "add", "chain.pem", "key.pem", "--app", "blue"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_in(&ran.err, "warning: no name on it leads here yet\n");
    assert_in(&ran.err, "Added the certificate for a.example.com, until 2090-01-31\n");
    let sent = fake.asked().into_iter().find(|a| a.method == "POST").unwrap();
    let body: Value = serde_json::from_slice(&sent.body).unwrap();
    assert_eq!(body, json!({ "chain": "CHAIN", "key": "KEY", "app": "blue" }));
    let missing = machine.mini(&["certs", "add", "chain.pem", "none.pem"]);
    assert_eq!(missing.code, 1);
    assert_in(&missing.err, "cannot read none.pem");
    let refused = machine.mini(&["certs", "remove", "blue.example.com"]);
    assert_eq!(refused.code, 2, "{}", refused.err);
    let removed = machine.mini(&["certs", "remove", "blue.example.com", "--yes"]);
    assert_eq!(removed.code, 0, "{}", removed.err);
    assert_in(&removed.err, "Removed the certificate for blue.example.com, *.example.com\n");
    assert_eq!(machine.mini(&["certs", "retry", "blue.example.com"]).code, 5);
}
