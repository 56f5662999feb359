//! `mini exec`: a command inside an instance that runs.

use mini_api::session::NewExec;

use crate::attach;
use crate::context::Context;
use crate::failure::Failure;

/// Run a command inside a running instance
///
/// Its exit code is that of `mini exec`. `mini ps` lists the instances.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini exec web.1 -- sh\n  \
                        mini exec worker.2 -T -- cat /proc/1/status\n  \
                        mini exec web.1 -- tar c /data > data.tar")]
pub(crate) struct Args {
    /// Which one: web.1
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Without a terminal, even where there is one
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// The command and its words, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let Args { instance, no_tty, command } = args;
    let terminal = attach::wanted(context, no_tty);
    let with_terminal = terminal.is_some();
    let new = NewExec { instance, command, terminal };
    let session = client.exec(&app, &new).await.map_err(|e| Failure::from(e).about(&app))?;
    attach::attach(context, session, with_terminal, "the command is ended by the server").await
}
