//! Everything that must outlive the process, in one SQLite file. All SQL is in this module.
//!
//! What is persisted is what cannot be observed: intent (apps, config vars, which release is
//! live), releases, verdicts and events of deployments, tokens, and the positions of the round
//! robins. Container ids, addresses in use and health are never stored: the engine's labels and
//! the proxy's reports are the truth about those.
//!
//! One thread writes, in `BEGIN IMMEDIATE` transactions with `synchronous=FULL`: what
//! [`Store::write`] returned from is on the disk. Another thread reads.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

mod apps;
mod deployments;
mod releases;
mod rows;
mod schema;
mod tokens;

pub(crate) use apps::*;
pub(crate) use deployments::*;
pub(crate) use releases::*;
pub(crate) use rows::*;
pub(crate) use tokens::*;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full or the file cannot be written. Nothing of the transaction happened.
    #[error("the data folder cannot be written: {0}")]
    Full(String),
    #[error(
        "the database at {path} is of a newer version ({found}) than this program knows ({known})"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the database: {0}")]
    Sqlite(String),
    /// A row that no version of this program writes.
    #[error("the database holds {what} that cannot be read: {why}")]
    Corrupt { what: String, why: String },
    #[error("the store is closed")]
    Closed,
}

pub(crate) type StoreResult<T> = Result<T, StoreError>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, ReadOnly, SystemIoFailure};
        match error.sqlite_error_code() {
            Some(DiskFull | ReadOnly | SystemIoFailure | CannotOpen) => {
                Self::Full(error.to_string())
            }
            _ => Self::Sqlite(error.to_string()),
        }
    }
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle on the two threads; cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    writer: mpsc::UnboundedSender<Job>,
    reader: mpsc::UnboundedSender<Job>,
}

impl Store {
    /// Opens or makes the database, and brings it to this program's schema. Before migrating an
    /// existing one, a copy is left beside it.
    pub(crate) fn open(path: &Path) -> StoreResult<Self> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        schema::migrate(&mut connection, path)?;
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, read_only)?;
        reader.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(Self {
            writer: serve("store-writer", connection)?,
            reader: serve("store-reader", reader)?,
        })
    }

    /// Runs `job` in a write transaction; when this returns `Ok`, it is durable.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        ask(&self.writer, move |connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = job(&tx)?;
            tx.commit()?;
            Ok(value)
        })
        .await
    }

    /// Runs `job` on what was last committed.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        ask(&self.reader, move |connection| job(connection)).await
    }
}

async fn ask<T: Send + 'static>(
    thread: &mpsc::UnboundedSender<Job>,
    job: impl FnOnce(&mut Connection) -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    let (reply, answer) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        // The one who asked may have gone; what was written stays written.
        let _ = reply.send(job(connection));
    });
    thread.send(job).map_err(|_| StoreError::Closed)?;
    answer.await.map_err(|_| StoreError::Closed)?
}

fn serve(name: &str, mut connection: Connection) -> StoreResult<mpsc::UnboundedSender<Job>> {
    let (sender, mut jobs) = mpsc::unbounded_channel::<Job>();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Some(job) = jobs.blocking_recv() {
                job(&mut connection);
            }
        })
        .map_err(|e| StoreError::Sqlite(e.to_string()))?;
    Ok(sender)
}

#[cfg(test)]
mod tests;
