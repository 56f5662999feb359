//! `mini logs`: the app's one stream of lines.

use jiff::Timestamp;
use mini_api::LogItem;
use mini_api::client::LogQuery;
use mini_core::cause::size;

use crate::context::Context;
use crate::failure::Failure;
use crate::words::{log_time, since};

/// Show an app's log: its own lines, requests, builds, deployments
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini logs -f\n  mini logs -n 500 --since 10m\n  \
                        mini logs --source mini --process router\n  \
                        mini logs -p web.1 --json")]
pub(crate) struct Args {
    /// Go on with new lines as they come
    #[arg(short = 'f', long = "tail", visible_alias = "follow")]
    follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 100)]
    n: u32,
    /// Only of this source: app or mini
    #[arg(short, long, value_name = "SOURCE")]
    source: Option<String>,
    /// Only of this process: web, web.1, router, deploy, build, api
    #[arg(short, long, value_name = "PROCESS")]
    process: Option<String>,
    /// Only lines since then: 10m, 3h, or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = |text: &str| since(text, Timestamp::now()))]
    since: Option<Timestamp>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let query = LogQuery {
        n: Some(args.n),
        follow: args.follow,
        source: args.source,
        process: args.process,
        since: args.since,
        after: None,
    };
    let mut logs = client.logs(&app, query);
    while let Some(item) = logs.next().await.map_err(|e| Failure::from(e).about(&app))? {
        if context.out.json {
            context.out.item(&item)?;
            continue;
        }
        match item {
            LogItem::Line(line) => {
                let at = log_time(line.at);
                context
                    .out
                    .data(&format!("{at} {}[{}]: {}", line.source, line.process, line.text))?;
            }
            LogItem::Missed { bytes } => {
                context
                    .out
                    .say(&format!("({} are missing here: they fell out of the log)", size(bytes)));
            }
            LogItem::Heartbeat | LogItem::Unknown => {}
        }
    }
    Ok(())
}
