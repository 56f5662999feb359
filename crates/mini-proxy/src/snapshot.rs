//! The table on disk, so that the proxy starts alone.
//!
//! One file: a first line `mini-proxy-snapshot 1 BLAKE3-OF-THE-REST`, then one JSON document. It
//! is written behind the memory: temporary file, fsync, rename, fsync of the folder. Changes
//! that come while a write runs share the next one, which does not follow at once if the table is
//! large: a table of 10,000 apps that changes all the time would be written all the time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use mini_core::route::AppRoute;
use serde::{Deserialize, Serialize};

use crate::shared::Shared;

const MAGIC: &str = "mini-proxy-snapshot 1";

/// After a write, so many times the CPU time that it took pass before the next: writing takes 2 % of
/// a core at most. With 10 apps that is a millisecond or two, with 10,000 half a second.
const PAUSE: u32 = 50;

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image<R = AppRoute> {
    pub(crate) generation: u64,
    /// The kernel's boot id at the time of writing, to know a reboot by.
    pub(crate) boot_id: String,
    pub(crate) apps: Vec<R>,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    #[error("its first line is not that of a snapshot")]
    NotASnapshot,
    #[error("its checksum does not match")]
    Checksum,
    #[error("it is not what this version writes")]
    Json(#[source] serde_json::Error),
}

/// Reads the snapshot; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Image>, Unusable> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Unusable::Io(e)),
    };
    let end = bytes.iter().position(|b| *b == b'\n').ok_or(Unusable::NotASnapshot)?;
    let (first, body) = (&bytes[..end], &bytes[end + 1..]);
    let sum = std::str::from_utf8(first).ok().and_then(|l| l.strip_prefix(MAGIC));
    let sum = sum.ok_or(Unusable::NotASnapshot)?.trim();
    if sum != blake3::hash(body).to_hex().as_str() {
        return Err(Unusable::Checksum);
    }
    serde_json::from_slice(body).map(Some).map_err(Unusable::Json)
}

/// Writes the snapshot; once this returns it survives a power cut.
pub(crate) fn write<R: Serialize>(path: &Path, image: &Image<R>) -> io::Result<()> {
    let body = serde_json::to_vec(image).map_err(io::Error::other)?;
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{MAGIC} {}", blake3::hash(&body).to_hex())?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// What this thread has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Saves the table whenever it is newer than what is on disk, for ever; tells the controller what is durable.
pub(crate) async fn keep(shared: Arc<Shared>, path: PathBuf) {
    let mut wanted = shared.to_save.subscribe();
    let mut failing = false;
    loop {
        wanted.mark_unchanged();
        let table = shared.table.load_full();
        let generation = table.generation;
        if generation > shared.durable.load(SeqCst) {
            let (file, boot_id) = (path.clone(), shared.boot_id.clone());
            let save = move || {
                let mut apps: Vec<&AppRoute> = table.apps.values().map(|a| &a.route).collect();
                apps.sort_by(|a, b| a.app.cmp(&b.app));
                let before = cpu_time();
                write(&file, &Image { generation, boot_id, apps })?;
                Ok::<_, io::Error>(cpu_time().saturating_sub(before))
            };
            let saving = shared.saving.lock().await;
            let saved = tokio::task::spawn_blocking(save).await;
            if let Ok(Ok(_)) = saved {
                shared.durable.store(generation, SeqCst);
            }
            drop(saving);
            match saved {
                Ok(Ok(took)) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the snapshot of the routes can be written again");
                    }
                    shared.tell_durable();
                    tokio::time::sleep(took * PAUSE).await;
                }
                Ok(Err(error)) => {
                    // Said once: on a full disk this may go on for long.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, path = %path.display(), "the snapshot of the routes cannot be written; trying again");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.snapshot");
        assert!(read(&path).unwrap().is_none());
        let image: Image = Image { generation: 7, boot_id: "b".into(), apps: Vec::new() };
        write(&path, &image).unwrap();
        assert_eq!(read(&path).unwrap(), Some(image));

        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "byte {at} was flipped unseen");
            fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at} unseen");
        }
    }
}
