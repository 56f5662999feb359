//! API tokens: only their hashes are stored.

use mini_core::id::TokenId;
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::StoreResult;
use super::rows::{all, millis, millis_opt, one, parsed, to_sql};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: TokenId,
    pub(crate) name: String,
    /// SHA-256 of the secret.
    pub(crate) hash: Vec<u8>,
    pub(crate) scope: String,
    pub(crate) created_at: Millis,
    pub(crate) expires_at: Option<Millis>,
    pub(crate) last_used_at: Option<Millis>,
    pub(crate) revoked_at: Option<Millis>,
}

const COLUMNS: &str = "id, name, hash, scope, created_at, expires_at, last_used_at, revoked_at";

fn read(row: &Row<'_>) -> StoreResult<TokenRow> {
    Ok(TokenRow {
        id: parsed(row, "id")?,
        name: row.get("name")?,
        hash: row.get("hash")?,
        scope: row.get("scope")?,
        created_at: millis(row, "created_at")?,
        expires_at: millis_opt(row, "expires_at")?,
        last_used_at: millis_opt(row, "last_used_at")?,
        revoked_at: millis_opt(row, "revoked_at")?,
    })
}

/// Every token that was not revoked, oldest first.
pub(crate) fn tokens(c: &Connection) -> StoreResult<Vec<TokenRow>> {
    let sql =
        format!("SELECT {COLUMNS} FROM tokens WHERE revoked_at IS NULL ORDER BY created_at, id");
    all(c, &sql, [], read)
}

/// The token with this id, revoked or not. Ids are public, so an index on them gives nothing away.
pub(crate) fn token(c: &Connection, id: &TokenId) -> StoreResult<Option<TokenRow>> {
    one(c, &format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1"), [id.as_str()], read)
}

pub(crate) fn insert_token(c: &Connection, t: &TokenRow) -> StoreResult<()> {
    c.execute(
        "INSERT INTO tokens (id, name, hash, scope, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            t.id.as_str(),
            t.name,
            t.hash,
            t.scope,
            to_sql(t.created_at),
            t.expires_at.map(to_sql),
        ],
    )?;
    Ok(())
}

/// False when there is no such token, or it was revoked before.
pub(crate) fn revoke_token(c: &Connection, id: &TokenId, now: Millis) -> StoreResult<bool> {
    let sql = "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
    Ok(c.execute(sql, params![id.as_str(), to_sql(now)])? > 0)
}

pub(crate) fn token_used(c: &Connection, id: &TokenId, now: Millis) -> StoreResult<()> {
    let sql = "UPDATE tokens SET last_used_at = ?2 WHERE id = ?1";
    c.execute(sql, params![id.as_str(), to_sql(now)])?;
    Ok(())
}
