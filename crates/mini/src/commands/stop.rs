//! `mini stop`: the app stays, its processes go.

use std::time::{Duration, Instant};

use mini_api::AppState;

use crate::context::Context;
use crate::failure::Failure;

/// Longer than any default: drain 30 s, then 30 s between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(600);

/// Stop an app's processes; `mini start` brings them back
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini stop\n  mini stop --app blue-sky")]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _: Args) -> Result<(), Failure> {
    let (name, client) = context.app()?;
    let failed = |e| Failure::from(e).about(&name);
    context.out.begin(&format!("Stopping {name}"));
    let mut app = client.stop(&name).await.map_err(failed)?;
    let began = Instant::now();
    while !matches!(app.state, AppState::Stopped | AppState::Empty) {
        if began.elapsed() > PATIENCE {
            return Err(Failure::failed(format!(
                "{name} still stops after {} s",
                PATIENCE.as_secs()
            ))
            .hint("`mini ps` shows what is left, `mini logs -s mini` why"));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        app = client.app(&name).await.map_err(failed)?;
    }
    context.out.end("stopped");
    if context.out.json { context.out.document(&app) } else { Ok(()) }
}
