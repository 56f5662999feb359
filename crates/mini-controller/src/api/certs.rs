//! Certificates: those that are ordered, and those that users bring.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mini_api::{
    AcmeInfo, Cert, CertAdded, CertDetail, CertEvent, CertSource, CertState, Certs, ErrorCode,
    NewCert,
};
use mini_core::name::AppName;
use mini_core::time::Millis;

use super::Api;
use super::auth::Caller;
use super::body::Json as Body;
use super::error::{ApiError, ApiResult};
use crate::certs::{self, Look, SOON, about_shared, covers, renewal, shared};
use crate::clock::{self, timestamp};
use crate::core::Core;
use crate::store::{self, CertRow, Renewal};

/// Every name that leads here, and every own certificate.
#[utoipa::path(get, path = "/v1/certs", responses((status = 200, body = Certs)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Certs>> {
    let look = certs::look(&api.core).await?;
    let acme = &api.core.config.acme;
    let mut certs = all(&api.core, &look, clock::now());
    certs.retain(|cert| shown(&caller, cert));
    Ok(Json(Certs {
        certs,
        acme: AcmeInfo {
            directory: acme.directory.clone(),
            email: acme.email.clone(),
            off: acme.off.clone(),
        },
    }))
}

fn shown(caller: &Caller, cert: &Cert) -> bool {
    cert.app.as_ref().map_or_else(|| caller.may_see_all(), |app| caller.may_see(app))
}

/// One name's certificate, and what happened to it lately.
#[utoipa::path(get, path = "/v1/certs/{name}", params(("name" = String, Path)), responses((status = 200, body = CertDetail)))]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(name): Path<String>,
) -> ApiResult<Json<CertDetail>> {
    let name = name.to_ascii_lowercase();
    let look = certs::look(&api.core).await?;
    let cert = find(&api.core, &look, &name)?;
    if !shown(&caller, &cert) {
        return Err(missing(&name));
    }
    let chain = best(&look, &name, clock::now()).map(|row| row.chain.clone());
    let events = api.core.store.read(move |c| store::cert_events(c, &name)).await?;
    let events = events.into_iter().map(|(at, text)| CertEvent { at: timestamp(at), text });
    Ok(Json(CertDetail { cert, chain, events: events.collect() }))
}

/// Brings an own certificate. One for the same names takes the place of an earlier one.
#[utoipa::path(post, path = "/v1/certs", request_body = NewCert, responses((status = 201, body = CertAdded)))]
pub(super) async fn add(
    State(api): State<Api>,
    Body(new): Body<NewCert>,
) -> ApiResult<(StatusCode, Json<CertAdded>)> {
    let now = clock::now();
    let refused = |why: &dyn std::fmt::Display| {
        ApiError::invalid(format!("the certificate cannot be used: {why}"))
            .hint("CHAIN is PEM with the server's certificate first, KEY its private key in PEM")
    };
    let leaf = certs::leaf(&new.chain).map_err(|e| refused(&e))?;
    certs::check_key(&new.chain, &new.key).map_err(|e| refused(&e))?;
    if leaf.not_after <= now {
        return Err(refused(&format!("it expired {}", timestamp(leaf.not_after)))
            .hint("bring one that holds"));
    }
    let app = match &new.app {
        Some(app) => Some(app_named(&api.core, app).await?),
        None => None,
    };
    let mut warnings = Vec::new();
    if leaf.not_before > now {
        warnings.push(format!("it holds only from {} on", timestamp(leaf.not_before)));
    }
    if leaf.not_after.0 - now.0 < SOON {
        warnings.push(format!("it expires {}", timestamp(leaf.not_after)));
    }
    if leaf.others > 0 {
        warnings.push(format!("{} of its names are no host names and are left out", leaf.others));
    }
    let look = certs::look(&api.core).await?;
    let leads_here = |pattern: &String| look.wanted.keys().any(|name| covers(pattern, name));
    if !leaf.names.iter().any(leads_here) {
        warnings.push("no name on it leads here yet: `mini domains add` makes one".to_owned());
    }
    let row = CertRow {
        id: String::new(),
        source: store::CertSource::Own,
        names: leaf.names.clone(),
        app,
        directory: None,
        chain: new.chain.clone(),
        key: Vec::new(),
        created_at: now,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        renewal: Renewal::default(),
    };
    let event = format!("own certificate added, issued by {}", leaf.issuer);
    certs::put(&api.core, row, &new.key, event).await?;
    let look = certs::look(&api.core).await?;
    let certs = leaf.names.iter().map(|name| view(&api.core, &look, name, now)).collect();
    Ok((StatusCode::CREATED, Json(CertAdded { certs, warnings })))
}

async fn app_named(core: &Core, app: &AppName) -> ApiResult<(store::AppId, AppName)> {
    let wanted = app.clone();
    let row = core.store.read(move |c| store::app_by_name(c, &wanted)).await?;
    row.map(|row| (row.id, row.name)).ok_or_else(|| ApiError::no_app(app))
}

/// Removes the own certificate that has the name. An ordered one goes with its name.
#[utoipa::path(delete, path = "/v1/certs/{name}", params(("name" = String, Path)), responses((status = 204)))]
pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> ApiResult<StatusCode> {
    let name = name.to_ascii_lowercase();
    let look = certs::look(&api.core).await?;
    let own = |row: &&CertRow| row.source == store::CertSource::Own && row.names.contains(&name);
    let Some(row) = look.certificates.iter().find(own) else {
        if look.ordered(&name).is_some() && look.wanted.contains_key(&name) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("the certificate for {name} was ordered by the server, which keeps it"),
            )
            .hint("it goes with its name; `mini certs add` puts one of your own in its place"));
        }
        return Err(missing(&name).hint("`mini certs` lists those that were added"));
    };
    let (id, names) = (row.id.clone(), row.names.clone());
    let now = clock::now();
    api.core
        .store
        .write(move |tx| {
            store::remove_certificate(tx, &id)?;
            for name in &names {
                store::add_cert_event(tx, name, now, "own certificate removed")?;
            }
            Ok(())
        })
        .await?;
    api.core.certs.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Orders a certificate now, without waiting for the next try. What the authority has asked to be
/// left alone for is waited for all the same.
#[utoipa::path(post, path = "/v1/certs/{name}/retry", params(("name" = String, Path)), responses((status = 202, body = Cert)))]
pub(super) async fn retry(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> ApiResult<(StatusCode, Json<Cert>)> {
    let (core, name, now) = (&api.core, name.to_ascii_lowercase(), clock::now());
    let look = certs::look(core).await?;
    let conflict = |text: String| ApiError::new(ErrorCode::Conflict, text);
    if !look.wanted.contains_key(&name) {
        return Err(missing(&name));
    }
    if let Some(why) = &core.config.acme.off {
        return Err(conflict(format!("no certificates are ordered: {why}")));
    }
    if let Some(why) = look.refusal(&name, &core.config.acme) {
        return Err(conflict(format!("no certificate is ordered for {name}: {why}"))
            .hint("`mini certs add` brings one of your own"));
    }
    let trial = look.trials.get(&name);
    let limited = trial.filter(|t| t.limited).map(|t| t.next_at);
    if let Some(until) = limited.max(core.certs.held_until(&name)).filter(|until| *until > now) {
        return Err(conflict(format!(
            "the authority's limit for {name} is reached: it may be asked again {}",
            timestamp(until)
        ))
        .hint("it is tried then by itself"));
    }
    if trial.is_none() && look.due(&name, &core.config.acme, now).is_none_or(|at| at > now) {
        let cert = view(core, &look, &name, now);
        let until = cert.not_after.map_or_else(String::new, |at| format!(" until {at}"));
        return Err(conflict(format!("the certificate for {name} holds{until}"))
            .hint("it is renewed by itself"));
    }
    let wanted = name.clone();
    core.store.write(move |tx| store::remove_trial(tx, &wanted)).await?;
    core.certs.wake();
    let look = certs::look(core).await?;
    Ok((StatusCode::ACCEPTED, Json(view(core, &look, &name, now))))
}

fn find(core: &Core, look: &Look, name: &str) -> ApiResult<Cert> {
    let all = all(core, look, clock::now());
    all.into_iter().find(|cert| cert.name == name).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("no certificate is needed or kept for {name}"))
        .hint("`mini certs` lists the names that lead here")
}

fn all(core: &Core, look: &Look, now: Millis) -> Vec<Cert> {
    let own = look.certificates.iter().filter(|row| row.source == store::CertSource::Own);
    let names: BTreeSet<&String> =
        own.flat_map(|row| &row.names).chain(look.wanted.keys()).collect();
    names.into_iter().map(|name| view(core, look, name, now)).collect()
}

/// The certificate that a name is served with, or was last.
fn best<'a>(look: &'a Look, name: &str, now: Millis) -> Option<&'a CertRow> {
    let covering = |row: &&CertRow| row.names.iter().any(|pattern| covers(pattern, name));
    look.own(name, now)
        .or_else(|| look.ordered(name))
        .or_else(|| look.certificates.iter().find(covering))
}

/// What is to be told of one name.
fn view(core: &Core, look: &Look, name: &str, now: Millis) -> Cert {
    let acme = &core.config.acme;
    let row = best(look, name, now);
    let leaf = row.and_then(|row| certs::leaf(&row.chain).ok());
    let ordered_here = row.filter(|row| row.source == store::CertSource::Acme);
    let needed = look.wanted.contains_key(name);
    let refusal = look.refusal(name, acme).filter(|_| needed);
    let trial = look.trials.get(name).filter(|_| needed);
    let orders = needed && refusal.is_none() && acme.off.is_none();
    let state = match row {
        Some(row) if now < row.not_after => CertState::Valid,
        _ if orders && (trial.is_none() || core.certs.is_ordering(name)) => CertState::Ordering,
        _ if orders => CertState::Failed,
        Some(_) => CertState::Expired,
        None => CertState::None,
    };
    let without = state != CertState::Valid;
    let note = match (refusal, shared(name)) {
        (Some(why), _) if without => Some(why),
        (None, Some(service)) if orders => Some(about_shared(service)),
        _ => acme.off.clone().filter(|_| without && needed),
    };
    let app = look.wanted.get(name).cloned().flatten();
    Cert {
        name: name.to_owned(),
        app: app.or_else(|| row.and_then(|r| r.app.as_ref().map(|(_, name)| name.clone()))),
        state,
        source: row.map(|row| match row.source {
            store::CertSource::Acme => CertSource::Acme,
            store::CertSource::Own => CertSource::Own,
        }),
        names: row.map(|row| row.names.clone()).unwrap_or_default(),
        issuer: leaf.as_ref().map(|leaf| leaf.issuer.clone()),
        fingerprint: leaf.map(|leaf| leaf.fingerprint),
        not_before: row.map(|row| timestamp(row.not_before)),
        not_after: row.map(|row| timestamp(row.not_after)),
        renew_at: ordered_here.filter(|_| orders).map(|row| timestamp(renewal(row, acme))),
        renewal_suggested: ordered_here.is_some_and(|row| row.renewal.window.is_some()),
        attempts: trial.map_or(0, |t| t.attempts),
        last_error: trial.map(|t| t.error.clone()),
        next_try_at: trial
            .map(|t| t.next_at.max(core.certs.held_until(name).unwrap_or_default()))
            .filter(|_| orders)
            .map(timestamp),
        note,
    }
}
