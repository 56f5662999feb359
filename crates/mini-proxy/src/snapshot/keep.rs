//! When the snapshot is written: behind the memory, and changes that come while a write runs share the next
//! one. A change costs a line; the whole table is written when the lines are longer than it, and not more
//! often than its cost allows.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mini_core::name::AppName;
use mini_core::route::AppRoute;
use tokio::sync::watch;

use super::{Edit, Image, Snapshot, What};
use crate::shared::{Shared, lock};
use crate::table::{App, Table};

/// After the whole table was written, so many times the CPU time that it took pass before it is written
/// again: half a percent of a core at most. With 10,000 apps that is some seconds.
const PAUSE: u32 = 200;
/// Changes that wait to be written, where the disk takes none; more are the whole table.
const MAX_EDITS: usize = 1000;
/// Bytes of changes that are not worth a whole table.
const SMALL: usize = 64 << 10;
const AGAIN: Duration = Duration::from_secs(1);

/// What is not on disk yet.
pub(crate) struct Unsaved {
    edits: Mutex<Edits>,
    told: watch::Sender<()>,
}

enum Edits {
    /// In their order.
    Some(Vec<(u64, Changed)>),
    /// Too much of it has changed, or it is not known what.
    All,
}

pub(crate) enum Changed {
    App(Arc<App>),
    Forget(AppName),
}

impl Unsaved {
    pub(crate) fn new() -> Self {
        Self { edits: Mutex::new(Edits::Some(Vec::new())), told: watch::Sender::new(()) }
    }

    /// Notes what generation `generation` of the table changed; `None`: any of it.
    pub(crate) fn add(&self, generation: u64, changed: Option<Changed>) {
        let mut edits = lock(&self.edits);
        match (&mut *edits, changed) {
            (Edits::Some(list), Some(changed)) if list.len() < MAX_EDITS => {
                list.push((generation, changed));
            }
            (other, _) => *other = Edits::All,
        }
        drop(edits);
        self.told.send_replace(());
    }

    fn take(&self) -> Edits {
        std::mem::replace(&mut *lock(&self.edits), Edits::Some(Vec::new()))
    }
}

/// The file, as the writing thread has it.
struct Writer {
    path: PathBuf,
    boot_id: String,
    /// `None`: it has to be written anew.
    snapshot: Option<Snapshot>,
    /// When the whole table may be written again.
    whole_from: Instant,
}

impl Writer {
    /// Brings the file to `table`, or to the last of `edits`; answers with the generation that it has then.
    fn save(&mut self, table: &Table, edits: Edits) -> io::Result<u64> {
        if let (Edits::Some(list), Some(mut snapshot)) = (edits, self.snapshot.take()) {
            let long = snapshot.behind > snapshot.whole.max(SMALL);
            if !long || Instant::now() < self.whole_from {
                let generation = list.last().map_or(0, |(generation, _)| *generation);
                snapshot.append(&list.iter().map(edit).collect::<Vec<_>>())?;
                self.snapshot = Some(snapshot);
                return Ok(generation);
            }
        }
        let before = cpu_time();
        let mut apps: Vec<&AppRoute> = table.apps.values().map(|app| &app.route).collect();
        apps.sort_by(|a, b| a.app.cmp(&b.app));
        let image = Image { generation: table.generation, boot_id: self.boot_id.clone(), apps };
        self.snapshot = Some(Snapshot::write(&self.path, &image)?);
        self.whole_from = Instant::now() + cpu_time().saturating_sub(before) * PAUSE;
        Ok(table.generation)
    }
}

fn edit((generation, changed): &(u64, Changed)) -> Edit<&AppRoute> {
    let what = match changed {
        Changed::App(app) => What::App(&app.route),
        Changed::Forget(app) => What::Forget(app.clone()),
    };
    Edit { generation: *generation, what }
}

/// What this thread has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Saves the table whenever it is newer than what is on disk, for ever; tells the controller what is durable.
pub(crate) async fn keep(shared: Arc<Shared>, path: PathBuf) {
    let mut wanted = shared.unsaved.told.subscribe();
    let mut failing = false;
    let boot_id = shared.boot_id.clone();
    let shown = path.display().to_string();
    let mut writer = Writer { path, boot_id, snapshot: None, whole_from: Instant::now() };
    loop {
        wanted.mark_unchanged();
        // Before the table is looked at: what is in neither comes with the next turn.
        let mut edits = shared.unsaved.take();
        let table = shared.table.load_full();
        let durable = shared.durable.load(SeqCst);
        if let Edits::Some(list) = &mut edits {
            list.retain(|(generation, _)| *generation > durable);
        }
        let nothing = matches!(&edits, Edits::Some(list) if list.is_empty());
        if table.generation > durable && !nothing {
            let saving = shared.saving.lock().await;
            let saved = tokio::task::spawn_blocking(move || {
                let saved = writer.save(&table, edits);
                (writer, saved)
            });
            // An error: the runtime ends.
            let Ok((back, saved)) = saved.await else { return };
            writer = back;
            if let Ok(generation) = saved {
                shared.durable.fetch_max(generation, SeqCst);
            }
            drop(saving);
            match saved {
                Ok(_) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the snapshot of the routes can be written again");
                    }
                    shared.tell_durable();
                }
                Err(error) => {
                    // Said once: on a full disk this may go on for long.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(%error, path = shown, "the snapshot of the routes cannot be written; trying again");
                    }
                    shared.unsaved.add(0, None);
                    tokio::time::sleep(AGAIN).await;
                }
            }
            continue;
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}
