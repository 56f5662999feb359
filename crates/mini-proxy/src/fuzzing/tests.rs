//! The seeds and mutations of them.

use mini_core::testing::hostile::{run, seeds};

use super::*;

#[test]
fn requests_hold() {
    run("requests", 20_000, requests);
}

#[test]
fn responses_hold() {
    run("responses", 10_000, responses);
}

#[test]
fn chunked_bodies_hold() {
    run("chunked", 20_000, chunked);
}

#[test]
fn hosts_hold() {
    run("host", 20_000, host);
}

#[test]
fn headers_of_the_proxy_protocol_hold() {
    run("proxy_header", 10_000, proxy_header);
}

#[test]
fn control_documents_hold() {
    run("control", 5_000, control);
}

/// The names of the seeds say what becomes of them: `ok-…` is sent on whole, `bad-…` is refused,
/// `cut-…` waits for more.
#[test]
fn the_names_of_the_seeds_are_true() {
    let mut read = 0;
    for (name, bytes) in seeds("requests") {
        let reading = read_requests(&bytes, &[bytes.len()]);
        let all: usize = reading.messages.iter().map(|m| m.used).sum();
        match name.split_once('-').unwrap().0 {
            "ok" => assert_eq!((reading.refused, all), (None, bytes.len()), "{name}"),
            "bad" => assert!(reading.refused.is_some(), "{name}"),
            "cut" => assert!(reading.refused.is_none() && all < bytes.len(), "{name}"),
            other => panic!("{other}: {name}"),
        }
        read += 1;
    }
    assert!(read > 30, "{read}");
}

#[test]
fn the_second_reader_can_refuse() {
    let whole =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(strict::requests(whole).unwrap().len(), 1);
    for bad in [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    ] {
        assert!(strict::requests(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(strict::responses(b"HTTP/1.1 200 OK\r\n\r\nhello", false).is_err());
}

/// The same for documents: what a file's name says is what it is.
#[test]
fn the_seeds_of_control_documents_are_what_they_say() {
    for (name, bytes) in seeds("control") {
        let text = String::from_utf8(bytes).unwrap();
        match name.split_once('-').unwrap().0 {
            "to" => assert!(serde_json::from_str::<ToProxy>(&text).is_ok(), "{name}"),
            "from" => assert!(serde_json::from_str::<FromProxy>(&text).is_ok(), "{name}"),
            _ => {
                assert!(serde_json::from_str::<ToProxy>(&text).is_err(), "{name}");
                assert!(serde_json::from_str::<FromProxy>(&text).is_err(), "{name}");
            }
        }
    }
}
