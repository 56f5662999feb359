//! The schema, as numbered migrations. A released one is never edited; a new one is appended.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::{StoreError, StoreResult};

/// Each brings the schema from version `index` to `index + 1` (`PRAGMA user_version`).
const MIGRATIONS: [&str; 2] =
    [include_str!("migrations/0001.sql"), include_str!("migrations/0002.sql")];

pub(super) fn migrate(connection: &mut Connection, path: &Path) -> StoreResult<()> {
    let known = MIGRATIONS.len() as i64;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    if found > 0 && found < known {
        let copy = path.with_extension(format!("before-{known}.db"));
        connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
    }
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(found.max(0) as usize) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", index as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}
