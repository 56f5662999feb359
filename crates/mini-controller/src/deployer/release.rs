//! Making a release, and handing it to the planner as the candidate, in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use mini_api::DeploymentStatus;
use mini_core::cause::Cause;
use mini_core::fault;
use mini_core::name::ProcessType;
use mini_core::plan::Desired;
use mini_core::release::{DEFAULT_PORT, Limits, Mount, ProcessSpec, ReleaseSpec, Strategy};
use mini_core::rules::Rules;
use mini_core::source::SourceDigest;

use super::Stopped;
use super::build::Built;
use crate::clock;
use crate::core::Core;
use crate::env;
use crate::store::{self, AppRow, DeploymentRow, ReleaseRow, StoreError};

/// What the user set for an app: it goes into each release that is made.
struct Settings {
    vars: BTreeMap<String, String>,
    limits: BTreeMap<ProcessType, Limits>,
    mounts: Vec<Mount>,
}

impl Settings {
    async fn now(core: &Arc<Core>, app: &AppRow) -> Result<Self, Stopped> {
        let id = app.id;
        let read = core.store.read(move |c| {
            Ok((store::env_of(c, id)?, store::limits_of(c, id)?, store::mounts_of(c, id)?))
        });
        let (sealed, limits, mounts) = read.await?;
        Ok(Self { vars: env::open(&core.vault, id, sealed)?, limits, mounts })
    }

    fn limits(&self, process: &ProcessType) -> Limits {
        self.limits.get(process).cloned().unwrap_or_default()
    }
}

pub(super) async fn from_image(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    Built { image, mut commands, manifest }: Built,
) -> Result<(), Stopped> {
    let release_command = commands.remove(&ProcessType::release());
    if commands.is_empty() && !image.has_command {
        return Err(Stopped::Cause(
            Cause::new(
                "no_command",
                "the image says neither CMD nor ENTRYPOINT: there is nothing to run",
            )
            .hint("add a CMD to the Dockerfile, or a Procfile"),
        ));
    }
    let settings = Settings::now(core, app).await?;
    let asked = d.strategy.or_else(|| manifest.strategy());
    let mut health = manifest.health();
    let mut timing = manifest.timing(&core.config.timing);
    if health.path.is_none() {
        // A path in its place is the app's own word, and stands above the image's.
        health.check = image.check;
        let says = health.check.as_ref().map_or(0, |check| check.start_period_ms);
        timing.boot_timeout_ms = timing.boot_timeout_ms.max(says);
    }
    let mut spec = ReleaseSpec {
        image: image.id,
        port: port(&settings.vars, &image.ports)?,
        processes: processes(commands, &settings),
        health,
        timing,
        release_command,
        strategy: asked.unwrap_or_default(),
        volumes: settings.mounts,
        rules: Rules::default(),
        password_vars: BTreeMap::new(),
    };
    manifest.http().apply(&mut spec, &settings.vars)?;
    for user in manifest.http().in_the_clear() {
        let text = format!(
            "mini.toml holds the password of {user} in the clear: \"$NAME\" in its place takes it \
             from the config var NAME"
        );
        super::note(core, &app.name, &d.id, &text).await?;
    }
    if asked == Some(Strategy::Rolling)
        && let Some(volume) = spec.volumes.iter().find(|v| !v.shared)
    {
        let name = &volume.volume;
        return Err(Stopped::Cause(
            Cause::new(
                "strategy_conflict",
                format!("two releases at once would both write the volume {name}"),
            )
            .hint(format!(
                "leave the strategy out, or say that they may: mini volumes add {name}:{} --shared",
                volume.path
            )),
        ));
    }
    roll_out(core, app, d, (spec, settings.vars), Changes::default()).await
}

/// The process types of a release: the Procfile's, else `web` with the image's own command. Of
/// `web` there is one to begin with, of all others none.
fn processes(
    commands: BTreeMap<ProcessType, Vec<String>>,
    settings: &Settings,
) -> BTreeMap<ProcessType, ProcessSpec> {
    let own = |process: ProcessType, command| {
        let (count, limits) = (u32::from(process.is_web()), settings.limits(&process));
        (process, ProcessSpec { command, count, limits })
    };
    if commands.is_empty() {
        return BTreeMap::from([own(ProcessType::web(), None)]);
    }
    commands.into_iter().map(|(process, command)| own(process, Some(command))).collect()
}

/// The same code with the config vars, limits and volumes as they are now.
pub(super) async fn with_new_settings(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
) -> Result<(), Stopped> {
    let live = live_release(core, app).await?;
    let settings = Settings::now(core, app).await?;
    let mut spec = live.spec;
    let found = core.runtime.image(spec.image.clone()).await?;
    let image = found.ok_or_else(|| image_is_gone(core, live.number, live.source.as_ref()))?;
    spec.port = port(&settings.vars, &image.ports)?;
    for (process, own) in &mut spec.processes {
        own.limits = settings.limits(process);
    }
    spec.volumes = settings.mounts;
    super::http::renew_passwords(&mut spec, &settings.vars)?;
    let d = DeploymentRow { source: live.source, image_name: live.image_name, ..d.clone() };
    roll_out(core, app, &d, (spec, settings.vars), Changes::default()).await
}

/// A new release with everything of an older one: image, config vars, processes, limits, volumes.
pub(super) async fn back(core: &Arc<Core>, app: &AppRow, d: &DeploymentRow) -> Result<(), Stopped> {
    let (app_id, target) = (app.id, d.target.unwrap_or_default());
    let found = core.store.read(move |c| store::release(c, app_id, target)).await?;
    let mut old = found.ok_or_else(|| {
        Stopped::Cause(
            Cause::new("no_such_release", format!("there is no release v{target}"))
                .hint("`mini releases` lists them"),
        )
    })?;
    if core.runtime.image(old.spec.image.clone()).await?.is_none() {
        let gone = || image_is_gone(core, target, old.source.as_ref());
        let source = old.source.as_ref().filter(|_| d.rebuild);
        let source = source.filter(|s| core.sources.has(s)).ok_or_else(gone)?;
        let text = format!("The image of v{target} is gone: building it again from its source");
        super::note(core, &app.name, &d.id, &text).await?;
        old.spec.image = super::build::from_source(core, app, d, source).await?.image.id;
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
    let changes = Changes { env: changes, settings: true };
    roll_out(core, app, &d, (old.spec, vars), changes).await
}

fn image_is_gone(core: &Core, release: u32, source: Option<&SourceDigest>) -> Stopped {
    let message = format!("the image of v{release} is gone from the engine");
    let hint = match source {
        Some(source) if core.sources.has(source) => {
            format!("its source is kept: `mini rollback v{release} --rebuild` builds it again")
        }
        Some(_) => "its source is not kept any more: deploy it from your folder again".to_owned(),
        None => "deploy the image again: `mini deploy --image` pulls it".to_owned(),
    };
    Stopped::Cause(Cause::new("image_not_found", message).hint(hint))
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
    fault::point("release.again");
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

/// What a release changes of the app's settings: none, unless it brings older ones back.
#[derive(Default)]
struct Changes {
    env: Vec<(String, Option<Vec<u8>>)>,
    /// Limits and volumes become those of the release.
    settings: bool,
}

async fn roll_out(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    (spec, vars): (ReleaseSpec, BTreeMap<String, String>),
    changes: Changes,
) -> Result<(), Stopped> {
    let (inner, app_id, d, now) = (core.clone(), app.id, d.clone(), clock::now());
    let (name, id) = (app.name.clone(), d.id.clone());
    fault::point("release.begun");
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
            prepared: false,
        };
        store::insert_release(tx, app_id, &release)?;
        store::set_release(tx, &d.id, number)?;
        store::set_desired(tx, app_id, Desired::Run)?;
        // What is set is what the release has: the next deploy starts from there.
        store::change_env(tx, app_id, &changes.env)?;
        let mut empty = Vec::new();
        if changes.settings {
            empty = store::take_settings(tx, (app_id, &name), &release.spec, now)?;
        }
        Ok::<_, StoreError>(Some((number, empty)))
    });
    let (number, empty) = released.await?.ok_or(Stopped::Finished)?;
    fault::point("release.made");
    core.events_stored();
    for volume in empty {
        let text = format!("The data of the volume {volume} were removed since: it begins empty");
        super::note(core, &app.name, &id, &text).await?;
    }
    core.logs.say(&app.name, "deploy", format!("Release v{number} created"));
    Ok(())
}
