//! The audit entry of a change travels with the request into the store, and is written by the first
//! transaction that the request makes: a change that is there has its entry, whenever the process
//! dies. What came of it is written into the entry afterwards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::{AuditRow, StoreResult, add_audit};

tokio::task_local! {
    static TRAIL: Arc<Trail>;
}

/// The entry of one change.
pub(crate) struct Trail(Mutex<Entry>);

enum Entry {
    /// For a transaction to take it along.
    Waits(Box<AuditRow>),
    /// By its row.
    Written(i64),
}

impl Trail {
    pub(crate) fn of(entry: AuditRow) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Entry::Waits(Box::new(entry)))))
    }

    /// Does the change: what it writes, the task that it began in, takes the entry along.
    pub(crate) async fn around<F: Future>(self: &Arc<Self>, change: F) -> F::Output {
        TRAIL.scope(self.clone(), change).await
    }

    /// The row of the entry, once it is in the store.
    pub(crate) fn row(&self) -> Option<i64> {
        match *self.entry() {
            Entry::Waits(_) => None,
            Entry::Written(row) => Some(row),
        }
    }

    /// That of the task that asks.
    pub(super) fn here() -> Option<Arc<Self>> {
        TRAIL.try_with(Arc::clone).ok()
    }

    /// Writes it, if it waits; then [`Trail::written`] is due, once the transaction is committed.
    pub(super) fn write(&self, c: &Connection) -> StoreResult<Option<i64>> {
        match &*self.entry() {
            Entry::Waits(entry) => add_audit(c, entry).map(Some),
            Entry::Written(_) => Ok(None),
        }
    }

    pub(super) fn written(&self, row: i64) {
        *self.entry() = Entry::Written(row);
    }

    fn entry(&self) -> MutexGuard<'_, Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
