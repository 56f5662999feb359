//! What was found, in words.

use mini_core::cause::size;

use super::{Process, ProcessState, Status};

/// Below this builds and deploys fail soon.
const LOW_DISK: u64 = 256 << 20;
const DOWN_NAMED: usize = 20;

/// What is down or about to be.
pub(super) fn faults(status: &Status) -> Vec<String> {
    let mut faults = Vec::new();
    for process in &status.processes {
        match process.state {
            ProcessState::Up => {}
            ProcessState::Silent => faults.push(format!("the {} does not answer", process.name)),
            ProcessState::Down => faults.push(format!("the {} does not run", process.name)),
        }
    }
    if let (false, why) = (status.engine.reachable, &status.engine.error) {
        faults.push(format!("the engine: {}", why.as_deref().unwrap_or("it does not answer")));
    }
    for disk in &status.disks {
        if disk.free_bytes.is_some_and(|free| free < LOW_DISK) {
            faults.push(format!("the disk of {} is full or nearly so", disk.what));
        }
    }
    if !status.store.readable || !status.store.writable {
        let what = if status.store.readable { "written" } else { "read" };
        let why = status.store.error.as_deref().unwrap_or("it is not said why");
        faults.push(format!("the store cannot be {what}: {why}"));
    }
    faults
        .extend(status.apps.down.iter().map(|down| format!("{} is down: {}", down.app, down.why)));
    if let Some(why) = status.backup.as_ref().and_then(|last| last.error.as_ref()) {
        faults.push(format!("the last scheduled backup failed: {why}"));
    }
    if let Some(to) = &status.upgrade_cut_off {
        faults.push(format!(
            "an upgrade to {to} was cut off: `minid upgrade --back` takes it back, as the next boot does"
        ));
    }
    // What the controller sees and we do not, such as a write that failed.
    for problem in &status.problems {
        let known = (problem.starts_with("the engine") && !status.engine.reachable)
            || (problem.contains("cannot be written") && !status.store.writable);
        if !known {
            faults.push(problem.clone());
        }
    }
    faults
}

pub(super) fn lines(status: &Status) -> Vec<String> {
    let mut lines: Vec<String> = status.processes.iter().map(process).collect();
    if let Some(proxy) = &status.proxy {
        lines.push(entry(
            "",
            &format!(
                "routes: generation {}, {} on disk, {} apps; {} requests so far, {} in flight, {} cut; {} connections, {} refused",
                proxy.generation,
                proxy.durable,
                proxy.apps,
                proxy.requests,
                proxy.in_flight,
                proxy.cut,
                proxy.connections,
                proxy.refused
            ),
        ));
    }
    if let Some(fingerprint) = &status.fingerprint {
        lines.push(entry(
            "https",
            &format!("its own certificate has the fingerprint {fingerprint}"),
        ));
    }
    let engine = &status.engine;
    lines.push(entry(
        "engine",
        &match (engine.reachable, &engine.error) {
            (true, None) => format!(
                "{} (API {}); of this server {} instances run and {} have exited",
                engine.version.as_deref().unwrap_or("?"),
                engine.api_version.as_deref().unwrap_or("?"),
                engine.running,
                engine.exited
            ),
            (_, why) => format!("AWAY: {}", why.as_deref().unwrap_or("it does not answer")),
        },
    ));
    for disk in &status.disks {
        let free = disk.free_bytes.map_or_else(|| "?".to_owned(), size);
        let text = format!("{free} free for {} ({})", disk.what, disk.path.display());
        lines.push(entry("disk", &text));
    }
    let store = &status.store;
    let schema = store.schema.map_or_else(String::new, |schema| format!("schema {schema}, "));
    lines.push(entry(
        "store",
        &match (&store.error, store.readable) {
            (None, _) => format!("{schema}can be read and written"),
            (Some(why), true) => format!("{schema}can be read, NOT WRITTEN: {why}"),
            (Some(why), false) => format!("CANNOT BE READ: {why}"),
        },
    ));
    let apps = &status.apps;
    let unknown = match apps.unknown {
        0 => String::new(),
        n => format!(", {n} of them nobody can tell of"),
    };
    lines.push(entry(
        "apps",
        &format!("{}; {} should run, {} down{unknown}", apps.all, apps.wanted, apps.down.len()),
    ));
    for down in apps.down.iter().take(DOWN_NAMED) {
        lines.push(entry("", &format!("DOWN {}: {}", down.app, down.why)));
    }
    if let Some(recovery) = &status.recovery {
        lines.push(entry("came back", &format!("{} ({})", recovery.text, short(recovery.at))));
    }
    if let Some(last) = &status.backup {
        let text = match &last.error {
            None => format!("{}, {} ({})", last.file.display(), size(last.bytes), short(last.at)),
            Some(why) => format!("FAILED {}: {why}", short(last.at)),
        };
        lines.push(entry("backup", &text));
    }
    if !status.last_errors.is_empty() {
        lines.push("last errors".to_owned());
    }
    for trouble in &status.last_errors {
        let times =
            if trouble.times > 1 { format!(" ({} times)", trouble.times) } else { String::new() };
        let details = match trouble.details.as_str() {
            "" => String::new(),
            details => format!(": {details}"),
        };
        lines.push(format!(
            "  {} {} {}: {}{details}{times}",
            short(trouble.at),
            trouble.level,
            trouble.process,
            trouble.message
        ));
    }
    lines.push(String::new());
    match status.faults.as_slice() {
        [] => lines.push("all is well".to_owned()),
        faults => lines.extend(faults.iter().map(|fault| format!("FAULT {fault}"))),
    }
    lines
}

fn process(process: &Process) -> String {
    let pid = process.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
    let mut text = match process.state {
        ProcessState::Down => return entry(process.name, "DOWN: nobody listens at its socket"),
        ProcessState::Up => "up".to_owned(),
        ProcessState::Silent => "DOES NOT ANSWER, there".to_owned(),
    };
    if let Some(seconds) = process.uptime_seconds {
        text.push_str(&format!(" for {}", time(seconds)));
    }
    text.push_str(&format!(", process {pid}"));
    if let Some(version) = &process.version {
        text.push_str(&format!(", version {version}"));
    }
    entry(process.name, &text)
}

fn entry(name: &str, text: &str) -> String {
    format!("{name:<12}{text}")
}

fn short(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

pub(super) fn time(seconds: u64) -> String {
    match seconds {
        ..100 => format!("{seconds} s"),
        100..5400 => format!("{} min", (seconds + 30) / 60),
        5400..129_600 => format!("{} h", (seconds + 1800) / 3600),
        _ => format!("{} d", (seconds + 43_200) / 86_400),
    }
}
