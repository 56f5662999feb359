use super::*;

fn app() -> AppName {
    "blue".parse().unwrap()
}

fn record(n: i64, process: &str, text: &str) -> Record {
    Record {
        at_nanos: n,
        source: "app".into(),
        process: process.into(),
        instance: "abc".into(),
        text: text.into(),
    }
}

fn texts(records: &[(u64, Record)]) -> Vec<&str> {
    records.iter().map(|(_, r)| r.text.as_str()).collect()
}

#[tokio::test]
async fn lines_come_back_in_order_and_resume_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::open(folder.path().into(), BUDGET_BYTES).unwrap();
    for n in 0..5000 {
        let process = if n % 2 == 0 { "web.1" } else { "worker.1" };
        logs.append(&app(), record(n, process, &format!("line {n} {}", "x".repeat(30)))).await;
    }
    logs.flush().await;
    let reader = logs.reader(&app());
    let end = reader.end().unwrap();
    assert_eq!(*logs.end(&app()).borrow(), end);
    let last = reader.last(3, &Filter::default(), end).unwrap();
    assert_eq!(last.iter().map(|(_, r)| r.at_nanos).collect::<Vec<_>>(), [4997, 4998, 4999]);
    assert_eq!(last[2].0, end);
    let all = reader.last(usize::MAX, &Filter::default(), end).unwrap();
    assert_eq!(all.len(), 5000);
    let web = Filter { process: Some("web".into()), ..Filter::default() };
    assert_eq!(reader.last(2, &web, end).unwrap()[0].1.at_nanos, 4996);
    // Forwards from a number: exactly what comes after it.
    let (mut at, mut seen) = (all[99].0, 100);
    while at < end {
        let page = reader.after(at, &Filter::default()).unwrap();
        assert_eq!(page.missed, 0);
        for (_, record) in page.records {
            assert_eq!(record.at_nanos, seen);
            seen += 1;
        }
        at = page.next;
    }
    assert_eq!(seen, 5000);
    assert_eq!(logs.last_of(&app(), &"abc".parse().unwrap()), Some(4999));
    assert_eq!(logs.last_of(&app(), &"def".parse().unwrap()), None);
}

#[tokio::test]
async fn the_budget_holds_and_what_fell_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::open(folder.path().into(), 10_000).unwrap();
    for n in 0..1000 {
        logs.append(&app(), record(n, "web.1", &"y".repeat(80))).await;
        logs.flush().await;
    }
    let files = std::fs::read_dir(folder.path().join("blue")).unwrap();
    let size: u64 = files.map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 11_100, "{size}");
    let page = logs.reader(&app()).after(0, &Filter::default()).unwrap();
    assert!(page.missed > 80_000 && !page.records.is_empty());
}

#[tokio::test]
async fn a_cut_record_spoils_only_itself_and_binary_is_made_printable() {
    let folder = tempfile::tempdir().unwrap();
    {
        let logs = Logs::open(folder.path().into(), BUDGET_BYTES).unwrap();
        logs.append(&app(), record(1, "web.1", "whole")).await;
        logs.flush().await;
    }
    let path = folder.path().join("blue").join(format!("{:020}.log", 0));
    let mut text = std::fs::read(&path).unwrap();
    text.extend_from_slice(b"2\tapp\tweb");
    std::fs::write(&path, text).unwrap();
    let logs = Logs::open(folder.path().into(), BUDGET_BYTES).unwrap();
    let id = "abc".parse().unwrap();
    logs.append(&app(), Record::of_app(3, "web.1".into(), &id, b"bell \x07 \xff tab\t end\r"))
        .await;
    logs.append(&app(), record(4, "web.1", &"z".repeat(20_000))).await;
    logs.flush().await;
    let reader = logs.reader(&app());
    let last = reader.last(10, &Filter::default(), reader.end().unwrap()).unwrap();
    assert_eq!(texts(&last)[..2], ["whole", "bell \\u{7} \u{fffd} tab\t end"]);
    assert_eq!(last[2].1.text.len(), record::MAX_TEXT);
    logs.remove(&app()).await;
    assert!(!folder.path().join("blue").exists());
}

#[tokio::test]
async fn a_silent_instance_is_known_to_be_kept_as_far_back_as_was_looked() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::open(folder.path().into(), BUDGET_BYTES).unwrap();
    let silent = Record { instance: "silent".into(), ..record(1, "web.1", "once") };
    logs.append(&app(), silent).await;
    for n in 2..3000 {
        logs.append(&app(), record(n, "web.2", &"x".repeat(100))).await;
    }
    logs.flush().await;
    let reader = logs.reader(&app());
    assert_eq!(reader.last_of("silent", u64::MAX), Some(1));
    // Its line is too far back; to read all of it again would repeat that line.
    let known = reader.last_of("silent", 100_000).unwrap();
    assert!((2..3000).contains(&known), "{known}");
    assert_eq!(reader.last_of("new", u64::MAX), None);
}

#[tokio::test]
async fn the_place_of_the_last_lines_is_found_for_every_filter() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::open(folder.path().into(), BUDGET_BYTES).unwrap();
    for n in 0..3000 {
        let process = if n % 3 == 0 { "web.1" } else { "worker.1" };
        logs.append(&app(), record(n, process, &"x".repeat(50))).await;
    }
    logs.flush().await;
    let reader = logs.reader(&app());
    let end = reader.end().unwrap();
    let web = Filter { process: Some("web".into()), ..Filter::default() };
    for (filter, count) in [(Filter::default(), 7), (Filter::default(), 9000), (web, 40)] {
        let mut at = reader.before_last(count, &filter, end).unwrap();
        let mut forwards = Vec::new();
        while at < end {
            let page = reader.after(at, &filter).unwrap();
            assert_eq!(page.missed, 0);
            (at, forwards) = (page.next, [forwards, page.records].concat());
        }
        assert_eq!(forwards, reader.last(count, &filter, end).unwrap());
    }
    assert_eq!(reader.before_last(0, &Filter::default(), end).unwrap(), end);
}
