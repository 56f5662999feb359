//! Building: through BuildKit where the engine opens a session, else through the classic builder.
//!
//! Both take the context as a tar that is read only as fast as the engine takes it. A failed
//! build is never tried again by the other builder. Dropping the stream closes the connection of
//! the build, and that cancels it on the engine.

mod classic;
mod explain;
mod limit;
mod lines;
mod probe;
mod session;
mod sweep;
mod syntax;
mod trace;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bollard::models::{BuildInfo, BuildInfoAux};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, header};
use mini_core::ports::{BuildSpec, Items, Progress, RuntimeError, RuntimeErrorKind, RuntimeResult};

use crate::engine::{Docker, LOOK};
use crate::image::AbortOnDrop;
use crate::raw::{self, Lines, Query};
use crate::{error, labels};
pub(crate) use limit::Limit;
pub use limit::Steps;
use session::Session;

/// What messages call a build.
const WHAT: &str = "the build";

impl Docker {
    /// Whether the engine opens a BuildKit session: the only sure sign, since 20.10 names no
    /// builder in its ping. Remembered for the next build.
    pub(crate) async fn probe_buildkit(&self) -> RuntimeResult<bool> {
        let opened = Session::open(&self.inner.raw, &self.session_id("probe")).await?;
        self.remember_buildkit(opened.is_some());
        Ok(opened.is_some())
    }

    fn remember_buildkit(&self, here: bool) {
        *self.inner.buildkit.lock().unwrap_or_else(PoisonError::into_inner) = Some(here);
    }

    /// Whether it is known to have none.
    fn has_no_buildkit(&self) -> bool {
        *self.inner.buildkit.lock().unwrap_or_else(PoisonError::into_inner) == Some(false)
    }

    fn session_id(&self, purpose: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("mini-{}-{purpose}-{}", self.server(), now.as_nanos())
    }

    async fn session_for_build(&self, id: &str) -> RuntimeResult<Option<Session>> {
        let known = *self.inner.buildkit.lock().unwrap_or_else(PoisonError::into_inner);
        if known == Some(false) {
            return Ok(None);
        }
        let session = Session::open(&self.inner.raw, id).await?;
        self.remember_buildkit(session.is_some());
        Ok(session)
    }
}

pub(crate) fn build(docker: Docker, spec: BuildSpec) -> Items<RuntimeResult<Progress>> {
    run(docker, spec, true)
}

/// `held`: under the limit, if there is one.
fn run(docker: Docker, spec: BuildSpec, held: bool) -> Items<RuntimeResult<Progress>> {
    let state = State::Waiting(Box::new(spec));
    Box::pin(stream::unfold((docker, state), move |(docker, mut state)| async move {
        loop {
            state = match state {
                State::Waiting(spec) => match begin(&docker, *spec, held).await {
                    Ok(run) => State::Running(Box::new(run)),
                    Err(error) => return Some((Err(error), (docker, State::Done))),
                },
                State::Running(mut run) => match run.next(&docker).await {
                    Some(Ok(Progress::Image(id))) => {
                        return Some((Ok(Progress::Image(id)), (docker, State::Done)));
                    }
                    Some(Ok(step)) => return Some((Ok(step), (docker, State::Running(run)))),
                    Some(Err(error)) => return Some((Err(error), (docker, State::Done))),
                    None => State::Done,
                },
                State::Done => return None,
            }
        }
    }))
}

enum State {
    Waiting(Box<BuildSpec>),
    Running(Box<Run>),
    Done,
}

/// A build that the engine has begun.
struct Run {
    lines: Lines,
    view: View,
    ready: VecDeque<Progress>,
    image: Option<String>,
    tag: String,
    /// Closed with the build: the engine keeps asking it whether we are there.
    _session: Option<Session>,
    _sweep: Option<Sweep>,
    _gathering: Option<AbortOnDrop>,
}

/// Sweeps up after a BuildKit build, however that ends.
struct Sweep {
    docker: Docker,
    since: jiff::Timestamp,
}

impl Drop for Sweep {
    fn drop(&mut self) {
        sweep::later(self.docker.clone(), self.since);
    }
}

enum View {
    BuildKit(trace::Trace),
    Classic(classic::Steps),
}

async fn begin(docker: &Docker, spec: BuildSpec, held: bool) -> RuntimeResult<Run> {
    let id = docker.session_id(spec.deployment.as_str());
    let session = docker.session_for_build(&id).await?;
    let tag = labels::image_tag(docker.server(), &spec.app, &spec.deployment, &spec.secret);
    let labels = serde_json::json!(labels::of_image(docker.server(), &spec.app)).to_string();
    let mut query = Query::new(&["build"])
        .with("t", &tag)
        .with("dockerfile", &spec.dockerfile)
        .with("labels", &labels)
        .with("rm", "1")
        .with("forcerm", "1");
    if !spec.use_cache {
        query = query.with("nocache", "1");
    }
    let view = if session.is_some() {
        query = query.with("version", "2").with("session", &id).with("buildid", &id);
        // `RUN --mount=type=cache` is otherwise one cache for all builds on the engine.
        let namespace = format!("{}-{}", docker.server(), spec.secret);
        let arguments = serde_json::json!({ "BUILDKIT_CACHE_MOUNT_NS": namespace });
        query = query.with("buildargs", &arguments.to_string());
        View::BuildKit(trace::Trace::default())
    } else {
        // An app weighs 1024 (CONTRACTS, "Default limits"). BuildKit takes no limits.
        query = query.with("cpushares", "256");
        if let Some(memory) = docker.build_memory() {
            query = query.with("memory", &memory.to_string()).with("memswap", &memory.to_string());
        }
        View::Classic(classic::Steps::default())
    };
    // The classic builder was told.
    let held = match session.is_some() && held {
        true => docker.hold_builds().await,
        false => Ok(None),
    };
    let (moved, unlimited) = held.map_or_else(|why| (None, Some(why)), |moved| (moved, None));
    let gathering =
        moved.map(|steps| AbortOnDrop(tokio::spawn(limit::gather(steps)).abort_handle()));
    let since = jiff::Timestamp::now();
    let sweep = session.is_some().then(|| Sweep { docker: docker.clone(), since });
    let broken = Arc::new(Mutex::new(None));
    let absent = Arc::new(Mutex::new(None));
    let mut context = noting_errors(spec.context, broken.clone());
    if session.is_some() {
        let (docker, absent) = (docker.clone(), absent.clone());
        context = syntax::without_absent_frontend(context, &spec.dockerfile, move |image| {
            Box::pin(frontend_to_be_had(docker.clone(), image, absent.clone()))
        });
    }
    let body = raw::streamed(context);
    let mut request = raw::request(Method::POST, query.target(), body);
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-tar"));
    let answer = docker.inner.raw.send(WHAT, request).await;
    // Our own source failed: the engine, which saw its connection end, is not to blame.
    if let Some(why) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(RuntimeError::new(
            RuntimeErrorKind::Other,
            format!("the source of the build could not be read: {why}"),
        ));
    }
    let answer = answer?.checked(WHAT).await.map_err(|error| explain::refused(error, WHAT))?;
    let lines = answer.lines(WHAT);
    let mut ready = VecDeque::new();
    if let Some(why) = unlimited {
        ready.push_back(Progress::Line(format!("# the limit on builds does not hold: {why}")));
    }
    if let Some(image) = absent.lock().unwrap_or_else(PoisonError::into_inner).take() {
        ready.push_back(Progress::Line(format!(
            "# syntax={image} is not to be had here: the engine's own builder reads the Dockerfile"
        )));
    }
    Ok(Run {
        lines,
        view,
        ready,
        image: None,
        tag,
        _session: session,
        _sweep: sweep,
        _gathering: gathering,
    })
}

/// Whether the image of a Dockerfile's syntax line is on the engine or in reach; noted if not.
async fn frontend_to_be_had(
    docker: Docker,
    image: String,
    absent: Arc<Mutex<Option<String>>>,
) -> bool {
    let here = docker.image_info(image.clone()).await.is_ok_and(|found| found.is_some());
    let to_be_had = here
        || docker.call(WHAT, LOOK, |api| api.inspect_registry_image(&image, None)).await.is_ok();
    if !to_be_had {
        *absent.lock().unwrap_or_else(PoisonError::into_inner) = Some(image);
    }
    to_be_had
}

/// Passes a context on and notes the error that ends it.
fn noting_errors(
    context: Items<std::io::Result<Bytes>>,
    broken: Arc<Mutex<Option<String>>>,
) -> Items<std::io::Result<Bytes>> {
    Box::pin(context.inspect(move |item| {
        if let Err(error) = item {
            *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
    }))
}

impl Run {
    async fn next(&mut self, docker: &Docker) -> Option<RuntimeResult<Progress>> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Some(Ok(step));
            }
            match self.lines.next().await {
                Ok(Some(line)) => {
                    if let Err(error) = self.read(&line) {
                        return Some(Err(error));
                    }
                }
                Ok(None) => return Some(self.finished(docker).await),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn read(&mut self, line: &[u8]) -> RuntimeResult<()> {
        let info: BuildInfo = match serde_json::from_slice(line) {
            Ok(info) => info,
            // A kind of message that a newer engine has: nothing that a build hangs on.
            Err(error) => {
                tracing::debug!(%error, "a message of a build was passed over");
                return Ok(());
            }
        };
        if let Some(message) = info.error_detail.and_then(|detail| detail.message) {
            return Err(match &self.view {
                View::BuildKit(trace) => explain::buildkit(&message, trace.failed()),
                View::Classic(steps) => explain::classic(&message, steps.last()),
            });
        }
        match (info.aux, &mut self.view) {
            (Some(BuildInfoAux::BuildKit(status)), View::BuildKit(trace)) => {
                trace.read(status, &mut self.ready);
            }
            (Some(BuildInfoAux::Default(image)), _) => self.image = image.id.or(self.image.take()),
            _ => {}
        }
        if let View::Classic(steps) = &mut self.view {
            let status = info.status.map(|status| match &info.id {
                Some(layer) => format!("{layer}: {status}\n"),
                None => format!("{status}\n"),
            });
            // A base image's layers tell the same thing many times over: only words, no bars.
            let told = status.filter(|_| info.progress_detail.is_none());
            for text in info.stream.iter().chain(&told) {
                steps.read(text, &mut self.ready);
            }
        }
        Ok(())
    }

    /// The end of the engine's answer: with an image, or the build was cut off.
    async fn finished(&mut self, docker: &Docker) -> RuntimeResult<Progress> {
        let id = match self.image.take() {
            Some(id) => Some(id),
            None => docker.image_info(self.tag.clone()).await?.map(|image| image.id),
        };
        id.map(Progress::Image)
            .ok_or_else(|| error::unreachable(WHAT, "it ended the build without a word"))
    }
}
