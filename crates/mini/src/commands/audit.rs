//! `mini audit`: who asked the server for what.

use jiff::Timestamp;
use mini_api::client::AuditQuery;
use mini_api::{AUDIT_LISTED, AuditEntry};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::words::since;

/// Show who changed what, and who was refused
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini audit\n  mini audit --app blue --since 7d\n  \
                        mini audit -n 1000 --json")]
pub(crate) struct Args {
    /// How many entries at most, the newest
    #[arg(short, value_name = "N", default_value_t = AUDIT_LISTED)]
    n: u32,
    /// From when on: a duration back such as 2h or 7d, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let now = Timestamp::now();
    let from = args.since.as_deref().map(|text| since(text, now)).transpose();
    let from = from.map_err(|e| Failure::usage(format!("--since: {e}")))?;
    // Of one app only if that is asked for: the trail is the server's, not the folder's.
    let query = AuditQuery { app: context.asked.app.clone(), since: from, n: Some(args.n) };
    let found = context.client()?.audit(&query).await?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.entries.is_empty() {
        context.out.say("Nothing was changed, and nobody was refused, in that time.");
        return Ok(());
    }
    let rows: Vec<_> = found.entries.iter().map(row).collect();
    let head = ["TIME", "WHO", "ACTION", "APP", "WHAT", "STATUS", "FROM", "REQUEST"];
    context.out.data(&table(&head, &rows))
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        entry.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        entry.actor.clone().unwrap_or_else(|| "nobody known".to_owned()),
        entry.action.clone(),
        or_dash(&entry.app),
        or_dash(&entry.target),
        match entry.status {
            // The server died before it answered, or is about to.
            0 => "begun".to_owned(),
            status => status.to_string(),
        },
        or_dash(&entry.source),
        entry.request_id.clone(),
    ]
}
