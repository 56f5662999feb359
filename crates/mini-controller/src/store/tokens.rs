//! API tokens: only their hashes are stored.

use mini_api::Scope;
use mini_core::id::TokenId;
use mini_core::name::AppName;
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::rows::{all, millis, millis_opt, name_of, named, one, parsed, to_sql};
use super::{StoreResult, app_by_name};

/// Secrets of before its rotations that are known of one token.
const OLD_SECRETS: i64 = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: TokenId,
    pub(crate) name: String,
    /// SHA-256 of the secret.
    pub(crate) hash: Vec<u8>,
    /// The hashes of earlier secrets, each with the time until which it works on.
    pub(crate) old: Vec<(Vec<u8>, Millis)>,
    pub(crate) scope: Scope,
    /// The apps that it is for; `None`: all of them.
    pub(crate) apps: Option<Vec<AppName>>,
    pub(crate) created_at: Millis,
    pub(crate) expires_at: Option<Millis>,
    pub(crate) last_used_at: Option<Millis>,
    pub(crate) rotated_at: Option<Millis>,
    /// When it first came over plain http from another machine.
    pub(crate) seen_over_http_at: Option<Millis>,
    pub(crate) revoked_at: Option<Millis>,
}

const COLUMNS: &str = "id, name, hash, scope, bound, created_at, expires_at, last_used_at, \
                       rotated_at, seen_over_http_at, revoked_at";

fn read(c: &Connection, row: &Row<'_>) -> StoreResult<TokenRow> {
    let id: TokenId = parsed(row, "id")?;
    let bound: bool = row.get("bound")?;
    Ok(TokenRow {
        name: row.get("name")?,
        hash: row.get("hash")?,
        old: old_secrets(c, &id)?,
        scope: named(row.get("scope")?, "a token's scope")?,
        apps: if bound { Some(apps(c, &id)?) } else { None },
        created_at: millis(row, "created_at")?,
        expires_at: millis_opt(row, "expires_at")?,
        last_used_at: millis_opt(row, "last_used_at")?,
        rotated_at: millis_opt(row, "rotated_at")?,
        seen_over_http_at: millis_opt(row, "seen_over_http_at")?,
        revoked_at: millis_opt(row, "revoked_at")?,
        id,
    })
}

fn apps(c: &Connection, id: &TokenId) -> StoreResult<Vec<AppName>> {
    let sql = "SELECT name FROM token_apps JOIN apps ON apps.id = app_id
               WHERE token_id = ?1 ORDER BY name";
    all(c, sql, [id.as_str()], |row| parsed(row, "name"))
}

fn old_secrets(c: &Connection, id: &TokenId) -> StoreResult<Vec<(Vec<u8>, Millis)>> {
    let sql = "SELECT hash, until FROM old_secrets WHERE token_id = ?1 ORDER BY until DESC";
    all(c, sql, [id.as_str()], |row| Ok((row.get("hash")?, millis(row, "until")?)))
}

/// Every token that was not revoked, oldest first.
pub(crate) fn tokens(c: &Connection) -> StoreResult<Vec<TokenRow>> {
    let sql =
        format!("SELECT {COLUMNS} FROM tokens WHERE revoked_at IS NULL ORDER BY created_at, id");
    all(c, &sql, [], |row| read(c, row))
}

/// The token with this id, revoked or not. Ids are public, so an index on them gives nothing away.
pub(crate) fn token(c: &Connection, id: &TokenId) -> StoreResult<Option<TokenRow>> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1");
    one(c, &sql, [id.as_str()], |row| read(c, row))
}

/// Stores a token; or names the first of its apps that is not there, and stores nothing.
pub(crate) fn insert_token(c: &Connection, t: &TokenRow) -> StoreResult<Result<(), AppName>> {
    let mut ids = Vec::new();
    for name in t.apps.iter().flatten() {
        match app_by_name(c, name)? {
            Some(app) => ids.push(app.id),
            None => return Ok(Err(name.clone())),
        }
    }
    c.execute(
        "INSERT INTO tokens (id, name, hash, scope, bound, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            t.id.as_str(),
            t.name,
            t.hash,
            name_of(t.scope)?,
            t.apps.is_some(),
            to_sql(t.created_at),
            t.expires_at.map(to_sql),
        ],
    )?;
    for app in ids {
        let sql = "INSERT OR IGNORE INTO token_apps (token_id, app_id) VALUES (?1, ?2)";
        c.execute(sql, params![t.id.as_str(), app])?;
    }
    Ok(Ok(()))
}

/// A token's new secret.
pub(crate) struct Rotation {
    pub(crate) hash: Vec<u8>,
    pub(crate) now: Millis,
    /// Until when the secret of now works on, and every older one at most.
    pub(crate) old_until: Millis,
    pub(crate) expires_at: Option<Millis>,
}

/// False when there is no such token, or it was revoked.
pub(crate) fn rotate_token(c: &Connection, id: &TokenId, new: &Rotation) -> StoreResult<bool> {
    let Some(token) = token(c, id)?.filter(|t| t.revoked_at.is_none()) else { return Ok(false) };
    // It never outlives what it was made for.
    let until = token.expires_at.map_or(new.old_until, |at| at.min(new.old_until));
    let sql = "UPDATE old_secrets SET until = min(until, ?2) WHERE token_id = ?1";
    c.execute(sql, params![id.as_str(), to_sql(until)])?;
    let sql = "INSERT OR REPLACE INTO old_secrets (hash, token_id, until) VALUES (?1, ?2, ?3)";
    c.execute(sql, params![token.hash, id.as_str(), to_sql(until)])?;
    // Those that have ended stay for a while too, so that their users are told why.
    let sql = "DELETE FROM old_secrets WHERE token_id = ?1 AND hash NOT IN
                   (SELECT hash FROM old_secrets WHERE token_id = ?1 ORDER BY rowid DESC LIMIT ?2)";
    c.execute(sql, params![id.as_str(), OLD_SECRETS])?;
    // The new secret was seen nowhere.
    let sql = "UPDATE tokens SET hash = ?2, rotated_at = ?3, expires_at = ?4,
                   seen_over_http_at = NULL WHERE id = ?1";
    let expires = new.expires_at.map(to_sql);
    c.execute(sql, params![id.as_str(), new.hash, to_sql(new.now), expires])?;
    Ok(true)
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

/// Keeps the first time: from then on it may be known to others.
pub(crate) fn token_seen_over_http(c: &Connection, id: &TokenId, now: Millis) -> StoreResult<()> {
    let sql =
        "UPDATE tokens SET seen_over_http_at = ?2 WHERE id = ?1 AND seen_over_http_at IS NULL";
    c.execute(sql, params![id.as_str(), to_sql(now)])?;
    Ok(())
}
