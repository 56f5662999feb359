//! Who asked for what. Bounded: by age, by number, and by number again for requests of nobody that
//! is known, so that strangers who knock cannot push out what was really done.

use mini_core::id::TokenId;
use mini_core::time::Millis;
use rusqlite::{Connection, Row, params};

use super::StoreResult;
use super::rows::{all, millis, parsed_opt, to_sql};

/// How long an entry is kept, in milliseconds: 90 days.
const AGE_MS: u64 = 90 * 24 * 3600 * 1000;
/// Entries kept, and those among them that no known token asked for.
const ENTRIES: i64 = 100_000;
const OF_STRANGERS: i64 = 10_000;
/// Entries that age ends in one go. A clock that stands in the far future for a moment costs that
/// many an hour, not all.
const AGED_AT_ONCE: i64 = 2_000;

/// The status of a change that is under way, or whose controller died before it answered.
pub(crate) const BEGUN: u16 = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub(crate) at: Millis,
    pub(crate) actor: Option<String>,
    pub(crate) token_id: Option<TokenId>,
    pub(crate) action: String,
    pub(crate) app: Option<String>,
    pub(crate) target: Option<String>,
    /// What was answered; [`BEGUN`]: nothing yet.
    pub(crate) status: u16,
    pub(crate) request_id: String,
    pub(crate) source: Option<String>,
}

fn read(row: &Row<'_>) -> StoreResult<AuditRow> {
    Ok(AuditRow {
        at: millis(row, "at")?,
        actor: row.get("actor")?,
        token_id: parsed_opt(row, "token_id")?,
        action: row.get("action")?,
        app: row.get("app")?,
        target: row.get("target")?,
        status: row.get("status")?,
        request_id: row.get("request_id")?,
        source: row.get("source")?,
    })
}

/// The row that it has from now on.
pub(crate) fn add_audit(c: &Connection, entry: &AuditRow) -> StoreResult<i64> {
    let sql = "INSERT INTO audit
                   (at, actor, token_id, action, app, target, status, request_id, source)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    c.prepare_cached(sql)?.execute(params![
        to_sql(entry.at),
        entry.actor,
        entry.token_id.as_ref().map(TokenId::as_str),
        entry.action,
        entry.app,
        entry.target,
        entry.status,
        entry.request_id,
        entry.source,
    ])?;
    Ok(c.last_insert_rowid())
}

/// Says in an entry that was begun what it came to.
pub(crate) fn complete_audit(c: &Connection, row: i64, entry: &AuditRow) -> StoreResult<()> {
    let sql = "UPDATE audit SET app = ?2, target = ?3, status = ?4 WHERE id = ?1";
    c.prepare_cached(sql)?.execute(params![row, entry.app, entry.target, entry.status])?;
    Ok(())
}

/// The newest `n` of an app, or of all, not older than `since`; newest first.
pub(crate) fn audit(
    c: &Connection,
    app: Option<&str>,
    since: Option<Millis>,
    n: u32,
) -> StoreResult<Vec<AuditRow>> {
    let sql = "SELECT * FROM audit WHERE (?1 IS NULL OR app = ?1) AND at >= ?2
               ORDER BY id DESC LIMIT ?3";
    all(c, sql, params![app, since.map_or(0, to_sql), n], read)
}

/// Lets go of what is too old or too much.
pub(crate) fn prune_audit(c: &Connection, now: Millis) -> StoreResult<()> {
    let oldest = Millis(now.0.saturating_sub(AGE_MS));
    let sql = "DELETE FROM audit WHERE id IN
                   (SELECT id FROM audit WHERE at < ?1 ORDER BY id LIMIT ?2)";
    c.execute(sql, params![to_sql(oldest), AGED_AT_ONCE])?;
    beyond(c, "1", ENTRIES)?;
    beyond(c, "actor IS NULL", OF_STRANGERS)
}

/// Deletes all but the newest `kept` of those that `which` is true for.
fn beyond(c: &Connection, which: &str, kept: i64) -> StoreResult<()> {
    let sql = format!(
        "DELETE FROM audit WHERE {which} AND id <=
             (SELECT id FROM audit WHERE {which} ORDER BY id DESC LIMIT 1 OFFSET ?1)"
    );
    c.execute(&sql, [kept])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    fn entry(at: u64, actor: Option<&str>, app: &str) -> AuditRow {
        AuditRow {
            at: Millis(at),
            actor: actor.map(str::to_owned),
            token_id: None,
            action: "apps.destroy".into(),
            app: Some(app.into()),
            target: None,
            status: 202,
            request_id: format!("r{at}"),
            source: Some("203.0.113.7".into()),
        }
    }

    fn open() -> Connection {
        let mut c = Connection::open_in_memory().unwrap();
        schema::migrate(&mut c, std::path::Path::new("none")).unwrap();
        c
    }

    #[test]
    fn entries_are_found_by_app_time_and_number_newest_first() {
        let c = open();
        for (at, app) in [(1, "blue"), (2, "red"), (3, "blue"), (4, "blue")] {
            add_audit(&c, &entry(at, Some("ci"), app)).unwrap();
        }
        let at = |app, since: Option<u64>, n| -> Vec<u64> {
            audit(&c, app, since.map(Millis), n).unwrap().iter().map(|e| e.at.0).collect()
        };
        assert_eq!(at(None, None, 3), [4, 3, 2]);
        assert_eq!(at(Some("blue"), None, 9), [4, 3, 1]);
        assert_eq!(at(Some("blue"), Some(2), 9), [4, 3]);
        assert_eq!(audit(&c, None, None, 1).unwrap(), [entry(4, Some("ci"), "blue")]);
    }

    #[test]
    fn strangers_push_out_strangers_only() {
        let c = open();
        for at in 1..=5 {
            add_audit(&c, &entry(at, Some("ci"), "blue")).unwrap();
            add_audit(&c, &entry(at + 10, None, "blue")).unwrap();
        }
        beyond(&c, "actor IS NULL", 2).unwrap();
        let left: Vec<u64> =
            audit(&c, None, None, 99).unwrap().iter().rev().map(|e| e.at.0).collect();
        assert_eq!(left, [1, 2, 3, 4, 14, 5, 15]);
        beyond(&c, "1", 3).unwrap();
        assert_eq!(audit(&c, None, None, 99).unwrap().len(), 3);
    }

    #[test]
    fn what_is_too_old_goes_but_never_all_at_once() {
        let c = open();
        for at in 0..3_000 {
            add_audit(&c, &entry(at, Some("ci"), "blue")).unwrap();
        }
        prune_audit(&c, Millis(AGE_MS)).unwrap();
        assert_eq!(audit(&c, None, None, 9_999).unwrap().len(), 3_000, "none is too old");
        prune_audit(&c, Millis(AGE_MS * 40)).unwrap();
        assert_eq!(audit(&c, None, None, 9_999).unwrap().len(), 1_000);
    }
}
