//! The files: `START.log`, named by the offset of their first byte in the app's stream.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mini_core::name::AppName;
use tokio::sync::mpsc;

use super::{Job, MAX_AGE_MS, Shared};
use crate::clock;

/// How many jobs are taken to the disk with one write per app.
const BATCH: usize = 1024;

/// The segments of a folder, oldest first: where each begins, and how long it is.
pub(super) fn segments(folder: &Path) -> io::Result<Vec<(u64, u64, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let start = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".log")?.parse().ok());
        if let Some(start) = start {
            found.push((start, std::fs::metadata(&path)?.len(), path));
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn stream_end(folder: &Path) -> io::Result<u64> {
    Ok(segments(folder)?.last().map_or(0, |(start, length, _)| start + length))
}

struct Open {
    file: File,
    start: u64,
    end: u64,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    budget: u64,
    open: HashMap<AppName, Open>,
    /// Those whose last write failed, so that it is said once.
    failing: HashSet<AppName>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, budget: u64) -> Self {
        Self { shared, budget, open: HashMap::new(), failing: HashSet::new() }
    }

    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
            let mut lines: HashMap<AppName, String> = HashMap::new();
            for job in batch.drain(..) {
                match job {
                    Job::Append(app, record) => {
                        lines.entry(app).or_default().push_str(&record.line())
                    }
                    Job::Router(app, router) => {
                        let text = lines.entry(app).or_default();
                        router.iter().for_each(|line| line.write(text));
                    }
                    Job::Flush(done) => {
                        self.write_all(&mut lines);
                        let _ = done.send(());
                    }
                    Job::Remove(app, done) => {
                        lines.remove(&app);
                        self.remove(&app);
                        let _ = done.send(());
                    }
                    Job::Tidy => self.tidy(),
                }
            }
            self.write_all(&mut lines);
        }
    }

    fn write_all(&mut self, lines: &mut HashMap<AppName, String>) {
        for (app, text) in lines.drain() {
            match self.write(&app, &text) {
                Ok(()) => drop(self.failing.remove(&app)),
                // A full disk costs log lines, never more; the file is opened anew next time.
                Err(error) => {
                    self.open.remove(&app);
                    if self.failing.insert(app.clone()) {
                        tracing::error!(%app, %error, "log lines are lost: they cannot be written");
                    }
                }
            }
        }
    }

    fn write(&mut self, app: &AppName, text: &str) -> io::Result<()> {
        let folder = self.shared.folder.join(app.as_str());
        if !self.open.contains_key(app) {
            self.open.insert(app.clone(), open_last(&folder)?);
        }
        let Some(open) = self.open.get_mut(app) else { return Ok(()) };
        open.file.write_all(text.as_bytes())?;
        open.end += text.len() as u64;
        self.shared.set_end(app, open.end);
        if open.end - open.start >= self.budget / 10 {
            let end = open.end;
            self.open.insert(app.clone(), open_at(&folder, end)?);
            drop_old(&folder, self.budget)?;
        }
        Ok(())
    }

    fn remove(&mut self, app: &AppName) {
        self.open.remove(app);
        self.shared.ends().remove(app);
        let folder = self.shared.folder.join(app.as_str());
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%app, %error, "an app's log could not be removed");
        }
    }

    fn tidy(&mut self) {
        let Ok(apps) = std::fs::read_dir(&self.shared.folder) else { return };
        for folder in apps.flatten() {
            if let Err(error) = drop_old(&folder.path(), self.budget) {
                tracing::error!(folder = %folder.path().display(), %error, "old log lines stay");
            }
        }
    }
}

fn open_last(folder: &Path) -> io::Result<Open> {
    std::fs::create_dir_all(folder)?;
    let Some((start, length, path)) = segments(folder)?.pop() else { return open_at(folder, 0) };
    let mut file = OpenOptions::new().append(true).open(&path)?;
    let mut end = start + length;
    // A crash, or a full disk, may have cut the last record: it ends here.
    if length > 0 && !ends_a_line(&path, length)? {
        file.write_all(b"\n")?;
        end += 1;
    }
    Ok(Open { file, start, end })
}

fn ends_a_line(path: &Path, length: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    File::open(path)?.read_exact_at(&mut last, length - 1)?;
    Ok(last == *b"\n")
}

fn open_at(folder: &Path, start: u64) -> io::Result<Open> {
    let path = folder.join(format!("{start:020}.log"));
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok(Open { file, start, end: start })
}

/// Removes the oldest segments until the rest fits the budget and the age; never the last one.
fn drop_old(folder: &Path, budget: u64) -> io::Result<()> {
    let segments = segments(folder)?;
    let mut total: u64 = segments.iter().map(|(_, length, _)| length).sum();
    let oldest_kept = clock::now().0.saturating_sub(MAX_AGE_MS);
    for (_, length, path) in &segments[..segments.len().saturating_sub(1)] {
        let modified = std::fs::metadata(path)?.modified()?;
        let age = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        if total <= budget && age.as_millis() as u64 >= oldest_kept {
            break;
        }
        std::fs::remove_file(path)?;
        total -= length;
    }
    Ok(())
}
