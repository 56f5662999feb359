//! Everything that must outlive the process, in one SQLite file. All SQL is in this module.
//!
//! What is persisted is what cannot be observed: intent (apps, config vars, which release is
//! live), releases, verdicts and events of deployments, tokens, and the positions of the round
//! robins. Container ids, addresses in use and health are never stored: the engine's labels and
//! the proxy's reports are the truth about those.
//!
//! One thread writes, in `BEGIN IMMEDIATE` transactions with `synchronous=FULL`: what
//! [`Store::write`] returned from is on the disk. Another thread reads. Where the file cannot be
//! written (the disk is full, the file system read-only) it is still read, and becomes writable by
//! itself: the next write that goes through makes it so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

mod apps;
mod audit;
mod backup;
mod certs;
mod deployments;
mod domains;
mod open;
mod releases;
mod reserve;
mod rows;
mod schema;
mod settings;
mod tokens;
mod trail;

pub(crate) use apps::*;
pub(crate) use audit::*;
pub(crate) use backup::*;
pub(crate) use certs::*;
pub(crate) use deployments::*;
pub(crate) use domains::*;
pub(crate) use releases::*;
use reserve::Reserve;
pub(crate) use rows::*;
pub(crate) use settings::*;
pub(crate) use tokens::*;
pub(crate) use trail::Trail;

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

/// A handle on the two threads; cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    writer: Thread<Writer>,
    reader: Thread<Reader>,
    health: Arc<Health>,
}

impl Store {
    /// Opens or makes the database, and brings it to this program's schema. Before migrating an
    /// existing one, a copy is left beside it.
    ///
    /// Where an existing one cannot be written it is opened to read: every write then fails with
    /// [`StoreError::Full`] until it can be opened to write, which each of them tries.
    pub(crate) fn open(path: &Path) -> StoreResult<Self> {
        let health = Arc::new(Health::default());
        let reserve = Reserve::new(path.with_file_name("reserve"));
        let (writable, readable) = match open::to_write(path) {
            Ok(connection) => {
                reserve.make();
                (Some(connection), open::to_read(path)?)
            }
            Err(StoreError::Full(why)) if path.is_file() => {
                let readable = open::alone(path).map_err(|_| StoreError::Full(why.clone()))?;
                open::check_version(&readable, path, &why)?;
                health.set(Some(why));
                (None, readable)
            }
            Err(error) => return Err(error),
        };
        let beside_writer = writable.is_some();
        let reader = Reader { path: path.to_owned(), connection: Some(readable), beside_writer };
        let reader = serve("store-reader", reader)?;
        let writer = Writer {
            connection: writable,
            reserve,
            health: health.clone(),
            reader: reader.clone(),
        };
        Ok(Self { writer: serve("store-writer", writer)?, reader, health })
    }

    /// Runs `job` in a write transaction; when this returns `Ok`, it is durable. The audit entry of
    /// the change that this is part of goes with it ([`Trail`]).
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let trail = Trail::here();
        ask(&self.writer, move |writer| writer.write(trail.as_deref(), job)).await
    }

    /// The same for what must go through on a full disk too, since it ends something or frees
    /// space: the reserve is given up for it.
    pub(crate) async fn write_from_reserve<T: Send + 'static>(
        &self,
        job: impl Fn(&Transaction<'_>) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let trail = Trail::here();
        ask(&self.writer, move |writer| match writer.write(trail.as_deref(), &job) {
            Err(StoreError::Full(_)) if writer.reserve.give_up() => {
                writer.write(trail.as_deref(), &job)
            }
            done => done,
        })
        .await
    }

    /// Runs `job` on what was last committed.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        ask(&self.reader, move |reader| job(reader.connection()?)).await
    }

    /// Why the last write failed, if it was for the disk.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.health.get()
    }

    /// While writes fail, whether one goes through by now; else makes the reserve anew where it
    /// is missing. True when the store has just become well.
    pub(crate) async fn look_after(&self) -> bool {
        if self.trouble().is_some() {
            let now = crate::clock::now().0.to_string();
            return self.write(move |tx| set_meta(tx, "written_again_at", &now)).await.is_ok();
        }
        let made = ask(&self.writer, |writer| {
            writer.reserve.make();
            Ok(())
        });
        let _ = made.await;
        false
    }
}

/// Opens the database to read, beside a controller or without one, and takes no lock: for a look
/// from another process. The second value is the schema that it is of, and the one that is known.
pub(crate) fn look(path: &Path) -> StoreResult<(Connection, (i64, i64))> {
    let connection = match open::to_read(path) {
        Ok(connection) if schema::version(&connection).is_ok() => connection,
        // Where not even the shared files can be made nobody writes either.
        _ => open::without_locks(path)?,
    };
    let found = schema::version(&connection)?;
    Ok((connection, (found, schema::known())))
}

/// Opens a database that nobody else has, and brings it to this program's schema.
pub(crate) fn open_to_restore(path: &Path) -> StoreResult<Connection> {
    open::to_write(path)
}

/// The schema that a database is of.
pub(crate) fn schema_of(connection: &Connection) -> StoreResult<i64> {
    schema::version(connection)
}

/// The newest schema that this program knows.
pub(crate) fn known_schema() -> i64 {
    schema::known()
}

/// Whether the store can be written, as the last write found.
#[derive(Default)]
struct Health(Mutex<Option<String>>);

impl Health {
    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, trouble: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

struct Writer {
    /// `None` while the file cannot be opened to write.
    connection: Option<Connection>,
    reserve: Reserve,
    health: Arc<Health>,
    reader: Thread<Reader>,
}

impl Writer {
    fn write<T>(
        &mut self,
        trail: Option<&Trail>,
        job: impl FnOnce(&Transaction<'_>) -> StoreResult<T>,
    ) -> StoreResult<T> {
        let written = self.transaction(|tx| {
            let value = job(tx)?;
            let row = trail.map_or(Ok(None), |trail| trail.write(tx))?;
            Ok((value, row))
        });
        let written = written.map(|(value, row)| {
            if let Some((trail, row)) = trail.zip(row) {
                trail.written(row);
            }
            value
        });
        match &written {
            Err(StoreError::Full(why)) => self.health.set(Some(why.clone())),
            Ok(_) => self.health.set(None),
            Err(_) => {}
        }
        written
    }

    fn transaction<T>(
        &mut self,
        job: impl FnOnce(&Transaction<'_>) -> StoreResult<T>,
    ) -> StoreResult<T> {
        let tx = self.connection()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = job(&tx)?;
        tx.commit()?;
        Ok(value)
    }

    fn connection(&mut self) -> StoreResult<&mut Connection> {
        if self.connection.is_none() {
            self.connection = Some(self.reader.wait(Reader::make_room)??);
        }
        self.connection.as_mut().ok_or(StoreError::Closed)
    }
}

struct Reader {
    path: PathBuf,
    connection: Option<Connection>,
    /// Whether there is a writer, whose locks must be looked at.
    beside_writer: bool,
}

impl Reader {
    fn connection(&mut self) -> StoreResult<&Connection> {
        if self.connection.is_none() {
            let open = if self.beside_writer { open::to_read } else { open::alone };
            self.connection = Some(open(&self.path)?);
        }
        self.connection.as_ref().ok_or(StoreError::Closed)
    }

    /// Opens the file to write. Before that the reader's own connection goes: it looks at no lock,
    /// and SQLite gives all connections of a process the first one's way into the shared files.
    fn make_room(&mut self) -> StoreResult<Connection> {
        self.connection = None;
        let connection = open::to_write(&self.path)?;
        self.beside_writer = true;
        Ok(connection)
    }
}

type Job<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread that owns `S` and does one job after another.
struct Thread<S>(mpsc::UnboundedSender<Job<S>>);

impl<S> Clone for Thread<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Thread<S> {
    fn give(&self, job: Job<S>) -> StoreResult<()> {
        self.0.send(job).map_err(|_| StoreError::Closed)
    }

    /// Does `job` there and blocks until it is done.
    fn wait<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> StoreResult<T> {
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        self.give(Box::new(move |state| {
            // The other end waits.
            let _ = done.send(job(state));
        }))?;
        wait.recv().map_err(|_| StoreError::Closed)
    }
}

async fn ask<S: 'static, T: Send + 'static>(
    thread: &Thread<S>,
    job: impl FnOnce(&mut S) -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    let (reply, answer) = oneshot::channel();
    thread.give(Box::new(move |state| {
        // The one who asked may have gone; what was written stays written.
        let _ = reply.send(job(state));
    }))?;
    answer.await.map_err(|_| StoreError::Closed)?
}

fn serve<S: Send + 'static>(name: &str, mut state: S) -> StoreResult<Thread<S>> {
    let (sender, mut jobs) = mpsc::unbounded_channel::<Job<S>>();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            while let Some(job) = jobs.blocking_recv() {
                job(&mut state);
            }
        })
        .map_err(|e| StoreError::Sqlite(e.to_string()))?;
    Ok(Thread(sender))
}

#[cfg(test)]
mod tests;
