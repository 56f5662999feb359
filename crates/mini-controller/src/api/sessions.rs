//! Commands that somebody is attached to, and one-offs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use mini_api::ErrorCode;
use mini_api::session::{INSTANCE_HEADER, NewExec, NewRun, Run, Terminal, UPGRADE};
use mini_core::id::InstanceId;
use mini_core::name::{AppName, ProcessType};
use mini_core::plan::Desired;
use mini_core::ports::{
    ExecSpec, Instance, InstanceSpec, InstanceState, OneOff, RuntimeError, RuntimeErrorKind,
    Session, TerminalSize,
};
use mini_core::release::Limits;

use super::Api;
use super::apps::nothing_deployed;
use super::auth::Caller;
use super::body::{Json as Body, OfApp};
use super::error::{ApiError, ApiResult};
use super::lasting;
use crate::actions::{self, Problem};
use crate::core::Core;
use crate::drivers::Handle;
use crate::sessions::{self, Input};
use crate::store::{self, AppRow, ReleaseRow};
use crate::vault;

/// One-offs of an app at once, so that a rollout still finds addresses.
const MAX_ONE_OFFS: usize = 8;
/// All words of a command together; the kernel's own limit is not much further (execve(2)).
const MAX_COMMAND_BYTES: usize = 128 * 1024;
const MAX_WORDS: usize = 4096;
/// How long the client may take from the 101 to giving its connection over.
const SWITCH: Duration = Duration::from_secs(10);

/// The connection, if the client asked to turn it into a session.
pub(super) struct Upgrade(Option<OnUpgrade>);

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let asked = |headers: &HeaderMap| {
            let value = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
            value.is_some_and(|v| v.eq_ignore_ascii_case(UPGRADE))
        };
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        Ok(Self(upgrade.filter(|_| asked(&parts.headers))))
    }
}

impl Upgrade {
    fn needed(self) -> ApiResult<OnUpgrade> {
        self.0.ok_or_else(|| {
            ApiError::invalid(format!("this needs a connection with `Upgrade: {UPGRADE}`"))
                .hint("`mini run` and `mini exec` make one; `\"detach\": true` needs none")
        })
    }
}

/// A command in an instance that runs, over a connection that is turned into a session.
#[utoipa::path(post, path = "/v1/apps/{app}/exec", params(("app" = String, Path)), request_body = NewExec, responses((status = 101, description = "Frames of a session; see mini-api/src/session.rs")))]
pub(super) async fn exec(
    State(api): State<Api>,
    OfApp(row): OfApp,
    caller: Caller,
    upgrade: Upgrade,
    Body(new): Body<NewExec>,
) -> ApiResult<Response> {
    let client = upgrade.needed()?;
    let core = &api.core;
    let Command { words, terminal, env } = command(new.command, new.terminal)?;
    let instance = running(core, &row, &new.instance)?;
    let (input, items) = sessions::input();
    let spec = ExecSpec { command: words, env, terminal };
    let session = core.runtime.exec(instance.id.clone(), spec, items).await.map_err(told)?;
    let ended = lasting::ended(api.clone(), caller);
    Ok(attach(client, &instance.label(), (session, input), ended, ()))
}

/// A one-off command with the live release's image and config vars: a session, or with `detach`
/// its name alone.
#[utoipa::path(post, path = "/v1/apps/{app}/runs", params(("app" = String, Path)), request_body = NewRun, responses((status = 101, description = "Frames of a session; see mini-api/src/session.rs"), (status = 201, body = Run)))]
pub(super) async fn run(
    State(api): State<Api>,
    OfApp(row): OfApp,
    caller: Caller,
    upgrade: Upgrade,
    Body(new): Body<NewRun>,
) -> ApiResult<Response> {
    let command = command(new.command, new.terminal)?;
    let how = if new.detach { OneOff::Detached } else { OneOff::Attached };
    let client = if new.detach { None } else { Some(upgrade.needed()?) };
    let release = live_release(&api.core, &row).await?;
    let begun = begin(api.core.clone(), row.clone(), release, how, command);
    // A client that goes away meanwhile must not leave half a start behind.
    let begun = tokio::spawn(begun).await.map_err(|error| {
        tracing::error!(%error, "the start of a one-off broke off");
        ApiError::new(ErrorCode::Internal, "the start of the one-off broke off")
    })??;
    let Begun { instance, hold, session } = begun;
    let name = instance.label();
    let (by, how) = (
        caller.name().map_or(String::new(), |name| format!(" by {name}")),
        if new.detach { "detached" } else { "attached" },
    );
    api.core.logs.say(&row.name, &name, format!("Started{by}, {how}"));
    match (client, session) {
        (Some(client), Some(session)) => {
            Ok(attach(client, &name, session, lasting::ended(api, caller), hold))
        }
        _ => {
            let run = Run { name, release: format!("v{}", instance.release) };
            Ok((StatusCode::CREATED, axum::Json(run)).into_response())
        }
    }
}

/// Answers 101 and lets client and process talk until `ended`; `kept` is dropped at the end of it.
fn attach(
    client: OnUpgrade,
    name: &str,
    (session, input): (Session, Input),
    ended: impl Future<Output = ()> + Send + 'static,
    kept: impl Send + 'static,
) -> Response {
    tokio::spawn(async move {
        match tokio::time::timeout(SWITCH, client).await {
            Ok(Ok(upgraded)) => tokio::select! {
                () = sessions::pass(TokioIo::new(upgraded), session, input) => {}
                () = ended => {}
            },
            Ok(Err(error)) => tracing::debug!(%error, "a session did not come about"),
            Err(_) => tracing::debug!("a session did not come about in time"),
        }
        drop(kept);
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
    if let Ok(name) = HeaderValue::from_str(name) {
        headers.insert(INSTANCE_HEADER, name);
    }
    response
}

fn check(command: &[String]) -> ApiResult<()> {
    if command.first().is_none_or(|word| word.is_empty()) {
        return Err(ApiError::invalid("the command is empty"));
    }
    let bytes: usize = command.iter().map(|word| word.len() + 1).sum();
    if bytes > MAX_COMMAND_BYTES || command.len() > MAX_WORDS {
        return Err(ApiError::invalid(format!(
            "the command is too long: {MAX_COMMAND_BYTES} bytes and {MAX_WORDS} words are the most"
        ))
        .hint("pass more by standard input"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(ApiError::invalid("a word of the command holds a zero byte"));
    }
    Ok(())
}

/// What runs in a session, and before which terminal.
struct Command {
    words: Vec<String>,
    terminal: Option<TerminalSize>,
    /// What the process is told of its terminal.
    env: Vec<(String, String)>,
}

fn command(words: Vec<String>, terminal: Option<Terminal>) -> ApiResult<Command> {
    check(&words)?;
    let Some(Terminal { rows, columns, name }) = terminal else {
        return Ok(Command { words, terminal: None, env: Vec::new() });
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
    let name = name.unwrap_or_else(|| "xterm".to_owned());
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(ApiError::invalid("the terminal's name is no value of TERM"));
    }
    let terminal = Some(TerminalSize { rows, columns });
    Ok(Command { words, terminal, env: vec![("TERM".to_owned(), name)] })
}

/// The instance of that name that runs.
fn running(core: &Core, row: &AppRow, name: &str) -> ApiResult<Instance> {
    let Some(all) = core.world.of_app(&row.name) else {
        return Err(ApiError::new(ErrorCode::EngineUnavailable, "the engine does not answer now"));
    };
    let of_live = |i: &Instance| row.live_deployment.as_ref() == Some(&i.rollout);
    let mut named: Vec<&Instance> = all.iter().filter(|i| i.label() == name).collect();
    named.sort_by_key(|i| (!i.state.is_running(), !of_live(i)));
    match named.first() {
        Some(found) if found.state.is_running() => Ok((*found).clone()),
        Some(found) => {
            let state = match found.state {
                InstanceState::Exited { code, .. } => format!("it exited with code {code}"),
                InstanceState::Paused { .. } => "it is paused".to_owned(),
                _ => "it is just being started or removed".to_owned(),
            };
            Err(ApiError::new(ErrorCode::Conflict, format!("{name} does not run: {state}"))
                .hint("`mini ps` shows what runs; `mini run -- COMMAND` needs no instance"))
        }
        None => Err(no_instance(row, name, &all)),
    }
}

fn no_instance(row: &AppRow, name: &str, all: &[Instance]) -> ApiError {
    if row.live_release.is_none() {
        return nothing_deployed(&row.name);
    }
    let running: Vec<String> =
        all.iter().filter(|i| i.state.is_running()).map(Instance::label).collect();
    if running.is_empty() {
        return ApiError::new(ErrorCode::Conflict, format!("nothing of {} runs", row.name))
            .hint(format!("`mini start --app {0}` starts it; `mini run` works without", row.name));
    }
    let message = format!("{} has no instance {name:?}", row.name);
    ApiError::new(ErrorCode::NotFound, message).hint(format!("it has: {}", running.join(", ")))
}

async fn live_release(core: &Core, row: &AppRow) -> ApiResult<ReleaseRow> {
    if row.desired == Desired::Destroy {
        return Err(ApiError::new(ErrorCode::Conflict, format!("{} is being destroyed", row.name)));
    }
    let Some(live) = row.live_release else { return Err(nothing_deployed(&row.name)) };
    let id = row.id;
    let release = core.store.read(move |c| store::release(c, id, live)).await?;
    let release = release.ok_or_else(|| nothing_deployed(&row.name))?;
    if core.runtime.image(release.spec.image.clone()).await?.is_none() {
        return Err(ApiError::new(
            ErrorCode::ImageUnavailable,
            format!("the image of v{live} is gone from the engine"),
        )
        .hint("deploy the app again"));
    }
    Ok(release)
}

struct Begun {
    instance: Instance,
    hold: Hold,
    /// Of an attached one.
    session: Option<(Session, Input)>,
}

async fn begin(
    core: Arc<Core>,
    row: AppRow,
    release: ReleaseRow,
    how: OneOff,
    Command { words, terminal, env: term }: Command,
) -> ApiResult<Begun> {
    let Some(handle) = core.drivers.get(&row.name) else { return Err(ApiError::no_app(&row.name)) };
    let id = InstanceId::from_random(&vault::random_id()?);
    let hold = Hold::begin(&core, &row.name, handle.clone(), &id)?;
    let app_id = row.id;
    let ordinal = core.store.write(move |tx| store::next_run_number(tx, app_id)).await?;
    let process: ProcessType = "run".parse().map_err(|error: mini_core::name::BadName| {
        ApiError::new(ErrorCode::Internal, error.to_string())
    })?;
    let mut env =
        actions::environment(&core, &row, &release, (&process, ordinal)).map_err(other)?;
    env.extend(term);
    for mount in &release.spec.volumes {
        actions::make_volume(&core, &row, mount).await.map_err(other)?;
    }
    let web = release.spec.processes.get(&ProcessType::web());
    let spec = InstanceSpec {
        id: id.clone(),
        app: row.name.clone(),
        rollout: release.deployment.clone(),
        release: release.number,
        process,
        ordinal,
        image: release.spec.image.clone(),
        command: Some(words),
        env,
        address: row.subnet.gateway(),
        port: None,
        // The same room as the app itself has.
        limits: web.map_or_else(Limits::default, |web| web.limits.clone()),
        // Beside what it looks into, by the user's own wish.
        alone: false,
        volumes: release.spec.volumes.clone(),
        one_off: Some(how),
    };
    let inner = &core;
    let started = actions::at_free_address(&core, &handle, (&row, &id), |address| {
        let spec = InstanceSpec { address, ..spec.clone() };
        Box::pin(async move {
            let (instance, session) = match how {
                OneOff::Detached => (inner.runtime.start(spec).await?, None),
                OneOff::Attached => {
                    let (input, items) = sessions::input();
                    let (instance, session) = inner.runtime.run(spec, terminal, items).await?;
                    (instance, Some((session, input)))
                }
            };
            inner.world.started(None, &instance);
            inner.pumps.ensure(&instance);
            Ok((instance, session))
        })
    });
    let (instance, session) = started.await.map_err(other)?;
    Ok(Begun { instance, hold, session })
}

/// Keeps a one-off from being taken for a left-over.
struct Hold {
    core: Arc<Core>,
    app: AppName,
    handle: Arc<Handle>,
    id: InstanceId,
}

impl Hold {
    fn begin(
        core: &Arc<Core>,
        app: &AppName,
        handle: Arc<Handle>,
        id: &InstanceId,
    ) -> ApiResult<Self> {
        let detached = core.world.of_app(app).into_iter().flatten();
        let detached = detached.filter(|i| i.one_off == Some(OneOff::Detached)).count();
        {
            let mut notes = handle.notes();
            if detached + notes.held() >= MAX_ONE_OFFS {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!(
                        "{app} has {MAX_ONE_OFFS} one-off commands running, the most there may be"
                    ),
                )
                .hint("`mini ps` lists them; wait until one has ended"));
            }
            notes.hold_begun(id);
        }
        Ok(Self { core: core.clone(), app: app.clone(), handle, id: id.clone() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.handle.notes().hold_ended(&self.id);
        self.core.drivers.wake(&self.app);
    }
}

fn other(problem: Problem) -> ApiError {
    match problem {
        Problem::Engine(error) => told(error),
        Problem::Store(error) => error.into(),
        Problem::Secret(error) => error.into(),
        Problem::Other(why) => ApiError::new(ErrorCode::EngineUnavailable, why)
            .hint("try again; `minid doctor` on the server says more"),
    }
}

/// What the engine said of an instance or a command.
fn told(error: RuntimeError) -> ApiError {
    let code = match error.kind {
        RuntimeErrorKind::NotFound => ErrorCode::NotFound,
        RuntimeErrorKind::Conflict => ErrorCode::Conflict,
        RuntimeErrorKind::Invalid => ErrorCode::InvalidRequest,
        _ => return error.into(),
    };
    let told = ApiError::new(code, error.message);
    match error.hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}
