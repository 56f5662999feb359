//! What happens at the points of `mini_core::fault`, in builds for development and tests only.
//!
//! `MINID_FAULTS` names a folder. A file in it that is called like a point arms it: the process
//! that passes the point renames the file to `NAME.hit`, so that it happens once, and sends itself
//! SIGKILL. A number in the file lets that many passes go by first.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

const FAULTS: &str = "MINID_FAULTS";

pub(crate) fn arm() {
    let Some(folder) = std::env::var_os(FAULTS).map(PathBuf::from) else { return };
    let one_at_a_time = Mutex::new(());
    mini_core::fault::arm(move |point| {
        let _alone = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        if is_due(&folder, point) {
            // Nothing is flushed or cleared up: as a crash has it.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    });
}

fn is_due(folder: &Path, point: &str) -> bool {
    let armed = folder.join(point);
    let Ok(passes) = std::fs::read_to_string(&armed) else { return false };
    match passes.trim().parse::<u32>() {
        Ok(left) if left > 0 => {
            let _ = std::fs::write(&armed, (left - 1).to_string());
            false
        }
        _ => std::fs::rename(&armed, folder.join(format!("{point}.hit"))).is_ok(),
    }
}
