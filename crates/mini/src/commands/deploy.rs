//! `mini deploy`: pack, send what the server lacks, and follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mini_api::client::{Client, ClientError};
use mini_api::{Deployment, ErrorCode, NewApp, NewDeployment};
use mini_core::cause::size;
use mini_core::name::AppName;
use mini_core::release::Strategy;
use mini_core::source::SourceDigest;

use crate::ci::{self, Pipeline};
use crate::context::{Context, new_key};
use crate::failure::{Failure, Kind};
use crate::follow::{Steps, conclude, follow};
use crate::interrupt::Interrupt;
use crate::pack::archive::{self, Changed};
use crate::pack::walk::{Listing, walk};
use crate::pack::{self, Packed};
use crate::project::{self, Project};

const PACKING: &str = "[1/3] Packing source code";
/// Tries to send one source over connections that break.
const UPLOADS: u32 = 3;

/// Package a folder, send it, and follow until it is live
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini deploy .\n  mini deploy api --app my-api\n  \
                        mini deploy --image nginx:1.29 --app web\n  \
                        mini deploy --ci --app web")]
pub(crate) struct Args {
    /// The folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Deploy a ready image, NAME[:TAG|@DIGEST], instead of the folder
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Build even if the same source was built before, without the build cache
    #[arg(long, conflicts_with = "image")]
    rebuild: bool,
    /// How the new release takes the place of the old one: side by side, or one after the other
    #[arg(long, value_name = "rolling|recreate", value_parser = strategy)]
    strategy: Option<Strategy>,
    /// Shown in `mini releases`
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// End as soon as the server has accepted it; prints the deployment's id
    #[arg(long)]
    no_wait: bool,
    /// The same key within a day is the same deployment
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
    /// In a pipeline: plain lines, once for each commit, and for GitHub Actions a group for the
    /// build and the outputs url, app, release and deployment
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) ci: bool,
}

fn strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "rolling" => Ok(Strategy::Rolling),
        "recreate" => Ok(Strategy::Recreate),
        _ => Err("it is rolling or recreate".to_owned()),
    }
}

fn key(text: &str) -> Result<String, String> {
    let visible =
        !text.is_empty() && text.len() <= 200 && text.bytes().all(|b| b.is_ascii_graphic());
    if visible { Ok(text.to_owned()) } else { Err("1 to 200 visible ASCII characters".to_owned()) }
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let folder = args.path.as_path();
    check(folder)?;
    let project = Project::read(folder)?;
    let named = context.app_name(&project, folder)?;
    let client = context.client_in(&project)?;
    let pipeline = args.ci.then(|| Pipeline::of(&context.vars));
    let listing = match &args.image {
        Some(_) => None,
        None => Some(listing(folder).await?),
    };
    let app = match named {
        Some(app) => ensure(context, &client, app).await?,
        None => generate(context, &client, folder).await?,
    };
    let mut new = NewDeployment {
        image: args.image,
        rebuild: args.rebuild,
        strategy: args.strategy,
        description: args.description.or_else(|| pipeline.as_ref()?.description()),
        ..NewDeployment::default()
    };
    if let Some(listing) = listing {
        for what in &listing.skipped {
            context.out.say(&format!("Left out: {what}"));
        }
        new.source = Some(send(context, &client, &app, folder).await?);
    }
    // Up to here nothing runs, and Ctrl-C may just end us.
    let interrupt = Interrupt::listen();
    let deployment = match (args.idempotency_key, &pipeline) {
        (None, Some(pipeline)) => once(context, &client, &app, &new, pipeline).await,
        (key, _) => Ok(client.deploy(&app, &new, &key.map_or_else(new_key, Ok)?).await?),
    };
    let deployment = deployment.map_err(|e| e.about(&app))?;
    if args.no_wait {
        let id = &deployment.id;
        context.out.say(&format!("Accepted; `mini deploys follow {id}` follows it."));
        return if context.out.json {
            context.out.document(&deployment)
        } else {
            context.out.data(id.as_str())
        };
    }
    let steps = if new.image.is_some() { Steps::Image } else { Steps::Source };
    let end = if pipeline.is_some() && deployment.status.is_final() {
        deployment
    } else {
        follow(context, &client, &deployment, steps, &interrupt).await?
    };
    conclude(context, &client, &end).await?;
    pipeline.map_or(Ok(()), |pipeline| pipeline.report(&end))
}

/// The deployment of this commit: the one that there is, unless the app runs something else by now.
async fn once(
    context: &Context,
    client: &Client,
    app: &AppName,
    new: &NewDeployment,
    pipeline: &Pipeline,
) -> Result<Deployment, Failure> {
    let Some(key) = pipeline.key(new.source.as_ref(), new.image.as_deref()) else {
        context
            .out
            .warn("no variable names the commit (GITHUB_SHA, CI_COMMIT_SHA): each run deploys");
        return Ok(client.deploy(app, new, &new_key()?).await?);
    };
    let past = match client.deploy(app, new, &key).await {
        Ok(deployment) if !deployment.status.is_final() => return Ok(deployment),
        Ok(deployment) if !ci::is_past(&deployment, &client.app(app).await?) => {
            context.out.say("This commit is deployed already.");
            return Ok(deployment);
        }
        Ok(deployment) => format!("This commit's deployment {} is past", deployment.id),
        // The same commit on another branch, or with other flags.
        Err(ClientError::Api(body, _)) if body.code == ErrorCode::IdempotencyConflict => {
            "This commit was deployed in another way".to_owned()
        }
        Err(e) => return Err(e.into()),
    };
    context.out.say(&format!("{past}: once more."));
    let key = pipeline.key_again(&key).map_or_else(new_key, Ok)?;
    Ok(client.deploy(app, new, &key).await?)
}

fn check(folder: &Path) -> Result<(), Failure> {
    match folder.metadata() {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{} is not a folder", folder.display()))
            .hint("name the folder that holds it")),
        Err(e) => Err(Failure::usage(format!("cannot read {}: {e}", folder.display()))),
    }
}

async fn listing(folder: &Path) -> Result<Listing, Failure> {
    let path = folder.to_owned();
    let listing = blocking(move || walk(&path)).await?;
    if listing.is_empty() {
        return Err(Failure::failed(format!("{} holds nothing to deploy", folder.display()))
            .hint("if it does, see what .miniignore, .dockerignore or .gitignore leave out"));
    }
    Ok(listing)
}

/// The app by its name, created if the server does not have it.
async fn ensure(context: &Context, client: &Client, app: AppName) -> Result<AppName, Failure> {
    match client.app(&app).await {
        Ok(_) => return Ok(app),
        Err(e) if !e.is_not_found() => return Err(e.into()),
        Err(_) => {}
    }
    let new = NewApp { name: Some(app.clone().into()) };
    if let Err(error) = client.create_app(&new).await {
        if !error.may_pass() {
            return Err(error.into());
        }
        // The answer may have been lost. It was not there before, so if it is now, it is ours; a
        // server that is away is waited for.
        match client.app(&app).await {
            Err(e) if e.is_not_found() => drop(client.create_app(&new).await?),
            found => drop(found?),
        }
    }
    context.out.say(&format!("Created app {app}"));
    Ok(app)
}

/// A new app with a name of the server's, remembered in the folder's `mini.toml`.
async fn generate(context: &Context, client: &Client, folder: &Path) -> Result<AppName, Failure> {
    let app = client.create_app(&NewApp::default()).await?.name;
    let path = folder.join(project::FILE);
    match project::remember(folder, &app) {
        Ok(()) => context.out.say(&format!("Created app {app}; {} remembers it", path.display())),
        Err(e) => {
            context.out.say(&format!("Created app {app}"));
            context.out.warn(&format!(
                "{} cannot be written ({e}): pass --app {app} from now on",
                path.display()
            ));
        }
    }
    Ok(app)
}

/// Sends the source unless the server has it. Files that change meanwhile are packed once more.
async fn send(
    context: &Context,
    client: &Client,
    app: &AppName,
    folder: &Path,
) -> Result<SourceDigest, Failure> {
    for _ in 0..2 {
        let packed = Arc::new(hash(context, folder).await?);
        let counted = format!("{}, {}", files(packed.files), size(packed.bytes));
        if client
            .source(app, &packed.digest)
            .await
            .map_err(|e| Failure::from(e).about(app))?
            .is_some()
        {
            context.out.end_progress(PACKING, &format!("{counted} (unchanged, not sent)"));
            return Ok(packed.digest.clone());
        }
        if upload(context, client, app, &packed).await? {
            context.out.end_progress(PACKING, &counted);
            return Ok(packed.digest.clone());
        }
    }
    Err(Failure::failed("files changed while they were packed")
        .hint("run it again when nothing writes there, or leave them out with a .miniignore"))
}

async fn hash(context: &Context, folder: &Path) -> Result<Packed, Failure> {
    // Listed anew: mini.toml may have been written, or files may have changed since.
    let listing = listing(folder).await?;
    let mut progress = context.out.progress(PACKING, listing.bytes());
    let done = Arc::new(AtomicU64::new(0));
    let counter = done.clone();
    let work = blocking(move || pack::hash(listing, &counter));
    watch(work, &done, |n| progress.set(n)).await
}

/// False if the files were not what they were any more.
async fn upload(
    context: &Context,
    client: &Client,
    app: &AppName,
    packed: &Arc<Packed>,
) -> Result<bool, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (chunks, done) = archive::stream(packed.clone());
        let mut progress = context.out.progress(PACKING, packed.bytes);
        let work = client.upload_source(app, chunks);
        let error = match watch(work, &done, |n| progress.set(n)).await {
            Ok(source) => return Ok(source.digest == packed.digest),
            Err(e) => e,
        };
        drop(progress);
        match error {
            ClientError::Body(e) if e.get_ref().is_some_and(|e| e.is::<Changed>()) => {
                return Ok(false);
            }
            // The next question waits for a server that is away, and may find the source there.
            error if error.may_pass() && tries < UPLOADS => {
                context.out.say(&format!("{error}; sending again"));
                if client.source(app, &packed.digest).await?.is_some() {
                    return Ok(true);
                }
            }
            e => return Err(Failure::from(e).about(app)),
        }
    }
}

/// Tells how far `work` is, ten times a second.
async fn watch<T>(work: impl Future<Output = T>, done: &AtomicU64, mut tell: impl FnMut(u64)) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            result = &mut work => return result,
            _ = ticks.tick() => tell(done.load(Ordering::Relaxed)),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|e| Err(Failure::new(Kind::Failed, format!("packing broke off: {e}"))))
}

fn files(n: u64) -> String {
    if n == 1 { "1 file".to_owned() } else { format!("{n} files") }
}
