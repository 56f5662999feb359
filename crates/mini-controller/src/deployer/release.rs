//! Making a release, and handing it to the planner as the candidate, in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use mini_api::DeploymentStatus;
use mini_core::cause::Cause;
use mini_core::name::ProcessType;
use mini_core::plan::Desired;
use mini_core::release::{DEFAULT_PORT, Limits, ProcessSpec, ReleaseSpec};

use super::Stopped;
use super::build::Built;
use crate::clock;
use crate::core::Core;
use crate::env;
use crate::store::{self, AppRow, DeploymentRow, ReleaseRow, StoreError};

pub(super) async fn from_image(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    Built { image, commands, manifest }: Built,
) -> Result<(), Stopped> {
    if commands.is_empty() && !image.has_command {
        return Err(Stopped::Cause(
            Cause::new(
                "no_command",
                "the image says neither CMD nor ENTRYPOINT: there is nothing to run",
            )
            .hint("add a CMD to the Dockerfile, or a Procfile"),
        ));
    }
    let vars = current_env(core, app).await?;
    let spec = ReleaseSpec {
        image: image.id,
        port: port(&vars, &image.ports)?,
        processes: processes(core, app, d, commands).await?,
        health: manifest.health(),
        timing: manifest.timing(&core.config.timing),
    };
    roll_out(core, app, d, (spec, vars), Vec::new()).await
}

/// The process types of a release: the Procfile's, else `web` with the image's own command. Of
/// `web` there is one to begin with, of all others none.
async fn processes(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    mut commands: BTreeMap<ProcessType, Vec<String>>,
) -> Result<BTreeMap<ProcessType, ProcessSpec>, Stopped> {
    let own = |command, count| ProcessSpec { command, count, limits: Limits::default() };
    if let Ok(release) = "release".parse::<ProcessType>()
        && commands.remove(&release).is_some()
    {
        let text = "This version does not run the Procfile's `release` command";
        super::note(core, &app.name, &d.id, text).await?;
    }
    if commands.is_empty() {
        return Ok(BTreeMap::from([(ProcessType::web(), own(None, 1))]));
    }
    let with_count = |(process, command): (ProcessType, Vec<String>)| {
        let count = u32::from(process.is_web());
        (process, own(Some(command), count))
    };
    Ok(commands.into_iter().map(with_count).collect())
}

/// The same code with the config vars as they are now.
pub(super) async fn with_new_env(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
) -> Result<(), Stopped> {
    let live = live_release(core, app).await?;
    let vars = current_env(core, app).await?;
    let mut spec = live.spec;
    let image = core.runtime.image(spec.image.clone()).await?.ok_or_else(|| {
        Stopped::Cause(
            Cause::new(
                "image_not_found",
                format!("the image of v{} is gone from the engine", live.number),
            )
            .hint("deploy the app again"),
        )
    })?;
    spec.port = port(&vars, &image.ports)?;
    let d = DeploymentRow { source: live.source, image_name: live.image_name, ..d.clone() };
    roll_out(core, app, &d, (spec, vars), Vec::new()).await
}

/// A new release with everything of an older one: image, config vars, processes, limits.
pub(super) async fn back(core: &Arc<Core>, app: &AppRow, d: &DeploymentRow) -> Result<(), Stopped> {
    let (app_id, target) = (app.id, d.target.unwrap_or_default());
    let found = core.store.read(move |c| store::release(c, app_id, target)).await?;
    let old = found.ok_or_else(|| {
        Stopped::Cause(
            Cause::new("no_such_release", format!("there is no release v{target}"))
                .hint("`mini releases` lists them"),
        )
    })?;
    if core.runtime.image(old.spec.image.clone()).await?.is_none() {
        return Err(Stopped::Cause(
            Cause::new(
                "image_not_found",
                format!("the image of v{target} is gone from the engine"),
            )
            .hint("deploy its source again: `mini deploy` builds it anew"),
        ));
    }
    let vars = env::of_release(&core.vault, app.id, &old)?;
    let mut changes = Vec::new();
    for (name, _) in core.store.read(move |c| store::env_of(c, app_id)).await? {
        if !vars.contains_key(&name) {
            changes.push((name, None));
        }
    }
    for (name, value) in &vars {
        let sealed = core.vault.seal(&env::purpose(app.id, name), value.as_bytes())?;
        changes.push((name.clone(), Some(sealed)));
    }
    let d = DeploymentRow { source: old.source, image_name: old.image_name, ..d.clone() };
    roll_out(core, app, &d, (old.spec, vars), changes).await
}

/// The same release with new instances.
pub(super) async fn again(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
) -> Result<(), Stopped> {
    let live = live_release(core, app).await?;
    let (app_id, id, now) = (app.id, d.id.clone(), clock::now());
    let moved = core.store.write(move |tx| store::begin_again(tx, app_id, &id, live.number, now));
    let moved = moved.await?;
    core.events_stored();
    if moved { Ok(()) } else { Err(Stopped::Finished) }
}

async fn live_release(core: &Arc<Core>, app: &AppRow) -> Result<ReleaseRow, Stopped> {
    let app_id = app.id;
    let found = core.store.read(move |c| {
        // The row that came with the job may be older than the job's turn.
        let live = store::app_by_id(c, app_id)?.and_then(|a| a.live_release);
        live.map_or(Ok(None), |number| store::release(c, app_id, number))
    });
    found.await?.ok_or_else(|| {
        Stopped::Cause(
            Cause::new("nothing_deployed", "the app has no release yet").hint("deploy it first"),
        )
    })
}

async fn current_env(core: &Arc<Core>, app: &AppRow) -> Result<BTreeMap<String, String>, Stopped> {
    let app_id = app.id;
    let sealed = core.store.read(move |c| store::env_of(c, app_id)).await?;
    Ok(env::open(&core.vault, app.id, sealed)?)
}

/// `PORT` of the user, else the one port that the image exposes, else the default.
fn port(vars: &BTreeMap<String, String>, exposed: &[u16]) -> Result<u16, Stopped> {
    match (vars.get("PORT"), exposed) {
        (Some(text), _) => text.parse().ok().filter(|p| *p > 0).ok_or_else(|| {
            Stopped::Cause(
                Cause::new(
                    "bad_port",
                    format!("the config var PORT is {text:?}, which is no port"),
                )
                .hint("set it to a number from 1 to 65535, or unset it"),
            )
        }),
        (None, [only]) => Ok(*only),
        (None, _) => Ok(DEFAULT_PORT),
    }
}

async fn roll_out(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    (spec, vars): (ReleaseSpec, BTreeMap<String, String>),
    env_changes: Vec<(String, Option<Vec<u8>>)>,
) -> Result<(), Stopped> {
    let (inner, app_id, d, now) = (core.clone(), app.id, d.clone(), clock::now());
    let released = core.store.write(move |tx| {
        // Cancelled or destroyed while it was built: the whole transaction comes to nothing.
        if !store::set_status(tx, &d.id, DeploymentStatus::Starting, now)? {
            return Ok(None);
        }
        let number = store::next_release_number(tx, app_id)?;
        let release = ReleaseRow {
            number,
            created_at: now,
            description: d.description,
            spec,
            env: env::seal_for_release(&inner.vault, app_id, number, &vars)?,
            image_name: d.image_name,
            source: d.source,
            deployment: d.id.clone(),
            created_by: d.created_by,
        };
        store::insert_release(tx, app_id, &release)?;
        store::set_release(tx, &d.id, number)?;
        store::set_desired(tx, app_id, Desired::Run)?;
        // What is set is what the release has: the next deploy starts from there.
        store::change_env(tx, app_id, &env_changes)?;
        Ok::<_, StoreError>(Some(number))
    });
    let number = released.await?.ok_or(Stopped::Finished)?;
    core.events_stored();
    core.logs.say(&app.name, "deploy", format!("Release v{number} created"));
    Ok(())
}
