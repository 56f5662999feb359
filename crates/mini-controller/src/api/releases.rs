//! Releases: listed, and looked at.

use axum::Json;
use axum::extract::{Path, State};
use mini_api::{ErrorCode, ReleaseInfo, Releases};
use mini_core::release::{Limits, Strategy};
use mini_core::source::SourceDigest;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Api;
use super::body::{OfApp, Params};
use super::error::{ApiError, ApiResult};
use super::view;
use crate::env;
use crate::store;

/// Shown by default (CONTRACTS, "Releases").
const LISTED: u32 = 15;

#[derive(Deserialize)]
pub(super) struct Count {
    n: Option<u32>,
}

/// The newest releases.
#[utoipa::path(get, path = "/v1/apps/{app}/releases", params(("app" = String, Path), ("n" = Option<u32>, Query)), responses((status = 200, body = Releases)))]
pub(super) async fn list(
    State(api): State<Api>,
    OfApp(row): OfApp,
    Params(count): Params<Count>,
) -> ApiResult<Json<Releases>> {
    let (id, n) = (row.id, count.n.unwrap_or(LISTED).min(10_000));
    let found = api.core.store.read(move |c| {
        let mut found = Vec::new();
        for release in store::releases(c, id, n)? {
            let status = store::deployment(c, &release.deployment)?.map(|d| d.status);
            found.push((release, status));
        }
        Ok(found)
    });
    let found = found.await?.into_iter();
    Ok(Json(Releases {
        releases: found.map(|(r, status)| view::release(&row, r, status)).collect(),
    }))
}

/// All of one release; of config vars the names, and fingerprints of the values.
#[utoipa::path(get, path = "/v1/apps/{app}/releases/{release}", params(("app" = String, Path), ("release" = String, Path)), responses((status = 200, body = ReleaseInfo)))]
pub(super) async fn show(
    State(api): State<Api>,
    OfApp(row): OfApp,
    Path((_, name)): Path<(String, String)>,
) -> ApiResult<Json<ReleaseInfo>> {
    let (id, number) = (row.id, number(&name)?);
    let found = api.core.store.read(move |c| {
        let Some(release) = store::release(c, id, number)? else { return Ok(None) };
        let status = store::deployment(c, &release.deployment)?.map(|d| d.status);
        Ok(Some((release, status)))
    });
    let Some((release, status)) = found.await? else { return Err(missing(&row.name, number)) };
    let vars = env::of_release(&api.core.vault, id, &release)?;
    // The release's own number is not part of it, so that the same value looks the same everywhere.
    let fingerprint = |name: &str, value: &str| {
        let secret = api.core.vault.fingerprint_key();
        let parts = [&secret[..], &id.to_le_bytes(), name.as_bytes(), b"=", value.as_bytes()];
        hex::encode(&Sha256::digest(parts.concat())[..6])
    };
    let env = vars.iter().map(|(name, value)| (name.clone(), fingerprint(name, value))).collect();
    let spec = release.spec.clone();
    let own_limits = spec.processes.iter().filter(|(_, own)| own.limits != Limits::default());
    let limits =
        own_limits.map(|(p, own)| (p.to_string(), super::limits::document(own.limits.clone())));
    let volumes = spec.volumes.iter().map(|v| (v.volume.to_string(), v.path.clone()));
    let strategy = if spec.recreates() { Strategy::Recreate } else { Strategy::Rolling };
    Ok(Json(ReleaseInfo {
        image_id: spec.image,
        source: release.source.as_ref().map(SourceDigest::to_string),
        port: spec.port,
        health_path: spec.health.path,
        limits: limits.collect(),
        volumes: volumes.collect(),
        http: spec.rules.words(),
        strategy,
        release_command: spec.release_command,
        processes: spec.processes.into_iter().map(|(p, s)| (p.to_string(), s.command)).collect(),
        env,
        release: view::release(&row, release, status),
    }))
}

/// `v12`, or 12.
pub(super) fn number(name: &str) -> ApiResult<u32> {
    let number = name.strip_prefix('v').unwrap_or(name).parse().ok();
    number.ok_or_else(|| {
        ApiError::invalid(format!("{name:?} is no release: v12, or 12"))
            .hint("`mini releases` lists them")
    })
}

pub(super) fn missing(app: &mini_core::name::AppName, number: u32) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("{app} has no release v{number}"))
        .hint("`mini releases` lists them")
}
