//! `mini deploys`: list deployments, follow or cancel one.

use clap::Subcommand;
use jiff::Timestamp;
use mini_api::Deployment;
use mini_core::id::DeploymentId;

use super::word;
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::follow::{Steps, conclude, follow};
use crate::interrupt::Interrupt;
use crate::output::table;
use crate::words::ago;

/// List deployments, follow or cancel one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini deploys\n  mini deploys follow ID\n  \
                        mini deploys cancel ID")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List an app's, newest first
    List,
    /// Show one from its start, to its end
    Follow { id: DeploymentId },
    /// Stop one; what was live stays live
    Cancel { id: DeploymentId },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Follow { id } => show(context, &id).await,
        Verb::Cancel { id } => cancel(context, &id).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.deployments(&app).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.deployments.is_empty() {
        context.out.say(&format!("{app} has no deployments yet; `mini deploy` makes the first."));
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |d: &Deployment| {
        vec![
            d.id.to_string(),
            word(&d.status),
            d.release.clone().unwrap_or_else(|| "-".into()),
            ago(d.created_at, now),
            d.created_by.clone().unwrap_or_else(|| "-".into()),
            d.description.clone(),
        ]
    };
    let rows: Vec<_> = found.deployments.iter().map(row).collect();
    let head = ["ID", "STATUS", "RELEASE", "CREATED", "BY", "DESCRIPTION"];
    context.out.data(&table(&head, &rows))
}

async fn show(context: &Context, id: &DeploymentId) -> Result<(), Failure> {
    let client = context.client()?;
    let interrupt = Interrupt::listen();
    let deployment = client.deployment(id).await.map_err(unknown)?;
    let steps = Steps::of(deployment.kind);
    let end = follow(context, &client, &deployment, steps, &interrupt).await?;
    conclude(context, &client, &end).await
}

async fn cancel(context: &Context, id: &DeploymentId) -> Result<(), Failure> {
    let client = context.client()?;
    let deployment = client.cancel_deployment(id).await.map_err(unknown)?;
    if context.out.json {
        return context.out.document(&deployment);
    }
    context.out.say(&format!("The deployment {id} is {}.", word(&deployment.status)));
    Ok(())
}

fn unknown(e: mini_api::client::ClientError) -> Failure {
    let failure = Failure::from(e);
    if failure.kind == Kind::NotFound && failure.hint.is_none() {
        return failure.hint("`mini deploys --app NAME` lists an app's");
    }
    failure
}
