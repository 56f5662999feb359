//! Opening the database file: to write, to read beside a writer, and to read where nothing can be
//! written.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, StoreResult, schema};

/// How long a connection waits for another one's lock.
const BUSY: Duration = Duration::from_secs(10);

/// Opens or makes the database, and brings it to this program's schema.
pub(super) fn to_write(path: &Path) -> StoreResult<Connection> {
    let mut connection = Connection::open(path)?;
    // SQLite opens what it may not write to read, and says nothing.
    if connection.is_readonly("main")? {
        return Err(StoreError::Full("the file system is read-only".into()));
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.busy_timeout(BUSY)?;
    schema::migrate(&mut connection, path)?;
    Ok(connection)
}

/// Opens the database to read, beside whoever writes.
pub(super) fn to_read(path: &Path) -> StoreResult<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// Opens the database to read where nothing can be written, not even the files that a reader
/// shares with a writer. Only for whoever holds the data folder's lock.
pub(super) fn alone(path: &Path) -> StoreResult<Connection> {
    match to_read(path) {
        Ok(connection) if schema::version(&connection).is_ok() => Ok(connection),
        _ => without_locks(path),
    }
}

/// Opens the database to read and looks at no lock: nobody must write meanwhile.
pub(super) fn without_locks(path: &Path) -> StoreResult<Connection> {
    let log = path.with_file_name(format!("{}-wal", name(path)));
    let empty = std::fs::metadata(&log).map_or(true, |meta| meta.len() == 0);
    // What was committed last may be in the log alone, which an immutable file does not have.
    let how = if empty { "immutable=1" } else { "vfs=unix-none" };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(path, how), flags)?;
    // Before the first look: then the index of the log is kept in memory, and not in a file.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    schema::version(&connection)?;
    Ok(connection)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The path as SQLite's URI (RFC 3986: whatever could end it early is escaped).
fn uri(path: &Path, how: &str) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(byte));
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push('?');
    uri.push_str(how);
    uri
}

/// Whether a database that cannot be brought to this program's schema can be read by it.
pub(super) fn check_version(connection: &Connection, path: &Path, why: &str) -> StoreResult<()> {
    let (found, known) = (schema::version(connection)?, schema::known());
    match found {
        _ if found == known => Ok(()),
        _ if found > known => Err(StoreError::Newer { path: path.to_owned(), found, known }),
        _ => Err(StoreError::Full(format!(
            "the database at {} must be brought from schema {found} to {known}: {why}",
            path.display()
        ))),
    }
}
