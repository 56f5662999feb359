//! The image of a deployment: found, pulled, or built.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use mini_api::{DeploymentKind, DeploymentStatus};
use mini_core::cause::Cause;
use mini_core::fault;
use mini_core::id::DeploymentId;
use mini_core::name::ProcessType;
use mini_core::ports::{BuildSpec, ImageInfo, Items, Progress, RuntimeResult};
use mini_core::procfile;
use mini_core::source::SourceDigest;

use super::context::{self, Kind, Looked};
use super::manifest::Manifest;
use super::output::OutputSink;
use super::{Stopped, note, set_status};
use crate::core::Core;
use crate::env;
use crate::ownership;
use crate::store::{self, AppRow, DeploymentRow};

/// What a deployment runs: an image, and the commands that a Procfile names.
pub(super) struct Built {
    pub(super) image: ImageInfo,
    /// Empty: the image's own command is the one process.
    pub(super) commands: BTreeMap<ProcessType, Vec<String>>,
    pub(super) manifest: Manifest,
}

pub(super) async fn image(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
) -> Result<Built, Stopped> {
    match (&d.source, &d.image_name) {
        (Some(source), _) => from_source(core, app, d, source).await,
        (None, Some(name)) => {
            let image = ready_made(core, app, d, name).await?;
            Ok(Built { image, commands: BTreeMap::new(), manifest: Manifest::default() })
        }
        (None, None) => Err(Stopped::Cause(Cause::new(
            "nothing_to_deploy",
            "the deployment names neither a source nor an image",
        ))),
    }
}

/// A ready image: the engine's own if it has it, else pulled.
async fn ready_made(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    name: &str,
) -> Result<ImageInfo, Stopped> {
    let present = core.runtime.image(name.to_owned()).await?;
    if let Some(image) = present
        && !d.rebuild
    {
        return theirs(core, d, name, image).await;
    }
    set_status(core, &d.id, DeploymentStatus::Building).await?;
    let id = follow_in_time(core, app, d, core.runtime.pull(name.to_owned())).await?;
    // A registry can name what the engine has already, and need not have it itself.
    let image = found(core, id).await?;
    theirs(core, d, name, image).await
}

/// The image, if whoever asked for the deployment may run it: by its id, whatever its name leads to.
async fn theirs(
    core: &Arc<Core>,
    d: &DeploymentRow,
    name: &str,
    image: ImageInfo,
) -> Result<ImageInfo, Stopped> {
    let Some(id) = d.token.clone() else { return Ok(image) };
    let judged = core.store.read(move |c| match store::token(c, &id)? {
        Some(token) => Ok(ownership::may_run(c, &token, &image)?.then_some(image)),
        // Tokens are never deleted; what is not known may nothing.
        None => Ok(None),
    });
    judged.await?.ok_or_else(|| {
        let (message, hint) = ownership::refusal(d.created_by.as_deref().unwrap_or(""), name);
        Stopped::Cause(Cause::new("out_of_scope", message).hint(hint))
    })
}

pub(super) async fn from_source(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    source: &SourceDigest,
) -> Result<Built, Stopped> {
    let tar = core.sources.path(source);
    let Looked { kind, procfile, manifest } = look(source, tar.clone()).await?;
    let commands = match procfile.as_deref().map(procfile::parse).transpose() {
        Ok(commands) => commands.unwrap_or_default(),
        Err(error) => {
            return Err(Stopped::Cause(
                Cause::new("bad_procfile", error.to_string())
                    .hint("a line is `<type>: <command>`, such as `worker: node worker.js`"),
            ));
        }
    };
    let manifest = match Manifest::parse(manifest.as_deref().unwrap_or_default()) {
        Ok(manifest) => manifest,
        Err(why) => {
            return Err(Stopped::Cause(
                Cause::new("bad_manifest", format!("mini.toml: {why}")).hint(
                    "it may hold [health] path, [deploy] strategy, [timing] boot_timeout_s, drain_s, \
                     grace_s, release_s, and [http] https_redirect, hsts, basic_auth, allow, \
                     body_limit, protocol, log_query, connect_timeout, first_byte_timeout, \
                     idle_timeout, upgraded_idle_timeout",
                ),
            ));
        }
    };
    // A rollback that builds again has the config vars of its release.
    if d.kind == DeploymentKind::Deploy {
        let id = app.id;
        let sealed = core.store.read(move |c| store::env_of(c, id)).await?;
        manifest.http().check_passwords(&env::open(&core.vault, app.id, sealed)?)?;
    }
    if !d.rebuild
        && let Some(image) = built_before(core, app, d, source).await?
    {
        return Ok(Built { image, commands, manifest });
    }
    fault::point("build.looked");
    set_status(core, &d.id, DeploymentStatus::Building).await?;
    fault::point("build.status");
    let (dockerfile, stream) = match kind {
        Kind::Dockerfile => ("Dockerfile".to_owned(), context::as_it_is(tar)),
        Kind::Static { pages } => {
            let pages = if pages == 1 { "1 page".into() } else { format!("{pages} pages") };
            let text = format!("No Dockerfile: serving the folder as a static site ({pages})");
            note(core, &app.name, &d.id, &text).await?;
            let binary = core.config.static_binary.clone();
            if !binary.is_file() {
                tracing::error!(path = %binary.display(), "the static-file server is missing");
                return Err(Stopped::Cause(
                    Cause::new(
                        "static_server_missing",
                        "the server has no static-file server installed",
                    )
                    .hint("set MINID_STATIC on the server to where mini-static lies"),
                ));
            }
            (context::DOCKERFILE.to_owned(), context::with_static_server(tar, binary))
        }
        Kind::Language { file } => {
            return Err(Stopped::Cause(
                Cause::new("no_dockerfile", format!("there is no Dockerfile (but {file})"))
                    .hint("add a Dockerfile that builds and starts the app"),
            ));
        }
        Kind::Nothing => {
            return Err(Stopped::Cause(
                Cause::new(
                    "nothing_to_deploy",
                    "there is no Dockerfile and no index.html: nothing to build or serve",
                )
                .hint("add a Dockerfile, or an index.html for a static site"),
            ));
        }
    };
    let spec = BuildSpec {
        app: app.name.clone(),
        deployment: d.id.clone(),
        dockerfile,
        context: stream,
        use_cache: !d.rebuild,
        secret: secret(core, app),
    };
    let built = follow_in_time(core, app, d, core.builder.build(spec)).await?;
    Ok(Built { image: found(core, built).await?, commands, manifest })
}

/// Of this app and no later one of its name.
fn secret(core: &Core, app: &AppRow) -> String {
    core.vault.word_for(&format!("builds of {} since {}", app.name, app.created_at.0))
}

/// Builds a kept source as its deployment did, and makes no release: for an image that a restored
/// platform lacks.
pub(crate) async fn build_again(
    core: &Arc<Core>,
    app: &AppRow,
    deployment: &DeploymentId,
    source: &SourceDigest,
) -> Result<Items<RuntimeResult<Progress>>, Cause> {
    let tar = core.sources.path(source);
    let looked = look(source, tar.clone()).await.map_err(|stopped| match stopped {
        Stopped::Cause(cause) => cause,
        other => Cause::new("source_lost", other.to_string()),
    })?;
    let (dockerfile, context) = match looked.kind {
        Kind::Dockerfile => ("Dockerfile", context::as_it_is(tar)),
        Kind::Static { .. } => {
            let server = core.config.static_binary.clone();
            (context::DOCKERFILE, context::with_static_server(tar, server))
        }
        Kind::Language { .. } | Kind::Nothing => {
            return Err(Cause::new("no_dockerfile", "its source holds nothing that can be built"));
        }
    };
    Ok(core.builder.build(BuildSpec {
        app: app.name.clone(),
        deployment: deployment.clone(),
        dockerfile: dockerfile.to_owned(),
        context,
        use_cache: true,
        secret: secret(core, app),
    }))
}

async fn look(source: &SourceDigest, tar: PathBuf) -> Result<Looked, Stopped> {
    let looked = tokio::task::spawn_blocking(move || context::look(&tar)).await;
    let why = match looked {
        Ok(Ok(looked)) => return Ok(looked),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(%source, %why, "a kept source cannot be read");
    Err(Stopped::Cause(
        Cause::new("source_lost", "the kept source cannot be read any more")
            .hint("deploy the folder again"),
    ))
}

/// The image of the last release of the same source, if the engine still has it.
async fn built_before(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    source: &SourceDigest,
) -> Result<Option<ImageInfo>, Stopped> {
    let (app_id, digest) = (app.id, source.clone());
    let before = core.store.read(move |c| store::release_of_source(c, app_id, &digest)).await?;
    let Some(release) = before else { return Ok(None) };
    let image = core.runtime.image(release.spec.image.clone()).await?;
    if image.is_some() {
        fault::point("build.again");
        let text = format!("The source is that of v{}: its image is used again", release.number);
        note(core, &app.name, &d.id, &text).await?;
    }
    Ok(image)
}

/// The id of the image, if it comes within the time for builds.
async fn follow_in_time(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    progress: Items<RuntimeResult<Progress>>,
) -> Result<String, Stopped> {
    let timeout = core.config.build_timeout;
    let followed = tokio::time::timeout(timeout, follow(core, app, d, progress));
    followed.await.unwrap_or_else(|_| {
        let minutes = timeout.as_secs().div_ceil(60);
        let what = if d.source.is_some() { "build" } else { "pull" };
        Err(Stopped::Cause(
            Cause::new(
                "build_timeout",
                format!("the {what} took longer than {minutes} minutes and was stopped"),
            )
            .hint("make it faster, or allow it more time on the server"),
        ))
    })
}

/// Passes output on to its end; the id of the image.
async fn follow(
    core: &Arc<Core>,
    app: &AppRow,
    d: &DeploymentRow,
    mut progress: Items<RuntimeResult<Progress>>,
) -> Result<String, Stopped> {
    let mut output = OutputSink::new(core, &app.name, &d.id);
    let ended = loop {
        let item = tokio::select! {
            item = progress.next() => item,
            () = output.due() => {
                output.flush().await?;
                continue;
            }
        };
        match item {
            Some(Ok(Progress::Line(line))) => {
                fault::point("build.output");
                output.line(line).await?;
            }
            // Bars need a terminal at the server's end; lines tell enough.
            Some(Ok(Progress::Bytes { .. })) => {}
            Some(Ok(Progress::Image(id))) => {
                fault::point("build.image");
                break Ok(id);
            }
            Some(Err(error)) => break Err(error.into()),
            None => {
                break Err(Stopped::EngineAway(
                    Cause::new("engine_unavailable", "the engine broke off without a result")
                        .hint("deploy again; `minid doctor` on the server says whether it is well"),
                ));
            }
        }
    };
    output.flush().await?;
    ended.map_err(|stopped| match stopped {
        Stopped::Cause(mut cause) => {
            if cause.code == "build_failed" {
                cause.log_tail = output.tail();
            }
            Stopped::Cause(cause)
        }
        other => other,
    })
}

async fn found(core: &Arc<Core>, id: String) -> Result<ImageInfo, Stopped> {
    core.runtime.image(id.clone()).await?.ok_or_else(|| {
        Stopped::Cause(Cause::new("image_not_found", format!("the image {id} is gone again")))
    })
}
