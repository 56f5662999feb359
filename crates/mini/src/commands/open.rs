//! `mini open`: the app in a browser.

use std::process::Stdio;

use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::system;

/// Open an app in the browser, or print where it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini open\n  curl -i $(mini open --app blue-sky)")]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _: Args) -> Result<(), Failure> {
    let (name, client) = context.app()?;
    let app = client.app(&name).await.map_err(|e| Failure::from(e).about(&name))?;
    let url = app.urls.first().ok_or_else(|| {
        Failure::new(Kind::Conflict, format!("{name} has no address yet"))
            .hint("`mini deploy` makes it live")
    })?;
    if context.out.json {
        return context.out.document(&app.urls);
    }
    context.out.data(url)?;
    // Only a terminal has somebody before it, and only these are for a browser to open.
    if context.out.stderr_is_terminal && (url.starts_with("http://") || url.starts_with("https://"))
    {
        open(context, url);
    }
    Ok(())
}

/// Where there is no desktop, the address on stdout has to do.
fn open(context: &Context, url: &str) {
    let Some(mut command) = system::browser(&context.vars, url) else { return };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = command.spawn();
}
