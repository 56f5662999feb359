//! What is seen of requests: the router's lines in `mini logs`, `mini metrics`, `minid metrics`.

use std::process::Command;

use serde_json::Value;

use crate::http;
use crate::platform::{Platform, deploy, fixture, until, write_fixture};

/// The texts of the router's lines, oldest first.
fn router_lines(platform: &Platform, app: &str) -> Vec<String> {
    let said =
        platform.ok(&["--json", "logs", "--app", app, "--source", "mini", "--process", "router"]);
    let text = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["text"].as_str().unwrap().to_owned()
    };
    said.out.lines().map(text).collect()
}

/// The line about a path, once it is there.
fn line_about(platform: &Platform, path: &str) -> String {
    let wanted = format!(" path=\"{path}\" ");
    until("the line is there", || {
        router_lines(platform, "app").into_iter().find(|line| line.contains(&wanted))
    })
}

/// The value of a series of `minid metrics`.
fn metric(platform: &Platform, series: &str) -> Option<f64> {
    let said = Command::new(env!("CARGO_BIN_EXE_minid"))
        .arg("metrics")
        .env("MINID_DATA_DIR", platform.data())
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn each_request_is_a_line_and_counts() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    let id = [("X-Request-ID", "from-the-test"), ("X-Forwarded-For", "6.6.6.6")];
    let answer =
        http::request(platform.port, "app.localhost", ("GET", "/?token=secret"), &id, b"").unwrap();
    assert_eq!(answer.status, 200);
    let line = line_about(&platform, "/");
    let begins = "at=info method=GET path=\"/\" host=app.localhost request_id=from-the-test \
                  fwd=\"127.0.0.1\" process=web.1 connect=";
    assert!(line.starts_with(begins), "{line}");
    let ends = format!(" status=200 bytes={} protocol=http", answer.body.len());
    assert!(line.ends_with(&ends), "{line}");
    assert!(!line.contains("secret"), "{line}");
    // The app's whole log has it too, in the form that people read.
    let said = platform.ok(&["logs", "--app", "app"]);
    assert!(said.out.contains(&format!("mini[router]: {line}\n")), "{said:?}");

    // Errors: the app's own, the router's, and a client that tries to write lines of its own.
    assert_eq!(platform.get("app", "/status?code=500").status, 500);
    assert!(line_about(&platform, "/status").contains("at=info "));
    assert_eq!(platform.get("app", "/drop").status, 502);
    let line = line_about(&platform, "/drop");
    assert!(line.starts_with("at=error code=H13 desc=\""), "{line}");
    assert!(line.contains(" status=502 "), "{line}");
    platform.get("app", "/%22\"code=H99");
    assert_eq!(line_about(&platform, "/%22\\\"code=H99").matches("code=H99").count(), 1);

    // Another release, which fails more often.
    write_fixture(folder.path(), &[("ROUND", "2")]);
    platform.ok(&deploy(folder.path(), "app"));
    for _ in 0..3 {
        platform.get("app", "/status?code=503");
    }
    platform.get("app", "/");
    let metrics = platform.json(&["metrics", "--app", "app"]);
    let hour = &metrics["windows"][2];
    assert_eq!(
        (hour["requests"].as_u64(), hour["errors"].as_u64()),
        (Some(8), Some(5)),
        "{metrics:#}"
    );
    assert!(hour["p99_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 60_000.0), "{metrics:#}");
    let releases = metrics["releases"].as_array().unwrap();
    let of = |n: usize| (&releases[n]["release"], &releases[n]["requests"], &releases[n]["errors"]);
    assert_eq!(of(0), (&"v2".into(), &4.into(), &3.into()), "{metrics:#}");
    assert_eq!(of(1), (&"v1".into(), &4.into(), &2.into()), "{metrics:#}");
    let said = platform.ok(&["metrics", "--app", "app"]);
    for words in ["REQUESTS/S", "60 minutes", "requests/s  ", "v2       4         75 %"] {
        assert!(said.out.contains(words), "{words}: {said:?}");
    }

    let v2 = "app=\"app\",release=\"v2\"";
    assert_eq!(
        metric(&platform, &format!("mini_requests_total{{{v2},status=\"5xx\"}}")),
        Some(3.0)
    );
    let code = "mini_request_errors_total{app=\"app\",release=\"v1\",code=\"H13\"}";
    assert_eq!(metric(&platform, code), Some(1.0));
    let count = format!("mini_request_duration_seconds_count{{{v2}}}");
    assert_eq!(metric(&platform, &count), Some(4.0));
}

#[test]
fn lines_of_requests_outlast_a_controller_that_is_killed() {
    let platform = Platform::start();
    let folder = fixture(&[]);
    platform.ok(&deploy(folder.path(), "app"));
    platform.get("app", "/before");
    line_about(&platform, "/before");
    platform.kill_controller();
    for n in 0..20 {
        platform.get("app", &format!("/during/{n}"));
    }
    let found = until("the lines are there", || {
        let lines = router_lines(&platform, "app");
        lines.iter().any(|line| line.contains("/during/19")).then_some(lines)
    });
    let during = found.iter().filter(|line| line.contains("/during/")).count();
    assert_eq!(during, 20, "{found:#?}");
    assert!(!found.iter().any(|line| line.contains("lost")), "{found:#?}");
}
