use std::sync::Arc;

use super::*;
use crate::table::Lasting;

fn lasting() -> Lasting {
    Lasting::new(&"blue".parse().unwrap())
}

fn target(lasting: &Lasting, release: u32) -> TargetState {
    let spec = mini_core::route::Target {
        instance: "i1".parse().unwrap(),
        started: mini_core::time::Millis(1),
        addr: ([127, 0, 0, 1], 1).into(),
        process: "web.1".into(),
        release,
        role: mini_core::route::Role::Serve,
    };
    TargetState::new(lasting, spec, true)
}

fn request<'a>(to: To<'a>, path: &'a [u8]) -> Finished<'a> {
    let begun = Instant::now();
    Finished {
        to,
        error: None,
        method: "GET",
        path,
        host: b"blue.localhost:8080",
        request_id: b"5f0c1f3c9d1b4a7d8e6f2a3b4c5d6e7f",
        fwd: b"192.0.2.7",
        https: true,
        version: Version::HTTP_11,
        status: 200,
        bytes_in: 0,
        bytes_out: 512,
        begun,
        connect: Duration::from_micros(1200),
        ended: begun + Duration::from_micros(9300),
        retried: false,
    }
}

/// What lies in the buffers, as text.
fn lines(seen: &Seen) -> String {
    let mut text = String::new();
    while let Some(batch) = seen.backlog.take() {
        text.push_str(&String::from_utf8(batch.chunks.concat()).unwrap());
        seen.backlog.kept();
    }
    text
}

/// The text of the only line.
fn line(seen: &Seen) -> String {
    let all = lines(seen);
    let fields: Vec<&str> = all.strip_suffix('\n').unwrap().splitn(3, '\t').collect();
    assert_eq!(fields[0], "blue");
    let at: u64 = fields[1].parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    assert!(now.abs_diff(u128::from(at)) < 5_000_000_000, "{at} is not about {now}");
    assert!(!fields[2].contains(['\n', '\t', '\r']));
    fields[2].to_owned()
}

#[test]
fn a_line_has_the_contracts_form() {
    let (seen, lasting) = (Seen::new(), lasting());
    let target = target(&lasting, 3);
    seen.finished(&request(To::Target(&target), b"/a?secret=1"));
    assert_eq!(
        line(&seen),
        "at=info method=GET path=\"/a\" host=blue.localhost:8080 \
         request_id=5f0c1f3c9d1b4a7d8e6f2a3b4c5d6e7f fwd=\"192.0.2.7\" process=web.1 connect=1ms \
         service=8ms status=200 bytes=512 protocol=https"
    );
    lasting.seen.set_log_query(true);
    let mut failed = request(To::Target(&target), b"/a?page=1");
    (failed.error, failed.status, failed.https) = (Some(Code::H12), 504, false);
    seen.finished(&failed);
    let line = line(&seen);
    assert!(
        line.starts_with("at=error code=H12 desc=\"App too slow\" method=GET path=\"/a?page=1\" "),
        "{line}"
    );
    assert!(line.ends_with(" status=504 bytes=512 protocol=http"), "{line}");
}

#[test]
fn a_client_cannot_forge_a_line_or_a_value() {
    let (seen, lasting) = (Seen::new(), lasting());
    let target = target(&lasting, 3);
    let mut hostile =
        request(To::Target(&target), b"/\" status=200 x=\"\\\r\n\t\x1b[2J\xff\xc3\xa4");
    hostile.host = b"a b=c\"\n";
    hostile.fwd = b"1\" process=web.2";
    hostile.request_id = b"x y";
    hostile.method = "G\tT";
    seen.finished(&hostile);
    let line = line(&seen);
    assert!(line.is_ascii(), "{line}");
    assert!(
        line.starts_with(
            r#"at=info method=G\x09T path="/\" status=200 x=\"\\\x0d\x0a\x09\x1b[2J\xff\xc3\xa4" "#
        ),
        "{line}"
    );
    assert!(
        line.contains(
            r#" host=a\x20b\x3dc\"\x0a request_id=x\x20y fwd="1\" process=web.2" process=web.1 "#
        ),
        "{line}"
    );
}

#[test]
fn the_longest_line_fits_into_the_log() {
    let (seen, lasting) = (Seen::new(), lasting());
    lasting.seen.set_log_query(true);
    let target = target(&lasting, u32::MAX);
    let long = [0xff; 5000];
    let mut hostile = request(To::Target(&target), &long);
    (hostile.host, hostile.fwd, hostile.request_id) = (&long, &long, &long);
    (hostile.error, hostile.bytes_out) = (Some(Code::H26("…")), u64::MAX);
    let method = "\u{1}".repeat(5000);
    hostile.method = &method;
    seen.finished(&hostile);
    let line = line(&seen);
    assert!(line.len() < 9_900, "{}", line.len());
    assert!(line.contains("\\xff...\""), "what was cut is marked");
    assert!(line.ends_with(" protocol=https"));
}

#[test]
fn each_release_is_counted_apart() {
    let (seen, lasting) = (Seen::new(), lasting());
    let (old, new) = (target(&lasting, 12), target(&lasting, 13));
    for status in [200, 204, 404, 503] {
        let mut request = request(To::Target(&new), b"/");
        (request.status, request.bytes_in) = (status, 10);
        request.error = (status == 503).then_some(Code::H13);
        request.retried = status == 204;
        seen.finished(&request);
    }
    seen.finished(&request(To::Target(&old), b"/"));
    let mut none = request(To::App(&lasting.seen), b"/");
    (none.status, none.error) = (503, Some(Code::H10));
    seen.finished(&none);
    seen.finished(&none);

    let traffic = lasting.seen.traffic();
    let releases: Vec<_> = traffic.iter().map(|t| (t.release, t.statuses)).collect();
    assert_eq!(
        releases,
        [
            (None, [0, 0, 0, 0, 2, 0]),
            (Some(12), [0, 1, 0, 0, 0, 0]),
            (Some(13), [0, 2, 0, 1, 1, 0])
        ]
    );
    assert_eq!(traffic[0].errors, [("H10".to_owned(), 2)]);
    let new = &traffic[2];
    assert_eq!((new.bytes_in, new.bytes_out, new.retried), (40, 2048, 1));
    assert_eq!((new.took_us, new.latency.total()), (4 * 9300, 4));
    assert_eq!(new.errors, [("H13".to_owned(), 1)]);
    let p50 = new.latency.quantile_ms(0.5).unwrap();
    assert!((8.4..10.2).contains(&p50), "{p50}");
}

#[test]
fn of_many_releases_the_newest_are_kept() {
    let (seen, lasting) = (Seen::new(), lasting());
    for release in 1..=9 {
        seen.finished(&request(To::Target(&target(&lasting, release)), b"/"));
    }
    let kept: Vec<_> = lasting.seen.traffic().iter().map(|t| t.release).collect();
    assert_eq!(kept, [Some(5), Some(6), Some(7), Some(8), Some(9)]);
    // A rollout's targets are made anew with every table that changes them.
    seen.finished(&request(To::Target(&target(&lasting, 9)), b"/"));
    assert_eq!(lasting.seen.traffic()[4].statuses[1], 2);
}

#[test]
fn what_is_for_no_app_is_counted_and_in_no_log() {
    let seen = Seen::new();
    seen.finished(&request(To::Nobody, b"/"));
    seen.finished(&request(To::Door, b"/"));
    let counted = (seen.sum(|w| &w.nobody), seen.sum(|w| &w.door), seen.sum(|w| &w.versions[1]));
    assert_eq!(counted, (1, 1, 2));
    assert!(lines(&seen).is_empty() && seen.backlog.is_empty());
}

#[test]
fn lines_wait_within_bounds_and_the_oldest_go() {
    let (seen, lasting) = (Seen::new(), lasting());
    let target = target(&lasting, 1);
    let written = 100_000;
    for n in 0..written {
        let path = format!("/{n}");
        seen.finished(&request(To::Target(&target), path.as_bytes()));
    }
    assert!(!seen.backlog.is_empty());
    let (mut told, mut found, mut bytes) = (0, Vec::new(), 0);
    while let Some(batch) = seen.backlog.take() {
        told += batch.lost.values().sum::<u64>();
        bytes += batch.bytes();
        let text = String::from_utf8(batch.chunks.concat()).unwrap();
        let number = |line: &str| -> u64 {
            let path = line.split("path=\"/").nth(1).unwrap();
            path.split('"').next().unwrap().parse().unwrap()
        };
        found.extend(text.lines().map(number));
        seen.backlog.kept();
    }
    assert!(bytes <= (8 << 20) + (64 << 10), "{bytes}");
    assert!(told > 0 && seen.backlog.lost() == told);
    let kept: Vec<u64> = (told..written).collect();
    assert_eq!(found, kept, "the newest are there, in order");
    assert!(seen.backlog.is_empty());
}

#[tokio::test]
async fn what_was_not_kept_is_fetched_again_first() {
    let (seen, lasting) = (Seen::new(), lasting());
    let target = target(&lasting, 1);
    seen.finished(&request(To::Target(&target), b"/first"));
    let batch = seen.backlog.next().await;
    seen.finished(&request(To::Target(&target), b"/second"));
    assert!(!seen.backlog.is_empty());
    seen.backlog.put_back(batch);
    let batch = seen.backlog.next().await;
    let text = String::from_utf8(batch.chunks.concat()).unwrap();
    let (first, second) = (text.find("/first").unwrap(), text.find("/second").unwrap());
    assert!(first < second, "{text}");
    assert!(!seen.backlog.is_empty(), "it is not known to be kept");
    seen.backlog.kept();
    assert!(seen.backlog.is_empty());
}

/// Threads that write beside one that fetches lose nothing, and nobody waits.
#[test]
fn threads_do_not_disturb_each_other() {
    let (seen, lasting) = (Arc::new(Seen::new()), lasting());
    let target = Arc::new(target(&lasting, 1));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (seen, target) = (Arc::clone(&seen), Arc::clone(&target));
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    seen.finished(&request(To::Target(&target), b"/"));
                }
            })
        })
        .collect();
    let mut found = 0;
    while threads.iter().any(|t| !t.is_finished()) {
        found += lines(&seen).lines().count();
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    found += lines(&seen).lines().count();
    assert_eq!(found, 8000);
    assert_eq!(lasting.seen.traffic()[0].statuses[1], 8000);
}

/// What a request pays for being seen: the best of many short rounds, since others use the machine
/// too. The bound is for a build without optimisation; `--release -- --nocapture` shows the figure.
#[test]
fn it_costs_little() {
    let (seen, lasting) = (Seen::new(), lasting());
    let target = target(&lasting, 1);
    let path = b"/articles/2026/11/the-front-door?utm_source=newsletter";
    let (rounds, each) = (100, 300);
    let cost = |round: &mut dyn FnMut()| {
        let mut best = Duration::MAX;
        for _ in 0..rounds {
            let begun = Instant::now();
            round();
            best = best.min(begun.elapsed());
            lines(&seen);
        }
        best.as_secs_f64() * 1e6 / f64::from(each)
    };
    let us = cost(&mut || {
        for _ in 0..each {
            seen.finished(&request(To::Target(&target), path));
        }
    });
    let clock = cost(&mut || {
        for _ in 0..each {
            std::hint::black_box(request(To::Target(&target), path));
        }
    });
    let text = format!("{us:.3} µs a request, {clock:.3} µs of that the clock\n");
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    assert!(us < 50.0, "{us} µs");
}
