//! `mini rollback`: everything of an older release, as a new one.

use mini_api::Rollback;

use super::restart::see_through;
use crate::context::{Context, new_key};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Go back to an older release: its code, config vars and processes, without a build
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mini rollback\n  mini rollback v12\n  mini rollback v12 --rebuild\n  mini rollback --app blue-sky --no-wait"
)]
pub(crate) struct Args {
    /// The release, as `mini releases` names it; left out, the one that was live before
    #[arg(value_name = "RELEASE")]
    release: Option<String>,
    /// Build its image again from the kept source if the engine has it no more
    #[arg(long)]
    rebuild: bool,
    /// End as soon as the server has accepted it; prints the deployment's id
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let interrupt = Interrupt::listen();
    let to = Rollback { release: args.release, rebuild: args.rebuild };
    let began = client.rollback(&app, &to, &new_key()?).await;
    let deployment = began.map_err(|e| Failure::from(e).about(&app))?;
    see_through(context, &client, deployment, args.no_wait, &interrupt).await
}
