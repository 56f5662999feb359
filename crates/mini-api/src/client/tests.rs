use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::{DeploymentStatus, ErrorCode, EventBody};

/// What one connection gets.
enum Does {
    Says(String),
    /// The same, and then nothing more until the test ends.
    SaysAndHangs(String),
    /// Closes without a word.
    Closes,
}

/// A server of raw sockets: one step per connection. Returns the requests' first lines too.
async fn server(steps: Vec<Does>) -> (Endpoint, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for step in steps {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
            }
            let head = String::from_utf8(head).unwrap();
            log.lock().unwrap().push(head.lines().next().unwrap().replace(" HTTP/1.1", ""));
            match step {
                Does::Says(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                Does::SaysAndHangs(text) => {
                    stream.write_all(text.as_bytes()).await.unwrap();
                    open.push(stream);
                }
                Does::Closes => {}
            }
        }
        // Whoever comes now is refused: nobody listens.
        drop(listener);
        std::future::pending::<()>().await;
    });
    (endpoint, seen)
}

fn head(status: &str, more: &str) -> String {
    format!("HTTP/1.1 {status}\r\nmini-api-level: 1\r\n{more}\r\n")
}

fn json(status: &str, body: &str) -> Does {
    Does::Says(format!("{}{body}", head(status, &format!("content-length: {}\r\n", body.len()))))
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

fn stream(lines: &[&str]) -> String {
    let chunks: String = lines.iter().map(|line| chunk(&format!("{line}\n"))).collect();
    head("200 OK", "transfer-encoding: chunked\r\n") + &chunks
}

fn quick(endpoint: Endpoint) -> Client {
    let timing = Timing {
        patience: Duration::from_millis(600),
        answer: Duration::from_secs(5),
        silence: Duration::from_millis(150),
    };
    Client::with(endpoint, None, None, timing, None)
}

const APPS: &str = r#"{"apps":[]}"#;
const AWAY: &str = r#"{"code":"engine_unavailable","message":"the engine is away"}"#;
const AT: &str = r#""at":"2026-11-23T09:00:00Z""#;

#[tokio::test]
async fn what_is_safe_is_repeated_over_losses_and_503() {
    let steps = vec![Does::Closes, json("503 X", AWAY), json("200 OK", APPS)];
    let (endpoint, seen) = server(steps).await;
    assert_eq!(quick(endpoint).apps().await.unwrap().apps, []);
    assert_eq!(*seen.lock().unwrap(), ["GET /v1/apps"; 3]);
}

#[tokio::test]
async fn what_may_have_happened_is_not_repeated() {
    let (endpoint, seen) = server(vec![Does::Closes, json("200 OK", APPS)]).await;
    let error = quick(endpoint).create_app(&NewApp::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { sent: true, .. }), "{error:?}");
    assert_eq!(*seen.lock().unwrap(), ["POST /v1/apps"]);
}

#[tokio::test]
async fn patience_ends_with_the_last_error() {
    let steps = (0..20).map(|_| json("503 X", AWAY)).collect();
    let (endpoint, seen) = server(steps).await;
    let error = quick(endpoint).apps().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::EngineUnavailable));
    let tries = seen.lock().unwrap().len();
    assert!((3..20).contains(&tries), "{tries}");
}

#[tokio::test]
async fn only_a_first_connection_must_work_at_once() {
    let told = Arc::new(Mutex::new(0));
    let (endpoint, _) = server(vec![json("200 OK", APPS)]).await;
    let counter = told.clone();
    let timing = Timing { patience: Duration::from_millis(300), ..Timing::default() };
    let tell = Box::new(move |_: &ClientError| *counter.lock().unwrap() += 1);
    let client = Client::with(endpoint.clone(), None, None, timing.clone(), Some(tell));
    client.apps().await.unwrap();
    let error = client.apps().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { sent: false, .. }), "{error:?}");
    assert_eq!(*told.lock().unwrap(), 1, "an outage is told once");

    let counter = told.clone();
    let tell = Box::new(move |_: &ClientError| *counter.lock().unwrap() += 1);
    let fresh = Client::with(endpoint, None, None, timing, Some(tell));
    fresh.apps().await.unwrap_err();
    assert_eq!(*told.lock().unwrap(), 1, "a first connection is not waited for");
}

#[tokio::test]
async fn a_silent_stream_is_lost_and_resumed_and_repeats_nothing() {
    let building = format!(r#"{{"number":1,{AT},"type":"status","status":"building"}}"#);
    let heartbeat = format!(r#"{{{AT},"type":"heartbeat"}}"#);
    let unknown = format!(r#"{{"number":2,{AT},"type":"from_the_future","x":1}}"#);
    let live = format!(r#"{{"number":3,{AT},"type":"status","status":"live"}}"#);
    let (endpoint, seen) = server(vec![
        Does::SaysAndHangs(stream(&[&building, &heartbeat])),
        // A server that begins too early is not believed.
        Does::SaysAndHangs(stream(&[&building, &unknown, &live])),
    ])
    .await;
    let mut events = quick(endpoint).deployment_events(&"d1".parse().unwrap(), 0);
    let mut bodies = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        bodies.push(event.body);
    }
    let status = |status| EventBody::Status { status };
    let (building, live) = (DeploymentStatus::Building, DeploymentStatus::Live);
    assert_eq!(bodies, [status(building), EventBody::Unknown, status(live)]);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "GET /v1/deployments/d1/events?after=0&follow=true",
            "GET /v1/deployments/d1/events?after=1&follow=true"
        ]
    );
}

#[tokio::test]
async fn answers_that_make_no_sense_are_faults_not_outages() {
    for (said, fault) in [
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "does not answer as HTTP"),
        (head("200 OK", "content-length: 4\r\n") + "nope", "cannot be read"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), "is not a mini server"),
    ] {
        let (endpoint, seen) = server(vec![Does::Says(said)]).await;
        let error = quick(endpoint).apps().await.unwrap_err();
        assert!(error.to_string().contains(fault), "{error}");
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

#[test]
fn queries_are_escaped_and_resume_without_a_count() {
    let mut query = LogQuery {
        n: Some(5),
        follow: true,
        process: Some("web&x=1".into()),
        since: Some("2026-11-23T09:00:00Z".parse().unwrap()),
        ..LogQuery::default()
    };
    assert_eq!(
        query.to_query(),
        "?n=5&since=2026-11-23T09%3A00%3A00Z&follow=true&process=web%26x%3D1"
    );
    query.after = Some(7);
    assert_eq!(query.to_query(), "?after=7&follow=true&process=web%26x%3D1");
    assert_eq!(LogQuery::default().to_query(), "");
}
