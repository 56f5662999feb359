//! Config vars.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use mini_api::{Env, EnvChange, EnvChanged, ErrorCode, MAX_ENV_BYTES};
use mini_core::name::EnvName;
use rusqlite::Connection;

use super::Api;
use super::auth::Caller;
use super::body::{Json as Body, OfApp};
use super::deployments::{key_of, made_before};
use super::error::{ApiError, ApiResult};
use super::settings;
use crate::env;
use crate::store;

/// The app's config vars (of a token that is no admin's, their names alone), and which of them wait for the next deploy.
#[utoipa::path(get, path = "/v1/apps/{app}/env", params(("app" = String, Path)), responses((status = 200, body = Env)))]
pub(super) async fn show(
    State(api): State<Api>,
    OfApp(app): OfApp,
    caller: Caller,
) -> ApiResult<Json<Env>> {
    let (id, live) = (app.id, app.live_release);
    let (sealed, release) = api
        .core
        .store
        .read(move |c| {
            let release = live.map(|n| store::release(c, id, n)).transpose()?.flatten();
            Ok((store::env_of(c, id)?, release))
        })
        .await?;
    let mut vars = env::open(&api.core.vault, id, sealed)?;
    let mut staged = Vec::new();
    if let Some(release) = release {
        let then = env::of_release(&api.core.vault, id, &release)?;
        let mut names: Vec<&String> = vars.keys().chain(then.keys()).collect();
        names.sort();
        names.dedup();
        let differs = |name: &&&String| vars.get(**name) != then.get(**name);
        staged = names.iter().filter(differs).map(|name| (*name).clone()).collect();
    }
    let values_hidden = !caller.may_see_values();
    if values_hidden {
        vars.values_mut().for_each(String::clear);
    }
    Ok(Json(Env { vars, values_hidden, staged }))
}

/// Sets and unsets config vars; unless staged, a running app gets a release with them.
#[utoipa::path(patch, path = "/v1/apps/{app}/env", params(("app" = String, Path)), request_body = EnvChange, responses((status = 200, body = EnvChanged)))]
pub(super) async fn change(
    State(api): State<Api>,
    OfApp(app): OfApp,
    caller: Caller,
    headers: HeaderMap,
    Body(change): Body<EnvChange>,
) -> ApiResult<Json<EnvChanged>> {
    let core = &api.core;
    let id = app.id;
    let key = key_of(&headers)?;
    if let Some(key) = &key
        && let Some(before) = made_before(&api, &app, key).await?
    {
        // The answer to the first try was lost.
        let changed = change.vars.into_keys().collect();
        return Ok(Json(EnvChanged { changed, deployment: Some(before) }));
    }
    let sealed = core.store.read(move |c| store::env_of(c, id)).await?;
    let mut vars = env::open(&core.vault, id, sealed)?;
    let mut changed = Vec::new();
    let mut changes = Vec::new();
    for (name, value) in change.vars {
        let name: EnvName = name.parse().map_err(|error: mini_core::name::BadName| {
            ApiError::new(ErrorCode::InvalidName, error.to_string())
        })?;
        let name = name.as_str();
        if vars.get(name) == value.as_ref() {
            continue;
        }
        if value.as_ref().is_some_and(|v| v.contains('\0')) {
            return Err(ApiError::invalid(format!("the value of {name} holds a NUL character")));
        }
        let purpose = env::purpose(id, name);
        let seal = |v: &String| core.vault.seal(&purpose, v.as_bytes());
        changes.push((name.to_owned(), value.as_ref().map(seal).transpose()?));
        changed.push(name.to_owned());
        match value {
            Some(value) => vars.insert(name.to_owned(), value),
            None => vars.remove(name),
        };
    }
    let size: usize = vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_ENV_BYTES {
        let message =
            format!("the config vars would take {size} bytes; {MAX_ENV_BYTES} are allowed");
        return Err(ApiError::new(ErrorCode::TooLarge, message)
            .hint("keep large values in a file or a volume"));
    }
    changed.sort();
    if changed.is_empty() {
        return Ok(Json(EnvChanged { changed, deployment: None }));
    }
    let unset = changed.iter().filter(|name| !vars.contains_key(*name)).count();
    let verb = if unset == changed.len() { "Unset" } else { "Set" };
    let description = format!("{verb} {}", changed.join(", "));
    let change_vars = move |tx: &Connection| store::change_env(tx, id, &changes);
    let how = (description, !change.stage);
    let deployment = settings::change(&api, &app, &caller, &headers, how, change_vars).await?;
    Ok(Json(EnvChanged { changed, deployment }))
}
