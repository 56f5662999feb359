use mini_core::release::{HealthSpec, Strategy, Timing};

use super::super::manifest::Manifest;
use super::*;

fn empty() -> ReleaseSpec {
    ReleaseSpec {
        image: "sha256:1".into(),
        port: 80,
        processes: BTreeMap::new(),
        health: HealthSpec::default(),
        timing: Timing::default(),
        release_command: None,
        strategy: Strategy::Rolling,
        volumes: Vec::new(),
        rules: Rules::default(),
        password_vars: BTreeMap::new(),
    }
}

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn applied(text: &str, vars: &BTreeMap<String, String>) -> Result<ReleaseSpec, Stopped> {
    let manifest = Manifest::parse(text).unwrap();
    let mut spec = empty();
    manifest.http().apply(&mut spec, vars)?;
    Ok(spec)
}

fn cause(stopped: Stopped) -> (String, String) {
    match stopped {
        Stopped::Cause(cause) => (cause.message, cause.hint.unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_field_becomes_a_rule() {
    let text = r#"
        app = "blue"
        [http]
        https_redirect = true
        hsts = "180d"
        allow = ["10.0.0.0/8", "2001:db8::1"]
        body_limit = "10MB"
        protocol = "h2c"
        log_query = true
        connect_timeout = "500ms"
        first_byte_timeout = "90s"
        idle_timeout = "5m"
        upgraded_idle_timeout = "1h"
    "#;
    let rules = applied(text, &vars(&[])).unwrap().rules;
    let expected = Rules {
        https: Https { redirect: true, hsts_s: Some(180 * 86_400) },
        allow: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        body_limit: Some(10_000_000),
        h2c: true,
        log_query: true,
        timeouts: RuleTimeouts {
            connect_ms: Some(500),
            first_byte_ms: Some(90_000),
            idle_ms: Some(300_000),
            upgraded_idle_ms: Some(3_600_000),
        },
        ..Rules::default()
    };
    assert_eq!(rules, expected);
    assert_eq!(applied("app = \"blue\"", &vars(&[])).unwrap(), empty());
    let size = |text: &str| {
        applied(&format!("[http]\nbody_limit = {text}\n"), &vars(&[])).unwrap().rules.body_limit
    };
    assert_eq!(
        (size("4096"), size("\"1 MiB\""), size("\"2kb\"")),
        (Some(4096), Some(1 << 20), Some(2000))
    );
    let hsts = |text: &str| {
        applied(&format!("[http]\nhsts = {text}\n"), &vars(&[])).unwrap().rules.https.hsts_s
    };
    assert_eq!((hsts("true"), hsts("false")), (Some(31_536_000), None));
}

#[test]
fn passwords_are_config_vars_values_and_stand_nowhere_in_the_clear() {
    let text =
        "[http]\nbasic_auth = { admin = \"$ADMIN_PASSWORD\", bob = \"hunter22\", eve = \"$$x\" }\n";
    let vars = vars(&[("ADMIN_PASSWORD", "correct horse")]);
    let mut spec = applied(text, &vars).unwrap();
    let json = serde_json::to_string(&spec).unwrap();
    assert!(!json.contains("correct horse") && !json.contains("hunter22"), "{json}");
    let user = |spec: &ReleaseSpec, name: &str| {
        spec.rules.users.iter().find(|u| u.name == name).unwrap().clone()
    };
    assert!(is_password(&user(&spec, "admin"), "correct horse"));
    assert!(is_password(&user(&spec, "bob"), "hunter22") && is_password(&user(&spec, "eve"), "$x"));
    assert!(!is_password(&user(&spec, "admin"), "hunter22"));
    assert_ne!(user(&spec, "admin").salt, user(&spec, "bob").salt);
    assert_eq!(Manifest::parse(text).unwrap().http().in_the_clear(), ["bob", "eve"]);

    // Other config vars leave the hashes as they are, another password does not.
    let before = spec.clone();
    renew_passwords(&mut spec, &vars).unwrap();
    assert_eq!(spec, before);
    let vars = self::vars(&[("ADMIN_PASSWORD", "battery staple")]);
    renew_passwords(&mut spec, &vars).unwrap();
    assert!(is_password(&user(&spec, "admin"), "battery staple"));
    assert_eq!(user(&spec, "bob"), user(&before, "bob"));
    let (message, hint) = cause(renew_passwords(&mut spec, &self::vars(&[])).unwrap_err());
    assert!(message.contains("ADMIN_PASSWORD, which is not set"), "{message}");
    assert!(hint.contains("mini env set ADMIN_PASSWORD="), "{hint}");
    let manifest = Manifest::parse(text).unwrap();
    manifest.http().check_passwords(&vars).unwrap();
    let early = cause(manifest.http().check_passwords(&self::vars(&[])).unwrap_err());
    assert_eq!(early, (message, hint), "before anything is built");
    let empty = self::vars(&[("ADMIN_PASSWORD", "")]);
    assert!(cause(applied(text, &empty).unwrap_err()).0.contains("which is empty"));
}

#[test]
fn mistakes_are_named_with_their_line() {
    let error = |field: &str| Manifest::parse(&format!("[http]\n{field}\n")).unwrap_err();
    for (field, words) in [
        ("alow = []", &["line 2", "unknown field `alow`"][..]),
        ("allow = [\"10.0.0/8\"]", &["line 2", "\"10.0.0/8\" is not a network"]),
        ("allow = [\"10.0.0.1/8\"]", &["line 2", "10.0.0.0/8 is meant?"]),
        ("allow = []", &["leave it out"]),
        ("body_limit = \"10 MBit\"", &["line 2", "not an amount such as 500KB"]),
        ("body_limit = 0", &["line 2", "0 is not an amount"]),
        ("body_limit = true", &["line 2", "not an amount"]),
        ("protocol = \"h3\"", &["line 2", "`http/1.1` or `h2c`"]),
        ("connect_timeout = 5", &["line 2", "5 is not a duration such as 500ms"]),
        ("connect_timeout = \"2h\"", &["line 2", "connect_timeout is 2h; it is from 100ms to 1m"]),
        ("first_byte_timeout = \"0s\"", &["line 2", "from 1s to 1h"]),
        ("idle_timeout = \"5 m\"", &["line 2", "not a duration"]),
        ("hsts = \"3650d\"", &["line 2", "from 1s to 730d"]),
        ("basic_auth = { \"a:b\" = \"$A\" }", &["line 2", "without a colon"]),
        ("basic_auth = { a = \"$1A\" }", &["line 2", "such as $ADMIN_PASSWORD"]),
        ("basic_auth = { a = \"\" }", &["line 2", "a password is some text"]),
    ] {
        let error = error(field);
        assert!(words.iter().all(|word| error.contains(word)), "{field}: {error}");
    }
}

#[test]
fn durations_are_written_as_they_are_read() {
    for text in ["500ms", "90s", "5m", "1h", "7d"] {
        assert_eq!(Span::parse(text).unwrap().to_string(), text);
    }
    for bad in ["", "5", "s", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615d"] {
        assert_eq!(Span::parse(bad), None, "{bad}");
    }
}
