//! `mini env`: an app's config vars.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use mini_api::{EnvChange, EnvChanged};
use mini_core::name::EnvName;

use crate::context::{Context, new_key};
use crate::env_file;
use crate::failure::Failure;
use crate::follow::{Steps, conclude, follow};
use crate::interrupt::Interrupt;

/// Show or change an app's config vars
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini env set GREETING=hello\n  mini env set --file .env\n  \
                        mini env set NEXT=1 --stage      for the next deploy\n  \
                        mini env unset GREETING\n  mini env list > .env")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them, in the form that `env set --file` reads
    List,
    /// Set some; the app restarts with them, without a drop
    Set {
        /// KEY=VALUE
        #[arg(value_name = "KEY=VALUE", value_parser = pair, required_unless_present = "file")]
        vars: Vec<(String, String)>,
        /// Read them from a file of KEY=VALUE lines, or from stdin (-)
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// Unset some
    Unset {
        #[arg(required = true, value_name = "KEY")]
        names: Vec<EnvName>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Debug, clap::Args)]
struct How {
    /// Keep the change for the next deploy
    #[arg(long)]
    stage: bool,
    /// End as soon as the server has accepted it
    #[arg(long)]
    no_wait: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no '='; write KEY=VALUE")?;
    name.parse::<EnvName>().map_err(|e| e.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Set { vars, file, how } => {
            let mut all = match file {
                Some(path) => read(&path)?,
                None => Vec::new(),
            };
            // What is typed wins over what the file says.
            all.extend(vars);
            change(context, all.into_iter().map(|(k, v)| (k, Some(v))).collect(), &how).await
        }
        Verb::Unset { names, how } => {
            change(context, names.into_iter().map(|n| (n.into(), None)).collect(), &how).await
        }
    }
}

fn read(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut text = Vec::new();
    let (name, result) = if path == Path::new("-") {
        ("stdin".to_owned(), std::io::stdin().lock().read_to_end(&mut text).map(drop))
    } else {
        (path.display().to_string(), std::fs::read(path).map(|read| text = read))
    };
    result.map_err(|e| Failure::io(format!("cannot read {name}"), &e))?;
    let text =
        String::from_utf8(text).map_err(|_| Failure::failed(format!("{name} is not UTF-8")))?;
    let vars = env_file::parse(&text).map_err(|e| Failure::failed(format!("{name}, {e}")))?;
    if vars.is_empty() {
        return Err(Failure::failed(format!("{name} sets nothing")));
    }
    Ok(vars)
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let env = client.env(&app).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&env);
    }
    if env.vars.is_empty() {
        context.out.say(&format!("{app} has no config vars; `mini env set KEY=VALUE` sets one."));
    }
    for (name, value) in &env.vars {
        let line = if env.values_hidden { name.clone() } else { env_file::line(name, value) };
        context.out.data(&line)?;
    }
    if env.values_hidden && !env.vars.is_empty() {
        context.out.say("Names only: the values are shown to tokens of the scope admin.");
    }
    if !env.staged.is_empty() {
        context.out.say(&format!("Waiting for the next deploy: {}", env.staged.join(", ")));
    }
    Ok(())
}

async fn change(
    context: &Context,
    vars: BTreeMap<String, Option<String>>,
    how: &How,
) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let interrupt = Interrupt::listen();
    let set = vars.values().any(Option::is_some);
    let change = EnvChange { vars, stage: how.stage };
    let mut changed = client
        .change_env(&app, &change, &new_key()?)
        .await
        .map_err(|e| Failure::from(e).about(&app))?;
    let out = &context.out;
    out.say(&told(&changed, set, how.stage));
    let Some(deployment) = changed.deployment.take() else {
        return if out.json { out.document(&changed) } else { Ok(()) };
    };
    if how.no_wait {
        out.say(&format!("Accepted; `mini deploys follow {}` follows it.", deployment.id));
        changed.deployment = Some(deployment);
        return if out.json { out.document(&changed) } else { Ok(()) };
    }
    let end = follow(context, &client, &deployment, Steps::Bare, &interrupt).await?;
    conclude(context, &client, &end).await
}

fn told(changed: &EnvChanged, set: bool, stage: bool) -> String {
    if changed.changed.is_empty() {
        return "Nothing changed: these values were there already.".to_owned();
    }
    let names = changed.changed.join(", ");
    let verb = if set { "Set" } else { "Unset" };
    match &changed.deployment {
        Some(deployment) => {
            let release = deployment.release.as_ref();
            format!("{verb} {names}{}", release.map_or(String::new(), |r| format!(" in {r}")))
        }
        None if stage => format!("{verb} {names}, for the next deploy"),
        None => format!("{verb} {names}; nothing runs, so the next start will have it"),
    }
}
