//! `mini volumes`: where an app keeps what must outlive its instances.

use jiff::Timestamp;
use mini_api::{NewVolume, Volume};
use mini_core::name::{AppName, VolumeName};

use super::restart::settled;
use crate::context::{Context, new_key};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::table;
use crate::prompt;
use crate::words::ago;

/// Show, add or remove an app's volumes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini volumes\n  mini volumes add data:/var/lib/data\n  \
                        mini volumes add cache:/cache --shared\n  \
                        mini volumes add old-app/data:/data     left by a destroyed app\n  \
                        mini volumes remove data                its data stay\n  \
                        mini volumes remove data --delete-data --yes")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List them
    List {
        /// Of every app, and what destroyed apps left
        #[arg(long)]
        all: bool,
    },
    /// Mount a volume, made if it is not there; the app gets a release with it
    Add {
        /// NAME:/path, or APP/NAME:/path for what a destroyed app left
        #[arg(value_name = "NAME:/PATH", value_parser = new)]
        volume: NewVolume,
        /// Two releases may use it at once, so deploys stay without a pause
        #[arg(long)]
        shared: bool,
        /// End as soon as the server has accepted it
        #[arg(long)]
        no_wait: bool,
    },
    /// Unmount a volume; its data stay unless told
    Remove {
        /// NAME, or APP/NAME for what a destroyed app left
        #[arg(value_name = "NAME", value_parser = named)]
        volume: (Option<AppName>, VolumeName),
        /// Delete all its data, for good
        #[arg(long)]
        delete_data: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// End as soon as the server has accepted it
        #[arg(long)]
        no_wait: bool,
    },
}

fn named(text: &str) -> Result<(Option<AppName>, VolumeName), String> {
    let (app, name) = match text.split_once('/') {
        Some((app, name)) => (Some(app), name),
        None => (None, text),
    };
    let app = app.map(|a| a.parse().map_err(|e: mini_core::name::BadName| e.to_string()));
    let name = name.parse().map_err(|e: mini_core::name::BadName| e.to_string())?;
    Ok((app.transpose()?, name))
}

fn new(text: &str) -> Result<NewVolume, String> {
    let (name, path) = text.split_once(':').ok_or("it is not NAME:/path, such as data:/data")?;
    let (left_by, name) = named(name)?;
    Ok(NewVolume { name, path: path.to_owned(), shared: false, left_by })
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List { all: false }) {
        Verb::List { all } => list(context, all).await,
        Verb::Add { volume, shared, no_wait } => {
            add(context, NewVolume { shared, ..volume }, no_wait).await
        }
        Verb::Remove { volume: (None, name), delete_data, yes, no_wait } => {
            remove(context, &name, (delete_data, yes), no_wait).await
        }
        Verb::Remove { volume: (Some(app), name), delete_data, yes, .. } => {
            remove_left(context, &app, &name, (delete_data, yes)).await
        }
    }
}

async fn list(context: &Context, all: bool) -> Result<(), Failure> {
    let found = if all {
        context.client()?.all_volumes().await?
    } else {
        let (app, client) = context.app()?;
        client.volumes(&app).await.map_err(|e| Failure::from(e).about(&app))?
    };
    if context.out.json {
        return context.out.document(&found);
    }
    if found.volumes.is_empty() {
        context.out.say("No volumes; `mini volumes add NAME:/path` makes one.");
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |v: &Volume| {
        let mut row = vec![
            v.name.to_string(),
            v.path.clone().unwrap_or_else(|| "not mounted".to_owned()),
            if v.shared { "yes" } else { "no" }.to_owned(),
            ago(v.created_at, now),
        ];
        if all {
            let gone = if v.left { " (destroyed)" } else { "" };
            row.insert(0, format!("{}{gone}", v.app));
        }
        row
    };
    let mut head = vec!["VOLUME", "PATH", "SHARED", "CREATED"];
    if all {
        head.insert(0, "APP");
    }
    let rows: Vec<_> = found.volumes.iter().map(row).collect();
    context.out.data(&table(&head, &rows))
}

async fn add(context: &Context, new: NewVolume, no_wait: bool) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let interrupt = Interrupt::listen();
    let added = client.add_volume(&app, &new, &new_key()?).await;
    let added = added.map_err(|e| Failure::from(e).about(&app))?;
    let path = added.volume.path.clone().unwrap_or_default();
    let with = if added.has_data { ", with the data that a destroyed app left in it" } else { "" };
    let done = format!("Volume {} is at {path}{with}", added.volume.name);
    if added.changed && !new.shared {
        context.out.say(
            "Two releases must not write it at once: from now on the old one stops before the new \
             one starts, and requests wait meanwhile (--shared if they may).",
        );
    }
    let (changed, deployment) = (added.changed, added.deployment);
    let changed = mini_api::SettingsChanged { changed, deployment };
    settled(context, &client, (changed, &done), no_wait, &interrupt).await
}

async fn remove(
    context: &Context,
    name: &VolumeName,
    (delete_data, yes): (bool, bool),
    no_wait: bool,
) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    if delete_data {
        let what = format!("Deleting all data in the volume {name} of {app}");
        prompt::confirm(&context.out, &what, name.as_str(), yes)?;
    }
    let interrupt = Interrupt::listen();
    let changed = client.remove_volume(&app, name, delete_data, &new_key()?).await;
    let changed = changed.map_err(|e| Failure::from(e).about(&app))?;
    let done = match delete_data {
        true => format!("Removed {name}; its data go as soon as nothing uses them"),
        false => format!(
            "Removed {name}; its data stay: `mini volumes remove {name} --delete-data` deletes them"
        ),
    };
    settled(context, &client, (changed, &done), no_wait, &interrupt).await
}

async fn remove_left(
    context: &Context,
    app: &AppName,
    name: &VolumeName,
    (delete_data, yes): (bool, bool),
) -> Result<(), Failure> {
    if !delete_data {
        return Err(Failure::usage(format!("{app}/{name} is mounted nowhere"))
            .hint("--delete-data deletes it with all its data"));
    }
    let client = context.client()?;
    let what = format!("Deleting all data that {app} left in the volume {name}");
    prompt::confirm(&context.out, &what, name.as_str(), yes)?;
    let changed = client.delete_left_volume(app, name).await?;
    context.out.say(&format!("Removed {app}/{name} with its data"));
    if context.out.json { context.out.document(&changed) } else { Ok(()) }
}
