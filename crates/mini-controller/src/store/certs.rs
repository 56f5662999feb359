//! Certificates, the accounts they are ordered with, and the names whose order failed.

use mini_core::name::AppName;
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::rows::{all, corrupt, document, json, millis, millis_opt, one, parsed_opt, to_sql};
use super::{AppId, StoreResult};

/// How many events of each name are kept.
const EVENTS_KEPT: i64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertSource {
    /// Ordered by us.
    Acme,
    /// Brought by the user.
    Own,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertRow {
    pub(crate) id: String,
    pub(crate) source: CertSource,
    /// In lower case; `*.example.com` too.
    pub(crate) names: Vec<String>,
    /// The app that an own one belongs to.
    pub(crate) app: Option<(AppId, AppName)>,
    /// The authority's directory.
    pub(crate) directory: Option<String>,
    /// PEM, the leaf first.
    pub(crate) chain: String,
    /// Sealed PEM.
    pub(crate) key: Vec<u8>,
    pub(crate) created_at: Millis,
    pub(crate) not_before: Millis,
    pub(crate) not_after: Millis,
    pub(crate) renewal: Renewal,
}

/// When a certificate is to be renewed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) at: Option<Millis>,
    /// What the authority suggested (RFC 9773).
    pub(crate) window: Option<(Millis, Millis)>,
    /// When it is asked again.
    pub(crate) check_at: Option<Millis>,
}

const COLUMNS: &str = "c.id, c.source, c.names, c.app_id, a.name AS app, c.directory, c.chain, \
                       c.key, c.created_at, c.not_before, c.not_after, c.renew_at, \
                       c.window_start, c.window_end, c.check_at";
const FROM: &str = "certificates c LEFT JOIN apps a ON a.id = c.app_id";

fn read(row: &Row<'_>) -> StoreResult<CertRow> {
    let (source, names): (String, String) = (row.get("source")?, row.get("names")?);
    let app: Option<AppId> = row.get("app_id")?;
    let window = millis_opt(row, "window_start")?.zip(millis_opt(row, "window_end")?);
    Ok(CertRow {
        id: row.get("id")?,
        source: match source.as_str() {
            "acme" => CertSource::Acme,
            "own" => CertSource::Own,
            other => return Err(corrupt("certificates.source", other)),
        },
        names: document(&names, "certificates.names")?,
        app: app.zip(parsed_opt(row, "app")?),
        directory: row.get("directory")?,
        chain: row.get("chain")?,
        key: row.get("key")?,
        created_at: millis(row, "created_at")?,
        not_before: millis(row, "not_before")?,
        not_after: millis(row, "not_after")?,
        renewal: Renewal {
            at: millis_opt(row, "renew_at")?,
            window,
            check_at: millis_opt(row, "check_at")?,
        },
    })
}

/// Every certificate, the newest first.
pub(crate) fn certificates(c: &Connection) -> StoreResult<Vec<CertRow>> {
    let sql = format!("SELECT {COLUMNS} FROM {FROM} ORDER BY c.created_at DESC, c.id");
    all(c, &sql, [], read)
}

/// Stores a certificate; those of the same source and the same names go.
pub(crate) fn put_certificate(c: &Connection, row: &CertRow) -> StoreResult<()> {
    let (names, source) = (json(&row.names)?, name_of(row.source));
    c.execute("DELETE FROM certificates WHERE source = ?1 AND names = ?2", params![source, names])?;
    let window = row.renewal.window;
    c.execute(
        "INSERT INTO certificates (id, source, names, app_id, directory, chain, key, created_at,
                                   not_before, not_after, renew_at, window_start, window_end,
                                   check_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        params![
            row.id,
            source,
            names,
            row.app.as_ref().map(|(id, _)| *id),
            row.directory,
            row.chain,
            row.key,
            to_sql(row.created_at),
            to_sql(row.not_before),
            to_sql(row.not_after),
            row.renewal.at.map(to_sql),
            window.map(|(start, _)| to_sql(start)),
            window.map(|(_, end)| to_sql(end)),
            row.renewal.check_at.map(to_sql),
        ],
    )?;
    Ok(())
}

fn name_of(source: CertSource) -> &'static str {
    match source {
        CertSource::Acme => "acme",
        CertSource::Own => "own",
    }
}

pub(crate) fn set_renewal(c: &Connection, id: &str, renewal: &Renewal) -> StoreResult<()> {
    c.execute(
        "UPDATE certificates SET renew_at = ?2, window_start = ?3, window_end = ?4, check_at = ?5
         WHERE id = ?1",
        params![
            id,
            renewal.at.map(to_sql),
            renewal.window.map(|(start, _)| to_sql(start)),
            renewal.window.map(|(_, end)| to_sql(end)),
            renewal.check_at.map(to_sql),
        ],
    )?;
    Ok(())
}

/// False when there is none with that id.
pub(crate) fn remove_certificate(c: &Connection, id: &str) -> StoreResult<bool> {
    Ok(c.execute("DELETE FROM certificates WHERE id = ?1", [id])? > 0)
}

/// A name whose last order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrialRow {
    pub(crate) name: String,
    /// How many failed one after the other.
    pub(crate) attempts: u32,
    pub(crate) error: String,
    /// For a limit of the authority's: `next_at` is its word.
    pub(crate) limited: bool,
    pub(crate) tried_at: Millis,
    pub(crate) next_at: Millis,
}

pub(crate) fn trials(c: &Connection) -> StoreResult<Vec<TrialRow>> {
    let sql = "SELECT name, attempts, error, limited, tried_at, next_at FROM certificate_trials";
    all(c, sql, [], |row| {
        Ok(TrialRow {
            name: row.get("name")?,
            attempts: row.get("attempts")?,
            error: row.get("error")?,
            limited: row.get("limited")?,
            tried_at: millis(row, "tried_at")?,
            next_at: millis(row, "next_at")?,
        })
    })
}

pub(crate) fn put_trial(c: &Connection, trial: &TrialRow) -> StoreResult<()> {
    c.execute(
        "INSERT INTO certificate_trials (name, attempts, error, limited, tried_at, next_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (name) DO UPDATE SET attempts = excluded.attempts, error = excluded.error,
             limited = excluded.limited, tried_at = excluded.tried_at, next_at = excluded.next_at",
        params![
            trial.name,
            trial.attempts,
            trial.error,
            trial.limited,
            to_sql(trial.tried_at),
            to_sql(trial.next_at),
        ],
    )?;
    Ok(())
}

/// Forgets that orders of a name failed. False when none did.
pub(crate) fn remove_trial(c: &Connection, name: &str) -> StoreResult<bool> {
    Ok(c.execute("DELETE FROM certificate_trials WHERE name = ?1", [name])? > 0)
}

/// The sealed credentials of the account at a directory.
pub(crate) fn acme_account(c: &Connection, directory: &str) -> StoreResult<Option<Vec<u8>>> {
    let sql = "SELECT credentials FROM acme_accounts WHERE directory = ?1";
    one(c, sql, [directory], |row| Ok(row.get("credentials")?))
}

pub(crate) fn put_acme_account(
    c: &Connection,
    directory: &str,
    email: Option<&str>,
    credentials: &[u8],
    now: Millis,
) -> StoreResult<()> {
    c.execute(
        "INSERT INTO acme_accounts (directory, email, credentials, created_at)
         VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (directory) DO UPDATE SET email = excluded.email,
             credentials = excluded.credentials, created_at = excluded.created_at",
        params![directory, email, credentials, to_sql(now)],
    )?;
    Ok(())
}

/// For an account that the authority does not know any more.
pub(crate) fn remove_acme_account(c: &Connection, directory: &str) -> StoreResult<()> {
    c.execute("DELETE FROM acme_accounts WHERE directory = ?1", [directory])?;
    Ok(())
}

pub(crate) fn add_cert_event(
    c: &Connection,
    name: &str,
    at: Millis,
    text: &str,
) -> StoreResult<()> {
    c.execute(
        "INSERT INTO certificate_events (name, at, text) VALUES (?1, ?2, ?3)",
        params![name, to_sql(at), text],
    )?;
    c.execute(
        "DELETE FROM certificate_events WHERE name = ?1 AND number <= (
             SELECT number FROM certificate_events WHERE name = ?1
             ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        params![name, EVENTS_KEPT],
    )?;
    Ok(())
}

/// What happened to a name, oldest first.
pub(crate) fn cert_events(c: &Connection, name: &str) -> StoreResult<Vec<(Millis, String)>> {
    let sql = "SELECT at, text FROM certificate_events WHERE name = ?1 ORDER BY number";
    all(c, sql, [name], |row| Ok((millis(row, "at")?, row.get("text")?)))
}
