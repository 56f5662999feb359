//! What is seen of requests: the lines that the controller fetches, and the counters.

use std::collections::BTreeMap;
use std::time::Duration;

use mini_core::control::{AppTraffic, FromProxy, ToProxy};
use mini_core::route::{Role, WebState};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::harness::*;

/// A connection that fetches lines.
struct Follower(BufReader<UnixStream>);

impl Follower {
    async fn connect(proxy: &Proxy) -> Self {
        let mut this =
            Self(BufReader::new(UnixStream::connect(proxy.control_path()).await.unwrap()));
        assert!(matches!(this.document().await, FromProxy::Hello { .. }));
        this.say(&ToProxy::FollowRequests).await;
        this
    }

    async fn say(&mut self, document: &ToProxy) {
        let line = serde_json::to_string(document).unwrap() + "\n";
        self.0.write_all(line.as_bytes()).await.unwrap();
    }

    async fn document(&mut self) -> FromProxy {
        let mut line = String::new();
        soon("a document", self.0.read_line(&mut line)).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The texts of the next batch, which all are of `blue`; it is not yet kept.
    async fn batch(&mut self) -> Vec<String> {
        let FromProxy::Requests { bytes, lost } = self.document().await else {
            panic!("no batch came");
        };
        assert_eq!(lost, []);
        let mut text = vec![0; bytes.try_into().unwrap()];
        soon("the lines", self.0.read_exact(&mut text)).await.unwrap();
        let text = String::from_utf8(text).unwrap();
        let text = text.strip_suffix('\n').expect("whole lines");
        let of_blue = |line: &str| {
            let fields: Vec<_> = line.splitn(3, '\t').collect();
            assert_eq!(fields[0], "blue");
            fields[2].to_owned()
        };
        text.split('\n').map(of_blue).collect()
    }

    /// The texts of the next `count` lines, kept.
    async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.batch().await);
            self.say(&ToProxy::Kept).await;
        }
        lines
    }
}

/// `key=value` of a line; the value without its quotes.
fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let start = line.find(&format!(" {key}=")).unwrap_or_else(|| panic!("no {key} in {line}"));
    let value = &line[start + key.len() + 2..];
    match value.strip_prefix('"') {
        Some(quoted) => &quoted[..quoted.find('"').unwrap()],
        None => value.split(' ').next().unwrap(),
    }
}

async fn traffic(proxy: &Proxy) -> Vec<AppTraffic> {
    let mut asks =
        Follower(BufReader::new(UnixStream::connect(proxy.control_path()).await.unwrap()));
    asks.document().await;
    asks.say(&ToProxy::Metrics).await;
    let FromProxy::Metrics { apps, .. } = asks.document().await else { panic!("no metrics came") };
    apps
}

async fn scrape(proxy: &Proxy, request: &str) -> Answer {
    let path = proxy.dir.path().join("metrics.sock");
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(format!("{request}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    soon("the metrics", stream.read_to_string(&mut text)).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn each_request_is_a_line_with_what_happened() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("hello").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut follower = Follower::connect(&proxy).await;
    let mut client = proxy.client().await;
    client
        .send("GET /a/b?token=secret HTTP/1.1\r\nHost: blue.localhost:81\r\nX-Request-ID: id-7\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.status, 200);
    let lines = follower.lines(1).await;
    let line = &lines[0];
    assert!(
        line.starts_with(
            "at=info method=GET path=\"/a/b\" host=blue.localhost request_id=id-7 \
             fwd=\"127.0.0.1\" process=web.1 connect="
        ),
        "{line}"
    );
    assert!(line.ends_with("ms status=200 bytes=5 protocol=http"), "{line}");
    assert_eq!(lines.len(), 1);
}

#[tokio::test]
async fn what_the_router_answers_by_itself_has_its_code() {
    let proxy = Proxy::start().await;
    let _c = proxy.with_table(vec![app("blue", WebState::Crashed, vec![])]).await;
    let mut follower = Follower::connect(&proxy).await;
    assert_eq!(proxy.get("blue.localhost").await.error(), (503, "H10"));
    assert_eq!(proxy.get("unknown.localhost").await.status, 404);
    assert_eq!(proxy.get("blue.localhost").await.error(), (503, "H10"));
    let lines = follower.lines(2).await;
    assert_eq!(lines.len(), 2, "what no app has is in no app's log: {lines:?}");
    for line in &lines {
        assert!(line.starts_with("at=error code=H10 desc=\"App crashed\" method=GET "), "{line}");
        assert_eq!((field(line, "process"), field(line, "status")), ("", "503"));
    }
    let traffic = traffic(&proxy).await;
    assert_eq!(traffic.len(), 1);
    assert_eq!(traffic[0].releases[0].errors, [("H10".to_owned(), 2)]);
}

#[tokio::test]
async fn an_upstream_that_fails_is_named_with_its_code() {
    let proxy = Proxy::start().await;
    let (closes, _) = upstream(|_, mut conn, _| async move { drop(conn.head().await) }).await;
    let _c = proxy.with_table(vec![serving("blue", closes)]).await;
    let mut follower = Follower::connect(&proxy).await;
    assert_eq!(proxy.get("blue.localhost").await.error(), (502, "H13"));
    let lines = follower.lines(1).await;
    assert!(lines[0].starts_with("at=error code=H13 "), "{lines:?}");
    assert_eq!((field(&lines[0], "process"), field(&lines[0], "status")), ("web.1", "502"));
}

#[tokio::test]
async fn a_client_that_goes_first_is_h27() {
    let half_closed = Duration::from_millis(100);
    let proxy = Proxy::start_with(|config| config.timeouts.half_closed = half_closed).await;
    let (silent, _) = upstream(|_, mut conn, _| async move {
        conn.head().await;
        conn.more().await;
    })
    .await;
    let _c = proxy.with_table(vec![serving("blue", silent)]).await;
    let mut follower = Follower::connect(&proxy).await;
    let mut client = proxy.client().await;
    client.send("GET / HTTP/1.1\r\nHost: blue.localhost\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    let lines = follower.lines(1).await;
    assert!(lines[0].starts_with("at=error code=H27 "), "{lines:?}");
    assert_eq!(field(&lines[0], "status"), "499");
}

#[tokio::test]
async fn lines_wait_for_a_controller_that_is_away() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("hello").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    for _ in 0..3 {
        proxy.get("blue.localhost").await;
    }
    let mut first = Follower::connect(&proxy).await;
    first.batch().await;
    // It dies before it kept them.
    drop(first);
    let mut second = Follower::connect(&proxy).await;
    assert_eq!(second.lines(3).await.len(), 3, "none is lost and none comes twice");
}

#[tokio::test]
async fn a_proxy_that_stops_hands_its_last_lines_over() {
    let mut proxy = Proxy::start().await;
    let (addr, _) = named("hello").await;
    let _c = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut follower = Follower::connect(&proxy).await;
    // Without anything to fetch it would not be known that it is there.
    proxy.get("blue.localhost").await;
    follower.lines(1).await;
    proxy.get("blue.localhost").await;
    proxy.begin_shutdown();
    assert_eq!(follower.lines(1).await.len(), 1);
    proxy.finish().await;
}

#[tokio::test]
async fn counters_tell_releases_apart_and_go_with_the_app() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("hello").await;
    let mut controller = proxy.with_table(vec![serving("blue", addr)]).await;
    proxy.get("blue.localhost").await;
    let mut next = target("blue-2", addr, Role::Serve);
    next.release = 2;
    controller.route(app("blue", WebState::Serving, vec![next])).await;
    proxy.get("blue.localhost").await;
    proxy.get("blue.localhost").await;
    soon("the counters", async {
        loop {
            let of_blue = traffic(&proxy).await.pop().unwrap();
            let found: Vec<_> =
                of_blue.releases.iter().map(|r| (r.release, r.statuses[1])).collect();
            if found == [(Some(1), 1), (Some(2), 2)] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let app = "blue".parse().unwrap();
    controller.send(&ToProxy::Forget { generation: 3, app }).await;
    controller.until_applied(3).await;
    assert_eq!(traffic(&proxy).await, []);
}

#[tokio::test]
async fn streams_of_http_2_are_seen_as_requests_are() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("hello").await;
    let crashed = app("blue", WebState::Crashed, vec![]);
    let mut controller = proxy.with_table(vec![serving("blue", addr)]).await;
    let mut follower = Follower::connect(&proxy).await;
    let mut client = crate::http2::connect(&proxy).await;
    let body = http_body_util::Full::new(bytes::Bytes::from("four"));
    let post = http::Request::post("http://blue.localhost/a?b").body(body.clone()).unwrap();
    let (status, _, text) = crate::http2::text(client.send_request(post).await.unwrap()).await;
    assert_eq!((status, text.as_str()), (200, "hello"));
    let lines = follower.lines(1).await;
    assert!(
        lines[0].starts_with("at=info method=POST path=\"/a\" host=blue.localhost "),
        "{lines:?}"
    );
    assert!(lines[0].contains(" process=web.1 "), "{lines:?}");
    assert!(lines[0].ends_with(" status=200 bytes=5 protocol=http"), "{lines:?}");

    controller.route(crashed).await;
    let again = http::Request::get("http://blue.localhost/").body(body).unwrap();
    let (status, ..) = crate::http2::text(client.send_request(again).await.unwrap()).await;
    assert_eq!(status, 503);
    let lines = follower.lines(1).await;
    assert!(lines[0].starts_with("at=error code=H10 "), "{lines:?}");
    let of_release = traffic(&proxy).await[0].releases.pop().unwrap();
    assert_eq!((of_release.bytes_in, of_release.bytes_out), (4, 5));
    let metrics = parse(&scrape(&proxy, "GET /metrics HTTP/1.1").await.body);
    assert_eq!(metrics["mini_proxy_requests_by_version_total{version=\"2\"}"], 2.0);
}

/// Every sample of a text in Prometheus' format, by name and labels; panics if it is none.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut types = BTreeMap::new();
    let mut samples = BTreeMap::new();
    assert!(text.ends_with('\n'), "the last line ends");
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["TYPE", name, kind] => {
                    assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                    assert!(types.insert(name.to_owned(), kind).is_none(), "twice: {line}");
                }
                ["HELP", _, help] => assert!(!help.is_empty()),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
        let suffixes = ["_bucket", "_sum", "_count"];
        let family = suffixes.iter().find_map(|s| {
            let family = name.strip_suffix(s)?;
            (types.get(family) == Some(&"histogram")).then_some(family)
        });
        assert!(types.contains_key(family.unwrap_or(name)), "without a type: {line}");
        if let Some(labels) = series.strip_prefix(name).filter(|l| !l.is_empty()) {
            let labels = labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
            for label in labels.split("\",") {
                let (name, value) = label.split_once("=\"").unwrap();
                assert!(name.bytes().all(|b| b.is_ascii_lowercase()), "{line}");
                assert!(!value.trim_end_matches('"').contains(['"', '\\']), "{line}");
            }
        }
        let value = value.parse().unwrap();
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }
    samples
}

#[tokio::test]
async fn a_scraper_can_read_everything() {
    let proxy = Proxy::start().await;
    let (addr, _) = named("hello").await;
    let crashed = app("red", WebState::Crashed, vec![]);
    let _c = proxy.with_table(vec![serving("blue", addr), crashed]).await;
    let mut follower = Follower::connect(&proxy).await;
    let mut client = proxy.client().await;
    for _ in 0..5 {
        client.get("blue.localhost", "/").await;
    }
    follower.lines(5).await;
    drop(follower);
    proxy.get("red.localhost").await;
    proxy.get("unknown.localhost").await;

    let answer = scrape(&proxy, "GET /metrics HTTP/1.1").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    let samples = parse(&answer.body);
    let blue = "app=\"blue\",release=\"v1\"";
    assert_eq!(samples[&format!("mini_requests_total{{{blue},status=\"2xx\"}}")], 5.0);
    assert_eq!(samples[&format!("mini_response_bytes_total{{{blue}}}")], 25.0);
    let red = "app=\"red\",release=\"\"";
    assert_eq!(samples[&format!("mini_request_errors_total{{{red},code=\"H10\"}}")], 1.0);
    assert_eq!(samples["mini_proxy_unrouted_requests_total"], 1.0);
    assert_eq!(samples["mini_proxy_requests_by_version_total{version=\"1.1\"}"], 7.0);
    let in_flight =
        format!("mini_instance_requests_in_flight{{{blue},process=\"web.1\",instance=\"blue-1\"}}");
    assert_eq!(samples[&in_flight], 0.0);
    // The buckets rise, and end with all.
    let bound =
        |le: &str| samples[&format!("mini_request_duration_seconds_bucket{{{blue},le=\"{le}\"}}")];
    let bounds = ["0.001", "0.002", "0.004", "1.024", "65.536", "+Inf"].map(bound);
    assert!(bounds.is_sorted(), "{bounds:?}");
    assert_eq!(bounds[5], 5.0);
    assert_eq!(samples[&format!("mini_request_duration_seconds_count{{{blue}}}")], 5.0);
    let sum = samples[&format!("mini_request_duration_seconds_sum{{{blue}}}")];
    assert!(sum > 0.0 && sum < 60.0, "{sum}");

    assert_eq!(scrape(&proxy, "GET / HTTP/1.1").await.status, 404);
    assert_eq!(scrape(&proxy, "POST /metrics HTTP/1.1").await.status, 405);
}

#[tokio::test]
async fn the_metrics_are_on_a_port_only_if_one_was_named() {
    let addr = nowhere().await;
    let proxy = Proxy::start_with(|config| config.metrics_listen = Some(addr)).await;
    soon("the port", async {
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut client =
        Client { stream: tokio::net::TcpStream::connect(addr).await.unwrap(), buf: vec![] };
    let answer = client.get("localhost", "/metrics").await;
    assert_eq!(answer.status, 200);
    parse(&answer.body);
    use std::os::unix::fs::PermissionsExt;
    let socket = std::fs::metadata(proxy.dir.path().join("metrics.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}
