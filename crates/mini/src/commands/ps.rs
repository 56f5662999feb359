//! `mini ps`: what runs of an app.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use mini_api::{Instance, InstanceState};
use mini_core::cause::size;

use super::word;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::words::{ago, time_since};

const HEAD: [&str; 7] = ["PROCESS", "STATE", "UPTIME", "RELEASE", "RESTARTS", "MEMORY", "CPU"];

/// Show an app's processes
///
/// CPU is of one processor.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini ps\n  mini ps --app blue-sky --json\n  \
                        mini ps restart web.1")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Replace one instance by a new one, without a drop
    Restart {
        /// As `mini ps` names it, such as web.1
        #[arg(value_name = "INSTANCE")]
        name: String,
    },
}

/// Longer than a boot timeout and a drain; what takes longer goes on by itself.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb {
        None => list(context).await,
        Some(Verb::Restart { name }) => restart(context, &name).await,
    }
}

async fn restart(context: &Context, name: &str) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let failed = |e| Failure::from(e).about(&app);
    context.out.begin(&format!("Restarting {name}"));
    let before = client.restart_instance(&app, name).await.map_err(failed)?.instances;
    let old = |i: &Instance| before.iter().any(|b| (&b.id, b.since) == (&i.id, i.since));
    let began = Instant::now();
    loop {
        let now = client.instances(&app).await.map_err(failed)?;
        let mut own = now.instances.iter().filter(|i| i.name == name);
        if let Some(new) = own.find(|i| !old(i) && i.state == InstanceState::Up) {
            context.out.end("up");
            return if context.out.json { context.out.document(new) } else { Ok(()) };
        }
        if began.elapsed() > PATIENCE {
            let after = PATIENCE.as_secs();
            return Err(Failure::failed(format!("no new {name} is up after {after} s"))
                .hint("`mini ps` shows what runs, `mini logs` why the rest does not"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
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
    let rows: Vec<_> = found.instances.iter().map(|i| row(i, now)).collect();
    context.out.data(&table(&HEAD, &rows))
}

fn row(i: &Instance, now: Timestamp) -> Vec<String> {
    vec![
        i.name.clone(),
        state(i, now),
        uptime(i, now),
        i.release.clone(),
        i.restarts.to_string(),
        i.memory_bytes.map_or_else(unknown, size),
        i.cpu_percent.map_or_else(unknown, |percent| format!("{percent:.0} %")),
    ]
}

fn unknown() -> String {
    "-".to_owned()
}

/// `crashed (exit code 3, 5 s ago)`.
fn state(instance: &Instance, now: Timestamp) -> String {
    let state = word(&instance.state);
    let why = match (instance.state, instance.exit_code) {
        (InstanceState::Crashed, _) if instance.out_of_memory => "out of memory".to_owned(),
        (InstanceState::Crashed, Some(code)) => format!("exit code {code}"),
        _ => return state,
    };
    match instance.since {
        Some(at) => format!("{state} ({why}, {})", ago(at, now)),
        None => format!("{state} ({why})"),
    }
}

fn uptime(instance: &Instance, now: Timestamp) -> String {
    match instance.since {
        Some(at) if instance.exit_code.is_none() => time_since(at, now),
        _ => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_and_what_does_not_are_told_apart() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut instance = Instance {
            id: "a".parse().unwrap(),
            name: "web.1".into(),
            process: "web".parse().unwrap(),
            release: "v3".into(),
            state: InstanceState::Up,
            since: Some("2026-11-23T09:00:00Z".parse().unwrap()),
            exit_code: None,
            out_of_memory: false,
            restarts: 0,
            one_off: false,
            memory_bytes: Some(12_345_678),
            cpu_percent: Some(3.6),
        };
        assert_eq!(row(&instance, now), ["web.1", "up", "60 min", "v3", "0", "12 MB", "4 %"]);
        instance.state = InstanceState::Crashed;
        instance.since = Some("2026-11-23T09:59:55Z".parse().unwrap());
        instance.exit_code = Some(3);
        (instance.memory_bytes, instance.cpu_percent) = (None, None);
        let crashed = "crashed (exit code 3, 5 s ago)";
        assert_eq!(row(&instance, now), ["web.1", crashed, "-", "v3", "0", "-", "-"]);
        (instance.exit_code, instance.out_of_memory) = (Some(137), true);
        assert_eq!(row(&instance, now)[1], "crashed (out of memory, 5 s ago)");
    }
}
