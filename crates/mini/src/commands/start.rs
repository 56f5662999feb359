//! `mini start`: a stopped app runs again.

use super::restart::see_through;
use crate::context::{Context, new_key};
use crate::failure::Failure;
use crate::interrupt::Interrupt;

/// Start a stopped app with its last live release
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini start\n  mini start --app blue-sky")]
pub(crate) struct Args {
    /// End as soon as the server has accepted it; prints the deployment's id
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let interrupt = Interrupt::listen();
    let began = client.start(&app, &new_key()?).await;
    let deployment = began.map_err(|e| Failure::from(e).about(&app))?;
    see_through(context, &client, deployment, args.no_wait, &interrupt).await
}
