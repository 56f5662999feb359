//! What one instance of each process type may use.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use mini_api::{AllLimits, ErrorCode, Limits, SettingsChanged};
use mini_core::cause::size;
use mini_core::name::ProcessType;
use mini_core::release;

use super::Api;
use super::auth::Caller;
use super::body::{Json as Body, OfApp};
use super::deployments::{key_of, made_before};
use super::error::{ApiError, ApiResult};
use super::settings;
use crate::store::{self, AppRow};

/// The least that an engine takes.
const LEAST_MEMORY: u64 = 6 << 20;
const LEAST_CPU_MILLIS: u32 = 10;
/// The program, its init, and some room.
const LEAST_PIDS: u32 = 8;
const MOST_PIDS: u32 = 1 << 22;

pub(super) fn document(limits: release::Limits) -> Limits {
    let release::Limits { memory_bytes, cpu_millis, pids } = limits;
    Limits { memory_bytes, cpu_millis, pids }
}

/// The limits that were set.
#[utoipa::path(get, path = "/v1/apps/{app}/limits", params(("app" = String, Path)), responses((status = 200, body = AllLimits)))]
pub(super) async fn show(State(api): State<Api>, OfApp(app): OfApp) -> ApiResult<Json<AllLimits>> {
    let limits = api.core.store.read(move |c| store::limits_of(c, app.id)).await?;
    let limits = limits.into_iter().map(|(p, limits)| (p.to_string(), document(limits)));
    Ok(Json(AllLimits { limits: limits.collect() }))
}

/// Sets all limits of one process type; what is left out is the platform's default again.
#[utoipa::path(put, path = "/v1/apps/{app}/limits/{process}", params(("app" = String, Path), ("process" = String, Path)), request_body = Limits, responses((status = 200, body = SettingsChanged)))]
pub(super) async fn set(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Path((_, process)): Path<(String, String)>,
    caller: Caller,
    headers: HeaderMap,
    Body(wanted): Body<Limits>,
) -> ApiResult<Json<SettingsChanged>> {
    if let Some(key) = key_of(&headers)?
        && let Some(before) = made_before(&api, &app, &key).await?
    {
        return Ok(Json(SettingsChanged { changed: true, deployment: Some(before) }));
    }
    let process = known(&api, &app, &process).await?;
    check(&api, &wanted).await?;
    let (id, own) = (app.id, process.clone());
    let before = api.core.store.read(move |c| Ok(store::limits_of(c, id)?.remove(&own))).await?;
    let Limits { memory_bytes, cpu_millis, pids } = wanted;
    let limits = release::Limits { memory_bytes, cpu_millis, pids };
    if before.unwrap_or_default() == limits {
        return Ok(Json(SettingsChanged { changed: false, deployment: None }));
    }
    let description = format!("Limits of {process}: {}", words(&limits));
    let change = move |tx: &rusqlite::Connection| store::set_limits(tx, id, &process, &limits);
    let deployment =
        settings::change(&api, &app, &caller, &headers, (description, true), change).await?;
    Ok(Json(SettingsChanged { changed: true, deployment }))
}

fn words(limits: &release::Limits) -> String {
    let memory = limits.memory_bytes.map(|bytes| format!("memory {}", size(bytes)));
    let cpu = limits.cpu_millis.map(|m| format!("cpu {}", f64::from(m) / 1000.0));
    let pids = limits.pids.map(|n| format!("pids {n}"));
    let all: Vec<String> = [memory, cpu, pids].into_iter().flatten().collect();
    if all.is_empty() { "the defaults".to_owned() } else { all.join(", ") }
}

/// The process type, which the live release must have if there is one.
async fn known(api: &Api, app: &AppRow, name: &str) -> ApiResult<ProcessType> {
    let process: ProcessType = name.parse().map_err(|error: mini_core::name::BadName| {
        ApiError::new(ErrorCode::InvalidName, error.to_string())
    })?;
    let (id, live) = (app.id, app.live_release);
    let release =
        api.core.store.read(move |c| live.map_or(Ok(None), |number| store::release(c, id, number)));
    match release.await? {
        Some(release) if !release.spec.processes.contains_key(&process) => {
            let all = release.spec.processes.keys().map(ProcessType::as_str);
            let all = all.collect::<Vec<_>>().join(", ");
            Err(ApiError::invalid(format!("{} has no process type {process}", app.name))
                .hint(format!("it has: {all}; a Procfile names others")))
        }
        _ => Ok(process),
    }
}

async fn check(api: &Api, wanted: &Limits) -> ApiResult<()> {
    let engine = api.core.runtime.info().await?;
    if let Some(bytes) = wanted.memory_bytes
        && !(LEAST_MEMORY..=engine.memory_bytes).contains(&bytes)
    {
        let (least, most) = (size(LEAST_MEMORY), size(engine.memory_bytes));
        return Err(ApiError::invalid(format!("a memory limit of {} cannot be kept", size(bytes)))
            .hint(format!("from {least} to the machine's {most}")));
    }
    let most_cpu = engine.cpus.saturating_mul(1000);
    if let Some(millis) = wanted.cpu_millis
        && !(LEAST_CPU_MILLIS..=most_cpu).contains(&millis)
    {
        let cpu = f64::from(millis) / 1000.0;
        return Err(ApiError::invalid(format!("a limit of {cpu} processors cannot be kept"))
            .hint(format!("from 0.01 to the machine's {}", engine.cpus)));
    }
    if let Some(pids) = wanted.pids
        && !(LEAST_PIDS..=MOST_PIDS).contains(&pids)
    {
        return Err(ApiError::invalid(format!("a limit of {pids} processes cannot be kept"))
            .hint(format!("from {LEAST_PIDS} to {MOST_PIDS}; 512 is the default")));
    }
    Ok(())
}
