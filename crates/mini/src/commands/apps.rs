//! `mini apps`: list, create, look at, destroy.

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use mini_api::{App, NewApp};
use mini_core::name::AppName;

use super::word;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::prompt;
use crate::words::ago;

/// List apps, or create, look at or destroy one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini apps\n  mini apps create blue-sky\n  \
                        mini apps info\n  mini apps destroy blue-sky --yes")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them
    List,
    /// Create one; without a name the server makes one up
    Create { name: Option<AppName> },
    /// Show one
    Info { name: Option<AppName> },
    /// Stop it and remove everything of it
    Destroy {
        name: Option<AppName>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Delete its volumes with all their data, too
        #[arg(long)]
        with_volumes: bool,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Create { name } => create(context, name).await,
        Verb::Info { name } => info(context, name).await,
        Verb::Destroy { name, yes, with_volumes } => {
            destroy(context, name, yes, with_volumes).await
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let apps = context.client()?.apps().await?;
    if context.out.json {
        return context.out.document(&apps);
    }
    if apps.apps.is_empty() {
        context.out.say("No apps yet; `mini deploy .` makes the first one.");
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |app: &App| {
        vec![
            app.name.to_string(),
            match app.maintenance {
                true => format!("{}, maintenance", word(&app.state)),
                false => word(&app.state),
            },
            app.release.clone().unwrap_or_else(|| "-".into()),
            app.deployed_at.map_or_else(|| "-".into(), |at| ago(at, now)),
            app.urls.first().cloned().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = apps.apps.iter().map(row).collect();
    context.out.data(&table(&["APP", "STATE", "RELEASE", "DEPLOYED", "URL"], &rows))
}

async fn create(context: &Context, name: Option<AppName>) -> Result<(), Failure> {
    let name = name.or_else(|| context.asked.app.clone());
    let name = name.map(String::from);
    let app = context.client()?.create_app(&NewApp { name }).await?;
    if context.out.json {
        return context.out.document(&app);
    }
    context.out.say(&format!("Created; `mini deploy . --app {}` deploys to it.", app.name));
    context.out.data(app.name.as_str())
}

async fn info(context: &Context, name: Option<AppName>) -> Result<(), Failure> {
    let (name, client) = context.app_or(name)?;
    let app = client.app(&name).await.map_err(|e| Failure::from(e).about(&name))?;
    if context.out.json {
        return context.out.document(&app);
    }
    let now = Timestamp::now();
    let mut lines = vec![("app", app.name.to_string()), ("state", word(&app.state))];
    lines.extend(app.urls.iter().map(|url| ("url", url.clone())));
    lines.extend(app.domains.iter().map(|domain| ("domain", domain.to_string())));
    lines.extend(app.release.map(|release| ("release", release)));
    lines.extend(app.image.map(|image| ("image", image)));
    lines.extend(app.deployed_at.map(|at| ("deployed", ago(at, now))));
    lines.push(("created", ago(app.created_at, now)));
    if app.maintenance {
        lines.push(("answers", "503 only: `mini maintenance off` ends the maintenance".into()));
    }
    if app.env_staged {
        lines.push(("staged", "config vars wait for the next deploy".into()));
    }
    for (name, value) in lines {
        context.out.data(&format!("{name:10}{value}"))?;
    }
    Ok(())
}

async fn destroy(
    context: &Context,
    name: Option<AppName>,
    yes: bool,
    with_volumes: bool,
) -> Result<(), Failure> {
    let (name, client) = context.app_or(name)?;
    let failed = |e| Failure::from(e).about(&name);
    let before = client.app(&name).await.map_err(failed)?;
    let volumes = match client.volumes(&name).await {
        Ok(found) => found.volumes,
        // A server that is older than volumes.
        Err(e) if e.is_not_found() => Vec::new(),
        Err(e) => return Err(failed(e)),
    };
    let data =
        if with_volumes && !volumes.is_empty() { " with all data in its volumes" } else { "" };
    prompt::confirm(&context.out, &format!("Destroying {name}{data}"), name.as_str(), yes)?;
    context.out.begin(&format!("Destroying {name}"));
    let mut app = match client.destroy_app(&name, with_volumes).await {
        Ok(now) => now,
        // The answer to a first try was lost, and it is gone since.
        Err(e) if e.is_not_found() => before,
        Err(e) => return Err(failed(e)),
    };
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match client.app(&name).await {
            Ok(now) => app = now,
            Err(e) if e.is_not_found() => break,
            Err(e) => return Err(e.into()),
        }
    }
    context.out.end("gone");
    if !with_volumes && !volumes.is_empty() {
        let names: Vec<&str> = volumes.iter().map(|v| v.name.as_str()).collect();
        context.out.say(&format!(
            "Kept: the volume{} {}; `mini volumes list --all` shows what is left, and \
             `mini volumes remove {name}/{} --delete-data` deletes it.",
            if names.len() == 1 { "" } else { "s" },
            names.join(", "),
            names[0]
        ));
    }
    if context.out.json { context.out.document(&app) } else { Ok(()) }
}
