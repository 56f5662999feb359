//! `mini releases`: what was live, and what is.

use jiff::Timestamp;
use mini_api::Release;

use super::word;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::words::ago;

/// List an app's releases, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini releases\n  mini releases -n 50 --json")]
pub(crate) struct Args {
    /// How many
    #[arg(short, value_name = "N", default_value_t = 15)]
    n: u32,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.releases(&app, args.n).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.releases.is_empty() {
        context.out.say(&format!("{app} has no releases yet; `mini deploy` makes the first."));
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |r: &Release| {
        vec![
            r.name.clone(),
            word(&r.status),
            ago(r.created_at, now),
            r.created_by.clone().unwrap_or_else(|| "-".into()),
            r.image.clone(),
            r.description.clone(),
        ]
    };
    let rows: Vec<_> = found.releases.iter().map(row).collect();
    let head = ["RELEASE", "STATUS", "CREATED", "BY", "IMAGE", "DESCRIPTION"];
    context.out.data(&table(&head, &rows))
}
