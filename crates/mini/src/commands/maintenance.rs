//! `mini maintenance`: the app answers nobody while it is worked on.

use mini_api::Maintenance;

use super::domains::away;
use crate::context::Context;
use crate::failure::Failure;

/// Begin or end an app's maintenance: every request is answered with a page and 503
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini maintenance\n  mini maintenance on\n  \
                        mini maintenance off --app blue-sky\n  \
                        mini pages set H80 closed.html      a page of your own for it")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Verb {
    /// Begin it; instances run on, and no release is made
    On,
    /// End it
    Off,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let (out, failed) = (&context.out, |e| Failure::from(e).about(&app));
    let on = match args.verb {
        None => {
            let now = client.maintenance(&app).await.map_err(failed)?;
            let Maintenance { on } = now;
            return match out.json {
                true => out.document(&now),
                false => out.data(if on { "on" } else { "off" }),
            };
        }
        Some(Verb::On) => true,
        Some(Verb::Off) => false,
    };
    let done = client.set_maintenance(&app, on).await.map_err(failed)?;
    out.say(&match (on, done.changed) {
        (true, true) => format!("Maintenance is on: {app} answers every request with 503 (H80)"),
        (false, true) => format!("Maintenance is off: {app} answers again"),
        (on, false) => {
            format!("Nothing changed: maintenance was {} already", if on { "on" } else { "off" })
        }
    });
    if !done.routed {
        away(context);
    }
    if out.json { out.document(&done) } else { Ok(()) }
}
