//! `mini restart`: the same release in new instances.

use mini_api::client::Client;
use mini_api::{Deployment, SettingsChanged};

use crate::context::{Context, new_key};
use crate::failure::Failure;
use crate::follow::{Steps, conclude, follow};
use crate::interrupt::Interrupt;

/// Replace an app's processes by new ones, without a drop
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini restart\n  mini restart --app blue-sky --no-wait")]
pub(crate) struct Args {
    /// End as soon as the server has accepted it; prints the deployment's id
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let interrupt = Interrupt::listen();
    let began = client.restart(&app, &new_key()?).await;
    let deployment = began.map_err(|e| Failure::from(e).about(&app))?;
    see_through(context, &client, deployment, args.no_wait, &interrupt).await
}

/// What `restart` and `start` do once the server has accepted.
pub(super) async fn see_through(
    context: &Context,
    client: &Client,
    deployment: Deployment,
    no_wait: bool,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    if no_wait {
        let id = &deployment.id;
        context.out.say(&format!("Accepted; `mini deploys follow {id}` follows it."));
        return if context.out.json {
            context.out.document(&deployment)
        } else {
            context.out.data(id.as_str())
        };
    }
    let end = follow(context, client, &deployment, Steps::Bare, interrupt).await?;
    conclude(context, client, &end).await
}

/// What a change of settings does once the server has accepted it.
pub(super) async fn settled(
    context: &Context,
    client: &Client,
    (changed, done): (SettingsChanged, &str),
    no_wait: bool,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let out = &context.out;
    match &changed.deployment {
        Some(deployment) => {
            out.say(done);
            see_through(context, client, deployment.clone(), no_wait, interrupt).await
        }
        None => {
            out.say(&if changed.changed {
                format!("{done}; nothing rolls out now, the next deploy has it")
            } else {
                "Nothing changed: it was so already.".to_owned()
            });
            if out.json { out.document(&changed) } else { Ok(()) }
        }
    }
}
