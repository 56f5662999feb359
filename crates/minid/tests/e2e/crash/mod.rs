//! The controller dies at every fault point, on the real engine, while requests run.

mod cases;
mod operations;
mod proxy;
mod stage;

use std::collections::{BTreeSet, VecDeque};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use self::cases::{CASES, Operation};
use self::stage::Stage;
use crate::platform::project;

/// Platforms at once.
const STAGES: usize = 3;

/// Prints past the test runner, which keeps what a good test says to itself.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The cases of one point, or of all: `MINI_CRASH_POINT=commit` runs those whose name holds it.
fn wanted() -> VecDeque<(&'static str, Operation)> {
    let only = std::env::var("MINI_CRASH_POINT").unwrap_or_default();
    CASES.iter().filter(|(point, _)| point.contains(&only)).copied().collect()
}

#[test]
fn the_controller_dies_at_every_point_and_nothing_is_dropped_stuck_or_left() {
    let queue = Mutex::new(wanted());
    let done = Mutex::new(Vec::new());
    let wrong = Mutex::new(Vec::new());
    let begun = Instant::now();
    let next = || queue.lock().unwrap().pop_front();
    let run = || {
        let mut stage = Stage::new();
        while let Some((point, operation)) = next() {
            let begun = Instant::now();
            let asked = stage.prober.asked();
            let outcome = catch_unwind(AssertUnwindSafe(|| stage.act(point, operation)));
            let failures = stage.prober.failures();
            let told = format!("{point:21} {:18}", format!("{operation:?}"));
            if !failures.is_empty() {
                wrong.lock().unwrap().push(format!("{told} failed requests: {failures:?}"));
            }
            let Ok(outcome) = outcome else {
                wrong.lock().unwrap().push(format!("{told} went wrong, see above"));
                // This platform is in no known state any more.
                drop(std::mem::replace(&mut stage, Stage::new()));
                continue;
            };
            let (asked, ms) = (stage.prober.asked() - asked, begun.elapsed().as_millis());
            let line = format!("{told} {outcome:34.34} {asked:5} {ms:6}");
            done.lock().unwrap().push(line);
        }
        stage.end();
    };
    std::thread::scope(|threads| {
        let all: Vec<_> = (0..STAGES).map(|_| threads.spawn(run)).collect();
        for thread in all {
            if thread.join().is_err() {
                wrong.lock().unwrap().push("a platform left something behind, see above".into());
            }
        }
    });
    let (mut done, wrong) = (done.into_inner().unwrap(), wrong.into_inner().unwrap());
    done.sort();
    let head = format!("{:21} {:18} {:34} {:>5} {:>6}", "DIED AT", "DURING", "END", "ASKED", "MS");
    let seconds = begun.elapsed().as_secs();
    let foot = format!("{} deaths of the controller, {seconds} s", done.len());
    tell(&format!("\n{head}\n{}\n{foot}", done.join("\n")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_fault_point_is_missing_from_the_matrix() {
    let mut in_source = BTreeSet::new();
    for krate in ["mini-controller", "mini-docker", "minid"] {
        collect(&project().join("crates").join(krate).join("src"), &mut in_source);
    }
    let in_matrix: BTreeSet<String> = CASES.iter().map(|(point, _)| (*point).to_owned()).collect();
    assert!(in_source.len() > 30, "the points were not found: {in_source:?}");
    assert_eq!(in_source, in_matrix, "left: the points in the source; right: those in cases.rs");
}

/// The names in `point("…")` of all files in a folder.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, names);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for rest in text.split("fault::point(\"").skip(1) {
            names.extend(rest.split_once("\")").map(|(name, _)| name.to_owned()));
        }
    }
}
