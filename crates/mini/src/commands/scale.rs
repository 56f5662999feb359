//! `mini scale`: how many instances run of each process type.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mini_api::client::Client;
use mini_api::{Formation, InstanceState, Instances};
use mini_core::name::{AppName, ProcessType};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;

/// Longer than a boot timeout; an app that takes longer goes on coming up by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// Show or change how many instances run of each process type
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mini scale\n  mini scale web=3 worker=1\n  mini scale worker=0"
)]
pub(crate) struct Args {
    /// A process type and how many of it; none: show them
    #[arg(value_name = "TYPE=COUNT", value_parser = wish)]
    wishes: Vec<(ProcessType, u32)>,
}

fn wish(text: &str) -> Result<(ProcessType, u32), String> {
    let (name, count) = text.split_once('=').ok_or("it is not TYPE=COUNT, such as web=2")?;
    let count = count.parse().map_err(|_| format!("{count:?} is no number of instances"))?;
    Ok((name.parse().map_err(|e: mini_core::name::BadName| e.to_string())?, count))
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let failed = |e| Failure::from(e).about(&app);
    if args.wishes.is_empty() {
        return show(context, &client.formation(&app).await.map_err(failed)?);
    }
    let told: Vec<String> = args.wishes.iter().map(|(p, n)| format!("{p}={n}")).collect();
    let counts: BTreeMap<String, u32> =
        args.wishes.into_iter().map(|(process, count)| (process.to_string(), count)).collect();
    context.out.begin(&format!("Scaling to {}", told.join(" ")));
    let formation = client.scale(&app, &Formation { counts }).await.map_err(failed)?;
    wait(context, &client, &app, &formation).await?;
    if context.out.json { context.out.document(&formation) } else { Ok(()) }
}

fn show(context: &Context, formation: &Formation) -> Result<(), Failure> {
    if context.out.json {
        return context.out.document(formation);
    }
    let rows: Vec<_> =
        formation.counts.iter().map(|(p, n)| vec![p.clone(), n.to_string()]).collect();
    context.out.data(&table(&["PROCESS", "COUNT"], &rows))
}

/// Until as many are up as are wanted; one that drains is not counted.
async fn wait(
    context: &Context,
    client: &Client,
    app: &AppName,
    wanted: &Formation,
) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let seen = client.instances(app).await.map_err(|e| Failure::from(e).about(app))?;
        if wanted.counts.iter().all(|(process, count)| up(&seen, process) == Some(*count)) {
            context.out.end("done");
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            let after = PATIENCE.as_secs();
            return Err(Failure::failed(format!("{app} is not there yet after {after} s"))
                .hint("`mini ps` shows what runs, `mini logs` why the rest does not"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How many of a process type are up; none while others come or crash.
fn up(seen: &Instances, process: &str) -> Option<u32> {
    let own = seen.instances.iter().filter(|i| i.process.as_str() == process && !i.one_off);
    let mut up = 0;
    for instance in own {
        match instance.state {
            InstanceState::Up | InstanceState::Unhealthy => up += 1,
            InstanceState::Draining | InstanceState::Stopping | InstanceState::Stopped => {}
            InstanceState::Starting | InstanceState::Crashed => return None,
        }
    }
    Some(up)
}
