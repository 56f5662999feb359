//! Backups that the controller makes by itself, and what came of the last one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use mini_controller::{BackupError, BackupLock, Options};
use serde::{Deserialize, Serialize};

use crate::commands::backup;
use crate::settings::Settings;

/// What is named by time begins and ends so; nothing else in the folder is ever removed.
const BEGIN: &str = "mini-";
const END: &str = ".tar.gz";
const STAMP: &str = "%Y%m%dT%H%M%SZ";
/// Where the last result is, in the data folder.
const RESULT: &str = "backup.json";
/// From a backup that failed to the next try, at the longest.
const RETRY: Duration = Duration::from_secs(600);

/// When backups are made, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) folder: PathBuf,
    pub(crate) every: Duration,
    /// How many are kept; at least one.
    pub(crate) keep: usize,
}

/// What came of the last scheduled backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) at: Timestamp,
    pub(crate) file: PathBuf,
    pub(crate) bytes: u64,
    /// Why there is none.
    pub(crate) error: Option<String>,
}

/// A whole number of seconds, minutes, hours or days: `90s`, `30m`, `24h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number with s, m, h or d behind it, such as 24h".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    match number.checked_mul(unit) {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

/// What came of the last one; none if there was none, or none that can be read.
pub(crate) fn last(data_dir: &Path) -> Option<Last> {
    serde_json::from_slice(&std::fs::read(data_dir.join(RESULT)).ok()?).ok()
}

/// Makes one whenever the newest in the folder is old enough. Ends with the process.
pub(crate) async fn keep(settings: Settings, schedule: Schedule) {
    loop {
        let newest = made(&schedule.folder).ok().and_then(|all| all.last().map(|(at, _)| *at));
        let age = newest.map(|at| Timestamp::now().as_second().saturating_sub(at.as_second()));
        // A clock that was set back makes the newest one of the future: it is not waited for.
        let age = age.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        let left = age.and_then(|age| schedule.every.checked_sub(age)).unwrap_or_default();
        if !left.is_zero() {
            tokio::time::sleep(left.min(RETRY)).await;
            continue;
        }
        let lock = match BackupLock::take(&settings.data_dir) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => {
                tracing::info!("another backup is being made: the scheduled one is left for later");
                tokio::time::sleep(schedule.every.min(RETRY)).await;
                continue;
            }
            Err(error) => Err(error),
        };
        let done = once(&settings, &schedule, lock).await;
        match &done.error {
            None => tracing::info!(file = %done.file.display(), bytes = done.bytes, "backed up"),
            Some(why) => tracing::error!(%why, "the scheduled backup failed"),
        }
        let failed = done.error.is_some();
        tell(&settings.data_dir, &done);
        if failed {
            tokio::time::sleep(schedule.every.min(RETRY)).await;
        }
    }
}

async fn once(
    settings: &Settings,
    schedule: &Schedule,
    lock: Result<BackupLock, BackupError>,
) -> Last {
    let at = Timestamp::now();
    let file = schedule.folder.join(format!("{BEGIN}{}{END}", at.strftime(STAMP)));
    let options = Options { logs: false, images: false, volumes: true };
    let made = match (std::fs::create_dir_all(&schedule.folder), lock) {
        (Ok(()), Ok(lock)) => {
            backup::make(settings, &file, options, lock).await.map_err(|e| e.to_string())
        }
        (Err(error), _) => Err(format!("{}: {error}", schedule.folder.display())),
        (_, Err(error)) => Err(error.to_string()),
    };
    // Only after a good one: a disk that is full must not eat the last that there are.
    let error = match made {
        Err(why) => Some(why),
        Ok(_) => prune(schedule).err().map(|e| format!("old backups stay: {e}")),
    };
    let bytes = std::fs::metadata(&file).map_or(0, |meta| meta.len());
    Last { at, file, bytes, error }
}

/// The backups in a folder, oldest first.
fn made(folder: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
        let at = stamp.and_then(|stamp| {
            let civil = jiff::civil::DateTime::strptime(STAMP, stamp).ok()?;
            Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
        });
        found.extend(at.map(|at| (at, entry.path())));
    }
    found.sort();
    Ok(found)
}

fn prune(schedule: &Schedule) -> io::Result<()> {
    let all = made(&schedule.folder)?;
    for (_, path) in &all[..all.len().saturating_sub(schedule.keep.max(1))] {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn tell(data_dir: &Path, done: &Last) {
    let (path, new) = (data_dir.join(RESULT), data_dir.join(format!("{RESULT}.new")));
    let text = serde_json::to_vec(done).unwrap_or_default();
    let told = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
    if let Err(error) = told {
        tracing::warn!(%error, "what came of the backup cannot be written down");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let seconds = |text| duration(text).map(|d| d.as_secs());
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("24h"), Ok(86_400));
        assert_eq!(seconds("7d"), Ok(604_800));
        for wrong in ["", "h", "24", "0h", "-1h", "1ä", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_oldest_go_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let day = |n: u32| format!("mini-2026010{n}T000000Z.tar.gz");
        for name in (1..=5).map(day).chain(["mini-x.tar.gz".into(), "other".into()]) {
            std::fs::write(place.path().join(name), "").unwrap();
        }
        let folder = place.path().to_owned();
        prune(&Schedule { folder, every: Duration::from_secs(1), keep: 2 }).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(place.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [day(4), day(5), "mini-x.tar.gz".into(), "other".into()]);
    }
}
