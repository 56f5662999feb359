//! `mini ps`: what runs of an app.

use jiff::Timestamp;
use mini_api::{Instance, InstanceState};

use super::word;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::words::ago;

/// Show an app's processes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini ps\n  mini ps --app blue-sky --json")]
pub(crate) struct Args {}

pub(crate) async fn run(context: &Context, _: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.instances(&app).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if !found.known {
        context.out.warn("the engine does not answer now: this is what was last seen");
    }
    if found.instances.is_empty() {
        context.out.say(&format!("Nothing of {app} runs."));
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |i: &Instance| {
        vec![
            i.name.clone(),
            state(i),
            i.since.map_or_else(|| "-".into(), |at| ago(at, now)),
            i.release.clone(),
            i.restarts.to_string(),
        ]
    };
    let rows: Vec<_> = found.instances.iter().map(row).collect();
    context.out.data(&table(&["PROCESS", "STATE", "SINCE", "RELEASE", "RESTARTS"], &rows))
}

fn state(instance: &Instance) -> String {
    let state = word(&instance.state);
    match (instance.state, instance.exit_code) {
        (InstanceState::Crashed, _) if instance.out_of_memory => format!("{state} (out of memory)"),
        (InstanceState::Crashed, Some(code)) => format!("{state} (exit code {code})"),
        _ => state,
    }
}
