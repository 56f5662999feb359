//! One name at a time: an order, or the question when to renew, and what is written down of it.

use std::time::Duration;

use mini_core::name::AppName;
use mini_core::time::Millis;

use super::authority::{Failure, Issued, Kind};
use super::chain::{check_key, leaf};
use super::{AGAIN, Busy, chance, millis, purpose, schedule};
use crate::clock::{self, timestamp};
use crate::core::Core;
use crate::store::{self, CertRow, CertSource, Renewal, StoreResult, TrialRow};
use crate::vault;

/// Seals and stores a certificate, with what is said about it in its names' history.
pub(crate) async fn put(
    core: &Core,
    mut row: CertRow,
    key: &str,
    event: String,
) -> StoreResult<CertRow> {
    let corrupt = |e: vault::VaultError| store::StoreError::Corrupt {
        what: "a certificate's key".into(),
        why: e.to_string(),
    };
    row.id = hex::encode(vault::random_id().map_err(corrupt)?);
    row.key = core.vault.seal(&purpose(&row.id), key.as_bytes()).map_err(corrupt)?;
    let stored = row.clone();
    core.store
        .write(move |tx| {
            store::put_certificate(tx, &stored)?;
            for name in &stored.names {
                store::remove_trial(tx, name)?;
                store::add_cert_event(tx, name, stored.created_at, &event)?;
            }
            Ok(())
        })
        .await?;
    core.certs.wake();
    Ok(row)
}

/// Orders a certificate for one name and stores what became of it.
pub(super) async fn order(
    busy: &Busy,
    app: Option<AppName>,
    before: Option<CertRow>,
    failed: u32,
) -> StoreResult<()> {
    let (core, name, acme) = (&busy.core, &busy.name, &busy.core.config.acme);
    let ways = schedule::ways(failed, acme.http, acme.https);
    let chain = before.as_ref().map(|row| row.chain.as_str());
    tracing::info!(name, acme.directory, "a certificate is ordered");
    let ordered = core.certs.authority.order(core, name, &ways, chain).await;
    // What was set for an order that was cut short.
    core.certs.answer(core, name, None);
    match ordered.and_then(|issued| read(name, issued)) {
        Ok((row, key, way)) => {
            let until = day(row.not_after);
            let text = format!("issued by {}, valid until {until}{way}", row_issuer(&row));
            tracing::info!(name, until, "a certificate was issued");
            say(core, app.as_ref(), &format!("Certificate for {name}: {text}"));
            let directory = Some(acme.directory.clone());
            let row = put(core, CertRow { directory, ..row }, &key, text).await?;
            check(core, row).await
        }
        Err(failure) => note_failure(core, name, app.as_ref(), failed, failure).await,
    }
}

/// Reads what was issued.
fn read(name: &str, issued: Issued) -> Result<(CertRow, String, String), Failure> {
    let trouble = |why: String| {
        Failure::new(Kind::Trouble, format!("what the authority issued cannot be used: {why}"))
    };
    let leaf = leaf(&issued.chain).map_err(|e| trouble(e.to_string()))?;
    check_key(&issued.chain, &issued.key).map_err(|e| trouble(e.to_string()))?;
    if !leaf.names.iter().any(|n| n == name) {
        return Err(trouble(format!("it is for {}", leaf.names.join(", "))));
    }
    let way = issued.way.map_or_else(
        || ", the name was proven before".to_owned(),
        |way| format!(", proven by {}", way.name()),
    );
    let row = CertRow {
        id: String::new(),
        source: CertSource::Acme,
        names: vec![name.to_owned()],
        app: None,
        directory: None,
        chain: issued.chain,
        key: Vec::new(),
        created_at: clock::now(),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        renewal: Renewal::default(),
    };
    Ok((row, issued.key, way))
}

fn row_issuer(row: &CertRow) -> String {
    leaf(&row.chain).map_or_else(|_| "the authority".to_owned(), |leaf| leaf.issuer)
}

fn day(at: Millis) -> String {
    timestamp(at).strftime("%Y-%m-%d %H:%M").to_string()
}

fn say(core: &Core, app: Option<&AppName>, text: &str) {
    if let Some(app) = app {
        core.logs.say(app, "certs", text);
    }
}

/// Writes down that an order failed, and when the next one may be tried.
async fn note_failure(
    core: &Core,
    name: &str,
    app: Option<&AppName>,
    failed: u32,
    failure: Failure,
) -> StoreResult<()> {
    let (now, acme) = (clock::now(), &core.config.acme);
    let limited = failure.kind == Kind::Limited;
    let counted = failure.kind != Kind::ProxyAway;
    let attempts = failed.saturating_add(u32::from(counted));
    let wait = match failure.kind {
        Kind::Limited => schedule::limited_for(failure.retry_after),
        Kind::ProxyAway => AGAIN,
        Kind::Refused | Kind::Trouble | Kind::NoAccount => {
            let trouble = failure.kind != Kind::Refused;
            let wait = schedule::wait_for(name, attempts, acme.retry, trouble, chance());
            wait.max(failure.retry_after.unwrap_or_default())
        }
    };
    let next_at = now.plus(millis(wait));
    if limited {
        core.certs.state().hold(&schedule::limited(name, &failure.text), next_at);
    }
    let next = day(next_at);
    tracing::warn!(name, why = failure.text, next, "no certificate was issued");
    if counted {
        let text = format!("No certificate for {name}: {}; next try at {next}", failure.text);
        say(core, app, &text);
    }
    let event = format!("failed: {}; next try at {next}", failure.text);
    let (name, error) = (name.to_owned(), failure.text);
    let trial = TrialRow { name, attempts, error, limited, tried_at: now, next_at };
    core.store
        .write(move |tx| {
            store::put_trial(tx, &trial)?;
            store::add_cert_event(tx, &trial.name, now, &event)
        })
        .await
}

/// Asks when the authority would have the certificate renewed, and writes it down.
pub(super) async fn check(core: &Core, row: CertRow) -> StoreResult<()> {
    let acme = &core.config.acme;
    let (now, life) = (clock::now(), (row.not_before, row.not_after));
    let asked = core.certs.authority.renewal_window(core, &row.chain).await;
    let fallback = || row.renewal.at.or_else(|| Some(schedule::renew_at(life, None, chance())));
    let after = |wait: Duration| {
        let wait = acme.check_every.unwrap_or_else(|| schedule::check_after(wait));
        Some(now.plus(millis(wait)))
    };
    let renewal = match asked {
        // The moment was chosen when this window was first seen.
        Ok(Some((window, again))) if row.renewal.window == Some(window) => {
            Renewal { check_at: after(again), at: fallback(), ..row.renewal }
        }
        Ok(Some((window, again))) => Renewal {
            at: Some(schedule::renew_at(life, Some(window), chance())),
            window: Some(window),
            check_at: after(again),
        },
        // It may come to suggest something some day.
        Ok(None) => Renewal { at: fallback(), window: None, check_at: after(Duration::MAX) },
        Err(failure) => {
            let why = failure.text;
            tracing::debug!(names = row.names.join(","), why, "no word about renewal");
            Renewal { at: fallback(), check_at: after(Duration::ZERO), ..row.renewal }
        }
    };
    let news = renewal.window.is_some() && renewal.window != row.renewal.window;
    let (id, names) = (row.id, row.names);
    core.store
        .write(move |tx| {
            store::set_renewal(tx, &id, &renewal)?;
            if let (true, Some(at)) = (news, renewal.at) {
                let text = format!("the authority suggests to renew it around {}", day(at));
                for name in &names {
                    store::add_cert_event(tx, name, now, &text)?;
                }
            }
            Ok(())
        })
        .await
}
