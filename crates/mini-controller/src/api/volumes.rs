//! Volumes: where apps keep what must outlive their instances.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use mini_api::{ErrorCode, NewVolume, SettingsChanged, Volume, VolumeAdded, Volumes};
use mini_core::name::{AppName, VolumeName};
use serde::Deserialize;

use super::Api;
use super::auth::Caller;
use super::body::{Json as Body, OfApp, Params};
use super::deployments::{key_of, made_before};
use super::error::{ApiError, ApiResult};
use super::settings;
use crate::clock::{self, timestamp};
use crate::store::{self, AppRow, VolumeRow};
use crate::vault;

/// Linux's longest path, less some room.
const LONGEST_PATH: usize = 1000;
/// What belongs to the system inside a container.
const RESERVED: [&str; 4] = ["/proc", "/sys", "/dev", "/.dockerenv"];

fn document(row: VolumeRow) -> Volume {
    Volume {
        name: row.name,
        app: row.app,
        left: row.app_id.is_none(),
        path: row.path.filter(|_| row.app_id.is_some()),
        shared: row.shared,
        engine_name: row.engine_name,
        created_at: timestamp(row.created_at),
    }
}

/// The volumes of an app.
#[utoipa::path(get, path = "/v1/apps/{app}/volumes", params(("app" = String, Path)), responses((status = 200, body = Volumes)))]
pub(super) async fn list(State(api): State<Api>, OfApp(app): OfApp) -> ApiResult<Json<Volumes>> {
    let rows = api.core.store.read(move |c| store::volumes_of(c, app.id)).await?;
    Ok(Json(Volumes { volumes: rows.into_iter().map(document).collect() }))
}

/// Every volume, those that destroyed apps left among them.
#[utoipa::path(get, path = "/v1/volumes", responses((status = 200, body = Volumes)))]
pub(super) async fn list_all(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Volumes>> {
    let rows = api.core.store.read(store::volumes).await?;
    let shown = |v: &Volume| caller.may_see_all() || (!v.left && caller.may_see(&v.app));
    Ok(Json(Volumes { volumes: rows.into_iter().map(document).filter(shown).collect() }))
}

/// Gives an app a volume, or mounts one that it has at another path.
#[utoipa::path(post, path = "/v1/apps/{app}/volumes", params(("app" = String, Path)), request_body = NewVolume, responses((status = 200, body = VolumeAdded)))]
pub(super) async fn add(
    State(api): State<Api>,
    OfApp(app): OfApp,
    caller: Caller,
    headers: HeaderMap,
    Body(new): Body<NewVolume>,
) -> ApiResult<Json<VolumeAdded>> {
    let path = clean_path(&new.path)?;
    let repeated = match key_of(&headers)? {
        Some(key) => made_before(&api, &app, &key).await?,
        None => None,
    };
    let (before, taken) = find(&api, &app, &new, &path).await?;
    if let (Some(before), Some(deployment)) = (&before, repeated) {
        let volume = document(before.clone());
        return Ok(Json(VolumeAdded {
            volume,
            changed: true,
            has_data: false,
            deployment: Some(deployment),
        }));
    }
    if let Some(other) = taken {
        return Err(ApiError::new(ErrorCode::Conflict, format!("{path} holds the volume {other}"))
            .hint("choose another path, or remove that one first"));
    }
    let has_data = before.as_ref().is_some_and(|v| v.app_id.is_none());
    let row = VolumeRow {
        engine_name: match &before {
            Some(before) => before.engine_name.clone(),
            None => engine_name(&api, &app.name, &new.name)?,
        },
        app: app.name.clone(),
        app_id: Some(app.id),
        name: new.name.clone(),
        path: Some(path.clone()),
        shared: new.shared,
        created_at: before.as_ref().map_or_else(clock::now, |v| v.created_at),
    };
    if before.as_ref() == Some(&row) {
        return Ok(Json(VolumeAdded {
            volume: document(row),
            changed: false,
            has_data,
            deployment: None,
        }));
    }
    let description = format!("Volume {} at {path}", new.name);
    let put = row.clone();
    let change = move |tx: &rusqlite::Connection| store::put_volume(tx, &put);
    let deployment =
        settings::change(&api, &app, &caller, &headers, (description, true), change).await?;
    Ok(Json(VolumeAdded { volume: document(row), changed: true, has_data, deployment }))
}

/// The volume that is meant, if it is there already, and the app's volume that has its path.
async fn find(
    api: &Api,
    app: &AppRow,
    new: &NewVolume,
    path: &str,
) -> ApiResult<(Option<VolumeRow>, Option<VolumeName>)> {
    let owner = new.left_by.clone().unwrap_or_else(|| app.name.clone());
    let (id, name, at) = (app.id, new.name.clone(), path.to_owned());
    let (of, own) = (owner.clone(), app.name.clone());
    let read = api.core.store.read(move |c| {
        let taken = store::volumes_of(c, id)?;
        let taken = taken.into_iter().find(|v| v.path.as_ref() == Some(&at) && v.name != name);
        let known = store::volume(c, &of, &name)?;
        let in_the_way = of != own && store::volume(c, &own, &name)?.is_some();
        Ok((known, taken.map(|v| v.name), in_the_way))
    });
    let (known, taken, in_the_way) = read.await?;
    let name = &new.name;
    if new.left_by.is_some() {
        match &known {
            None => {
                return Err(ApiError::new(
                    ErrorCode::NotFound,
                    format!("{owner} left no volume named {name}"),
                )
                .hint("`mini volumes list --all` shows every volume"));
            }
            Some(v) if v.app_id.is_some_and(|of| of != app.id) => {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!("the volume {name} belongs to the app {owner}"),
                )
                .hint("two apps cannot have one volume; give this app one of its own"));
            }
            Some(_) if in_the_way => {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!("{} has a volume named {name} already", app.name),
                )
                .hint("`mini volumes list` shows it"));
            }
            Some(_) => {}
        }
    }
    Ok((known, taken))
}

/// Unique for ever: what was removed does not come back under an old name.
fn engine_name(api: &Api, app: &AppName, name: &VolumeName) -> ApiResult<String> {
    let random = hex::encode(&vault::random_id()?[..4]);
    Ok(format!("mini-{}-{app}-{name}-{random}", api.core.server.short()))
}

fn clean_path(path: &str) -> ApiResult<String> {
    let bad = |why: &str| {
        ApiError::invalid(format!("{path:?} cannot hold a volume: {why}"))
            .hint("name an absolute path inside the container, such as /data")
    };
    let trimmed = path.trim_end_matches('/');
    if !path.starts_with('/') {
        return Err(bad("it is not absolute"));
    }
    if trimmed.is_empty() {
        return Err(bad("it is the whole file system"));
    }
    let mut parts = trimmed[1..].split('/');
    if parts.any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(bad("it has empty or dotted parts"));
    }
    if trimmed.len() > LONGEST_PATH || trimmed.chars().any(char::is_control) {
        return Err(bad("it is too long, or has control characters"));
    }
    let inside = |top: &str| trimmed == top || trimmed.starts_with(&format!("{top}/"));
    if RESERVED.into_iter().any(inside) {
        return Err(bad("that belongs to the system"));
    }
    Ok(trimmed.to_owned())
}

#[derive(Deserialize)]
pub(super) struct Removal {
    /// The data go too.
    #[serde(default)]
    delete_data: bool,
}

/// Takes a volume from an app. Its data stay, unless they are to be deleted.
#[utoipa::path(delete, path = "/v1/apps/{app}/volumes/{volume}", params(("app" = String, Path), ("volume" = String, Path), ("delete_data" = Option<bool>, Query)), responses((status = 200, body = SettingsChanged)))]
pub(super) async fn remove(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Path((_, name)): Path<(String, String)>,
    Params(removal): Params<Removal>,
    caller: Caller,
    headers: HeaderMap,
) -> ApiResult<Json<SettingsChanged>> {
    let id = app.id;
    if let Some(key) = key_of(&headers)?
        && let Some(before) = made_before(&api, &app, &key).await?
    {
        // The answer to the first try was lost.
        return Ok(Json(SettingsChanged { changed: true, deployment: Some(before) }));
    }
    let all = api.core.store.read(move |c| store::volumes_of(c, id)).await?;
    let Some(row) = all.into_iter().find(|v| v.name.as_str() == name) else {
        return Err(missing(&app.name, &name));
    };
    let mounted = row.path.is_some();
    if !mounted && !removal.delete_data {
        return Ok(Json(SettingsChanged { changed: false, deployment: None }));
    }
    let what = if removal.delete_data { "with its data" } else { "its data stay" };
    let description = format!("Volume {name} removed, {what}");
    let change = move |tx: &rusqlite::Connection| match removal.delete_data {
        true => store::doom_volume(tx, &row.engine_name),
        false => store::put_volume(tx, &VolumeRow { path: None, ..row }),
    };
    let deployment =
        settings::change(&api, &app, &caller, &headers, (description, mounted), change).await?;
    crate::orphans::collect_later(&api.core);
    Ok(Json(SettingsChanged { changed: true, deployment }))
}

/// Deletes a volume that a destroyed app left.
#[utoipa::path(delete, path = "/v1/volumes/{app}/{volume}", params(("app" = String, Path), ("volume" = String, Path)), responses((status = 200, body = SettingsChanged)))]
pub(super) async fn delete_left(
    State(api): State<Api>,
    Path((app, name)): Path<(String, String)>,
) -> ApiResult<Json<SettingsChanged>> {
    let bad = |e: mini_core::name::BadName| ApiError::new(ErrorCode::InvalidName, e.to_string());
    let owner: AppName = app.parse().map_err(bad)?;
    let volume: VolumeName = name.parse().map_err(bad)?;
    let of = owner.clone();
    match api.core.store.read(move |c| store::volume(c, &of, &volume)).await? {
        None => Err(missing(&owner, &name)),
        Some(row) if row.app_id.is_some() => Err(ApiError::new(
            ErrorCode::Conflict,
            format!("the volume {name} belongs to the app {owner}"),
        )
        .hint(format!("mini volumes remove {name} --delete-data --app {owner}"))),
        Some(row) => {
            api.core.store.write(move |tx| store::doom_volume(tx, &row.engine_name)).await?;
            crate::orphans::collect_later(&api.core);
            Ok(Json(SettingsChanged { changed: true, deployment: None }))
        }
    }
}

fn missing(app: &AppName, name: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("{app} has no volume named {name}"))
        .hint("`mini volumes list` shows what it has, `mini volumes list --all` every volume")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_or_refused() {
        assert_eq!(clean_path("/data/").unwrap(), "/data");
        assert_eq!(clean_path("/var/lib/my data").unwrap(), "/var/lib/my data");
        for bad in ["", "data", "/", "//", "/a//b", "/a/../b", "/./a", "/proc", "/sys/x", "/a\n"] {
            assert!(clean_path(bad).is_err(), "{bad:?}");
        }
        assert!(clean_path("/process").is_ok(), "only whole parts are reserved");
    }
}
