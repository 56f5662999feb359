//! Reading columns into the domain's types, and small helpers that every table needs.

use std::str::FromStr;

use mini_core::time::Millis;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StoreError, StoreResult};

/// The row id of an app: only inside the store and its callers' hands.
pub(crate) type AppId = i64;

pub(super) fn corrupt(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { what: what.to_owned(), why: why.to_string() }
}

/// A text column as a validated type.
pub(super) fn parsed<T>(row: &Row<'_>, column: &str) -> StoreResult<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let text: String = row.get(column)?;
    text.parse().map_err(|e| corrupt(column, e))
}

pub(super) fn parsed_opt<T>(row: &Row<'_>, column: &str) -> StoreResult<Option<T>>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    let text: Option<String> = row.get(column)?;
    text.map(|t| t.parse().map_err(|e| corrupt(column, e))).transpose()
}

/// A text column that holds a serde name or document.
pub(super) fn named<T: DeserializeOwned>(text: String, what: &str) -> StoreResult<T> {
    serde_json::from_value(serde_json::Value::String(text)).map_err(|e| corrupt(what, e))
}

pub(super) fn document<T: DeserializeOwned>(text: &str, what: &str) -> StoreResult<T> {
    serde_json::from_str(text).map_err(|e| corrupt(what, e))
}

pub(super) fn json<T: Serialize>(value: &T) -> StoreResult<String> {
    serde_json::to_string(value).map_err(|e| corrupt("a value", e))
}

/// The bare serde name of an enum value: `queued`.
pub(super) fn name_of<T: Serialize>(value: T) -> StoreResult<String> {
    match serde_json::to_value(value).map_err(|e| corrupt("a value", e))? {
        serde_json::Value::String(name) => Ok(name),
        other => Err(corrupt("a name", other)),
    }
}

pub(super) fn millis(row: &Row<'_>, column: &str) -> StoreResult<Millis> {
    Ok(Millis(row.get::<_, i64>(column)?.max(0) as u64))
}

pub(super) fn millis_opt(row: &Row<'_>, column: &str) -> StoreResult<Option<Millis>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|ms| Millis(ms.max(0) as u64)))
}

pub(super) fn to_sql(at: Millis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// One value of the platform's own: the server's id, the network pool, the cursors.
pub(crate) fn meta(connection: &Connection, key: &str) -> StoreResult<Option<String>> {
    let sql = "SELECT value FROM meta WHERE key = ?1";
    Ok(connection.query_row(sql, [key], |row| row.get(0)).optional()?)
}

pub(crate) fn set_meta(connection: &Connection, key: &str, value: &str) -> StoreResult<()> {
    let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, [key, value])?;
    Ok(())
}

/// Collects rows through a fallible reader.
pub(super) fn all<T, P: rusqlite::Params>(
    connection: &Connection,
    sql: &str,
    params: P,
    read: impl Fn(&Row<'_>) -> StoreResult<T>,
) -> StoreResult<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

pub(super) fn one<T, P: rusqlite::Params>(
    connection: &Connection,
    sql: &str,
    params: P,
    read: impl Fn(&Row<'_>) -> StoreResult<T>,
) -> StoreResult<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    rows.next()?.map(read).transpose()
}
