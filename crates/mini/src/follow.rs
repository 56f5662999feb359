//! Following a deployment to its end, and telling how it went.

use std::time::Duration;

use mini_api::client::{Client, Events};
use mini_api::{
    AppState, Deployment, DeploymentEvent, DeploymentKind, DeploymentStatus, EventBody,
};
use mini_core::id::DeploymentId;

use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::interrupt::Interrupt;
use crate::output::Output;

/// How long a deployment may wait for its turn before that is said.
const QUIET_QUEUE: Duration = Duration::from_secs(3);

/// Which steps the user sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Steps {
    /// Packing is step 1; building and starting are 2 and 3.
    Source,
    /// Pulling and starting are 1 and 2.
    Image,
    /// No numbers: restart, start, config.
    Bare,
}

impl Steps {
    /// For a deployment that another command began.
    pub(crate) fn of(kind: DeploymentKind) -> Self {
        if kind == DeploymentKind::Deploy { Self::Source } else { Self::Bare }
    }
}

/// Follows to the end and prints the outcome; a failed deployment is a [`Failure`].
pub(crate) async fn follow(
    context: &Context,
    client: &Client,
    deployment: &Deployment,
    steps: Steps,
    interrupt: &Interrupt,
) -> Result<Deployment, Failure> {
    let id = &deployment.id;
    let mut events = client.deployment_events(id, 0);
    let mut teller = Teller::new(&context.out, deployment, steps);
    loop {
        let event = tokio::select! {
            event = next(&mut events, &mut teller) => event?,
            () = interrupt.hit() => return Err(left_running(id)),
        };
        match event {
            Some(event) => teller.tell(event.body),
            None => break,
        }
    }
    Ok(client.deployment(id).await?)
}

async fn next(
    events: &mut Events,
    teller: &mut Teller<'_>,
) -> Result<Option<DeploymentEvent>, Failure> {
    if teller.waits
        && let Ok(event) = tokio::time::timeout(QUIET_QUEUE, events.next()).await
    {
        return Ok(event?);
    }
    if std::mem::take(&mut teller.waits) {
        teller.out.say("Waiting for its turn...");
    }
    Ok(events.next().await?)
}

/// Ctrl-C leaves the work running: it is the server's.
fn left_running(id: &DeploymentId) -> Failure {
    Failure::new(Kind::Interrupted, format!("interrupted; the deployment {id} goes on")).hint(
        format!("`mini deploys follow {id}` shows it again, `mini deploys cancel {id}` stops it"),
    )
}

/// Prints the end of a deployment: data to stdout, or the failure with what still serves.
pub(crate) async fn conclude(
    context: &Context,
    client: &Client,
    deployment: &Deployment,
) -> Result<(), Failure> {
    let out = &context.out;
    if deployment.status == DeploymentStatus::Live {
        if out.json {
            return out.document(deployment);
        }
        if deployment.kind == DeploymentKind::Deploy {
            out.say("");
            return out.data(&format!("Your app is live at: {}", deployment.url));
        }
        let release = deployment.release.as_deref().unwrap_or("It");
        out.say(&format!("{release} is live at {}", deployment.url));
        return Ok(());
    }
    if out.json {
        out.document(deployment)?;
    }
    Err(failure(out, client, deployment).await)
}

async fn failure(out: &Output, client: &Client, deployment: &Deployment) -> Failure {
    let mut failure = match deployment.status {
        DeploymentStatus::Superseded => {
            Failure::new(Kind::Conflict, "a newer deployment took its place")
                .hint("`mini deploys` lists them")
        }
        DeploymentStatus::Cancelled => Failure::failed("the deployment was cancelled"),
        DeploymentStatus::Failed => {
            let cause = deployment.cause.clone();
            // What a build and the release command wrote was shown as it came.
            let seen = ["build_failed", "release_command_failed", "release_command_timeout"];
            let unseen = cause.iter().filter(|c| !seen.contains(&c.code.as_str()));
            let tail = unseen.flat_map(|c| &c.log_tail);
            tail.for_each(|line| out.quote(line));
            let message = cause.as_ref().map_or("the deployment failed", |c| &c.message);
            let mut failure = Failure::failed(message);
            failure.hint = cause.and_then(|c| c.hint);
            failure
        }
        // The stream ends with a final status, so this is a server that contradicts itself.
        _ => Failure::failed("the deployment's events ended before it did")
            .hint(format!("`mini deploys follow {}` asks again", deployment.id)),
    };
    // That it cannot be asked now is no news beside the failure.
    if let Ok(app) = client.app(&deployment.app).await
        && let Some(release) = app.release
    {
        let url = app.urls.first().map_or(String::new(), |url| format!(" {url}"));
        failure.note = match app.state {
            AppState::Running => Some(format!("{release} still serves{url}")),
            // It had made way for the one that failed.
            AppState::Starting => Some(format!("{release} is started again and serves{url}")),
            _ => None,
        };
    }
    failure
}

/// Turns events into the lines of the steps.
struct Teller<'a> {
    out: &'a Output,
    app: String,
    steps: Steps,
    /// Queued, and nothing was said about it.
    waits: bool,
    built: bool,
    started: bool,
}

impl<'a> Teller<'a> {
    fn new(out: &'a Output, deployment: &Deployment, steps: Steps) -> Self {
        let app = deployment.app.to_string();
        Self { out, app, steps, waits: false, built: false, started: false }
    }

    fn tell(&mut self, event: EventBody) {
        match event {
            EventBody::Status { status } => self.status(status),
            EventBody::Output { line } => self.out.quote(&line),
            EventBody::Note { text } => self.out.say(&text),
            EventBody::Healthy { after_ms } => {
                #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
                let seconds = after_ms as f64 / 1000.0;
                self.out.end(&format!("healthy in {seconds:.1} s"));
            }
            // What these say comes with the deployment's final state.
            EventBody::Live { .. } | EventBody::Failed { .. } => {}
            EventBody::Heartbeat | EventBody::Unknown => {}
        }
    }

    fn status(&mut self, status: DeploymentStatus) {
        self.waits = status == DeploymentStatus::Queued;
        match status {
            // A controller that was restarted begins its step again.
            DeploymentStatus::Building if !self.built => {
                self.built = true;
                self.out.begin_group(&self.build_title());
            }
            DeploymentStatus::Starting if !self.started => {
                self.out.end_group();
                if self.steps != Steps::Bare && !self.built {
                    self.out.begin(&self.build_title());
                    self.out.end("not needed: the image is there");
                }
                self.started = true;
                self.out.begin(match self.steps {
                    Steps::Source => "[3/3] Starting container",
                    Steps::Image => "[2/2] Starting container",
                    Steps::Bare => "Starting container",
                });
            }
            _ => {}
        }
    }

    fn build_title(&self) -> String {
        match self.steps {
            Steps::Source => format!("[2/3] Building image \"app-{}\"", self.app),
            Steps::Image => format!("[1/2] Getting the image for \"{}\"", self.app),
            Steps::Bare => "Preparing the image".to_owned(),
        }
    }
}
