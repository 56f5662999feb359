//! `mini run`: a one-off command with the live release's image and config vars.

use mini_api::session::NewRun;

use crate::attach;
use crate::context::Context;
use crate::failure::Failure;

/// Run a one-off command in an instance of its own
///
/// It gets the live release's image and config vars, and its exit code is that of `mini run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini run -- bin/console\n  \
                        cat dump.sql | mini run -- psql\n  \
                        mini run --detach -- bin/reindex --all\n  \
                        mini run -T -- env > env.txt")]
pub(crate) struct Args {
    /// Print its name and let it run: its output goes to `mini logs -p run`
    #[arg(short, long, conflicts_with = "no_tty")]
    detach: bool,
    /// Without a terminal, even where there is one
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// The command and its words, after `--`
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let failed = |e| Failure::from(e).about(&app);
    let Args { command, detach, no_tty } = args;
    if detach {
        let new = NewRun { command, terminal: None, detach };
        let run = client.run_detached(&app, &new).await.map_err(failed)?;
        return match context.out.json {
            true => context.out.document(&run),
            false => context.out.data(&run.name),
        };
    }
    let terminal = attach::wanted(context, no_tty);
    let with_terminal = terminal.is_some();
    let new = NewRun { command, terminal, detach };
    let session = client.run(&app, &new).await.map_err(failed)?;
    let name = session.instance.clone().unwrap_or_else(|| "the command".to_owned());
    if with_terminal {
        context.out.say(&format!("Running on {name} of {app}"));
    }
    attach::attach(context, session, with_terminal, &format!("{name} is stopped by the server"))
        .await
}
