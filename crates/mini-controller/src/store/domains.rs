//! What an app has at the front door beside its releases: domains, maintenance, error pages.

use mini_core::name::{AppName, HostPattern};
use mini_core::time::Millis;
use rusqlite::{Connection, params};

use super::rows::{all, millis, one, parsed, to_sql};
use super::{AppId, StoreResult};

/// Domains of one app: they travel with each change of its route.
pub(crate) const MAX_DOMAINS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainRow {
    pub(crate) domain: HostPattern,
    pub(crate) created_at: Millis,
}

pub(crate) fn domains_of(c: &Connection, id: AppId) -> StoreResult<Vec<HostPattern>> {
    Ok(domain_rows(c, id)?.into_iter().map(|row| row.domain).collect())
}

/// The app's domains, by name.
pub(crate) fn domain_rows(c: &Connection, id: AppId) -> StoreResult<Vec<DomainRow>> {
    let sql = "SELECT host, created_at FROM domains WHERE app_id = ?1 ORDER BY host";
    all(c, sql, [id], |row| {
        Ok(DomainRow { domain: parsed(row, "host")?, created_at: millis(row, "created_at")? })
    })
}

/// The app that has a domain.
pub(crate) fn domain_owner(
    c: &Connection,
    domain: &HostPattern,
) -> StoreResult<Option<(AppId, AppName)>> {
    let sql = "SELECT a.id AS id, a.name AS name FROM domains d JOIN apps a ON a.id = d.app_id
               WHERE d.host = ?1";
    one(c, sql, [domain.as_str()], |row| Ok((row.get("id")?, parsed(row, "name")?)))
}

/// What became of the wish for a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claimed {
    New,
    /// The app had it before.
    Already,
    /// Another app has it.
    ByOther(AppName),
    TooMany,
}

/// Gives an app a domain, unless another has it: a domain is one app's at a time.
pub(crate) fn claim_domain(
    c: &Connection,
    id: AppId,
    domain: &HostPattern,
    now: Millis,
) -> StoreResult<Claimed> {
    match domain_owner(c, domain)? {
        Some((owner, _)) if owner == id => return Ok(Claimed::Already),
        Some((_, name)) => return Ok(Claimed::ByOther(name)),
        None => {}
    }
    if domain_rows(c, id)?.len() >= MAX_DOMAINS {
        return Ok(Claimed::TooMany);
    }
    c.execute(
        "INSERT INTO domains (host, app_id, created_at) VALUES (?1, ?2, ?3)",
        params![domain.as_str(), id, to_sql(now)],
    )?;
    Ok(Claimed::New)
}

/// False when the app does not have it.
pub(crate) fn let_domain_go(c: &Connection, id: AppId, domain: &HostPattern) -> StoreResult<bool> {
    let sql = "DELETE FROM domains WHERE app_id = ?1 AND host = ?2";
    Ok(c.execute(sql, params![id, domain.as_str()])? > 0)
}

/// False when it was so before.
pub(crate) fn set_maintenance(c: &Connection, id: AppId, on: bool) -> StoreResult<bool> {
    let sql = "UPDATE apps SET maintenance = ?2 WHERE id = ?1 AND maintenance != ?2";
    Ok(c.execute(sql, params![id, on])? > 0)
}

/// The app's own error pages, by code.
pub(crate) fn pages_of(c: &Connection, id: AppId) -> StoreResult<Vec<(String, String)>> {
    let sql = "SELECT code, html FROM pages WHERE app_id = ?1 ORDER BY code";
    all(c, sql, [id], |row| Ok((row.get("code")?, row.get("html")?)))
}

/// Bytes of all pages of all apps, but for the one that is about to be replaced.
pub(crate) fn bytes_of_pages(c: &Connection, but: (AppId, &str)) -> StoreResult<u64> {
    let sql = "SELECT coalesce(sum(length(CAST(html AS BLOB))), 0) FROM pages
               WHERE NOT (app_id = ?1 AND code = ?2)";
    let bytes: i64 = c.query_row(sql, params![but.0, but.1], |row| row.get(0))?;
    Ok(bytes.max(0) as u64)
}

/// False when it was so before.
pub(crate) fn set_page(c: &Connection, id: AppId, code: &str, html: &str) -> StoreResult<bool> {
    let sql = "INSERT INTO pages (app_id, code, html) VALUES (?1, ?2, ?3)
               ON CONFLICT (app_id, code) DO UPDATE SET html = excluded.html
               WHERE html != excluded.html";
    Ok(c.execute(sql, params![id, code, html])? > 0)
}

/// False when there was none.
pub(crate) fn unset_page(c: &Connection, id: AppId, code: &str) -> StoreResult<bool> {
    Ok(c.execute("DELETE FROM pages WHERE app_id = ?1 AND code = ?2", params![id, code])? > 0)
}
