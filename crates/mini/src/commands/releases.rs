//! `mini releases`: what was live, and what is.

use jiff::Timestamp;
use mini_api::Release;

use super::word;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::words::ago;

/// List an app's releases, newest first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mini releases\n  mini releases -n 50 --json\n  mini releases info v12",
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Args {
    /// How many
    #[arg(short, value_name = "N", default_value_t = 15)]
    n: u32,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show all of one release; of config vars, their names
    Info {
        #[arg(value_name = "RELEASE")]
        release: String,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb {
        Some(Verb::Info { release }) => info(context, &release).await,
        None => list(context, &args).await,
    }
}

async fn info(context: &Context, release: &str) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.release(&app, release).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    let r = &found.release;
    let mut lines = vec![
        ("release", r.name.clone()),
        ("status", word(&r.status)),
        ("description", r.description.clone()),
        ("created", ago(r.created_at, Timestamp::now())),
        ("by", r.created_by.clone().unwrap_or_else(|| "-".into())),
        ("image", format!("{} ({})", r.image, found.image_id)),
    ];
    if let Some(source) = &found.source {
        lines.push(("source", source.clone()));
    }
    lines.push(("port", found.port.to_string()));
    if let Some(path) = &found.health_path {
        lines.push(("health", format!("GET {path}")));
    }
    for (process, command) in &found.processes {
        let command = command.as_ref().map_or("the image's own command".into(), |c| c.join(" "));
        lines.push(("process", format!("{process}: {command}")));
    }
    if let Some(command) = &found.release_command {
        lines.push(("before live", command.join(" ")));
    }
    for (process, limits) in &found.limits {
        lines.push(("limits", format!("{process}: {}", super::limits::words(limits))));
    }
    for (volume, path) in &found.volumes {
        lines.push(("volume", format!("{volume} at {path}")));
    }
    lines.push(("strategy", word(&found.strategy)));
    let names: Vec<&str> = found.env.keys().map(String::as_str).collect();
    lines.push(("config", if names.is_empty() { "-".into() } else { names.join(", ") }));
    for (name, value) in lines {
        context.out.data(&format!("{name:<12} {value}"))?;
    }
    Ok(())
}

async fn list(context: &Context, args: &Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.releases(&app, args.n).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.releases.is_empty() {
        context.out.say(&format!("{app} has no releases yet; `mini deploy` makes the first."));
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |r: &Release| {
        vec![
            r.name.clone(),
            word(&r.status),
            ago(r.created_at, now),
            r.created_by.clone().unwrap_or_else(|| "-".into()),
            r.image.clone(),
            r.description.clone(),
        ]
    };
    let rows: Vec<_> = found.releases.iter().map(row).collect();
    let head = ["RELEASE", "STATUS", "CREATED", "BY", "IMAGE", "DESCRIPTION"];
    context.out.data(&table(&head, &rows))
}
