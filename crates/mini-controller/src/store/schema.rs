//! The schema, as numbered migrations. A released one is never edited; a new one is appended.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{StoreError, StoreResult};

#[cfg(debug_assertions)]
mod tomorrow;

/// Each brings the schema from version `index` to `index + 1` (`PRAGMA user_version`).
const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002.sql"),
    include_str!("migrations/0003.sql"),
    include_str!("migrations/0004.sql"),
    include_str!("migrations/0005.sql"),
    include_str!("migrations/0006.sql"),
    include_str!("migrations/0007.sql"),
    include_str!("migrations/0008.sql"),
];

fn migrations() -> impl Iterator<Item = &'static str> {
    #[cfg(debug_assertions)]
    let more = tomorrow::migration();
    #[cfg(not(debug_assertions))]
    let more = None;
    MIGRATIONS.into_iter().chain(more)
}

/// The newest schema that this program knows.
pub(super) fn known() -> i64 {
    migrations().count() as i64
}

/// The schema that a database is of.
pub(super) fn version(connection: &Connection) -> StoreResult<i64> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

pub(super) fn migrate(connection: &mut Connection, path: &Path) -> StoreResult<()> {
    let (found, known) = (version(connection)?, known());
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found > 0 && found < known {
        let copy = path.with_extension(format!("before-{known}.db"));
        // An upgrade that was taken back has left one, and SQLite writes over no file.
        let new = copy.with_extension("db.new");
        let io = |error: std::io::Error| StoreError::Sqlite(error.to_string());
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        connection.execute("VACUUM INTO ?1", [new.to_string_lossy()])?;
        std::fs::rename(&new, &copy).map_err(io)?;
    }
    for (index, sql) in migrations().enumerate().skip(found.max(0) as usize) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", index as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}
