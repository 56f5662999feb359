//! `mini limits`: what one instance of each process type may use.

use mini_api::Limits;
use mini_core::cause::size;
use mini_core::name::ProcessType;

use super::restart::settled;
use crate::context::{Context, new_key};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::output::table;

/// Show or change what one instance of a process type may use
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini limits\n  mini limits set web memory=256m cpu=0.5\n  \
                        mini limits set worker pids=64\n  mini limits unset web memory\n  \
                        mini limits unset web              the platform's defaults again")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List what is set
    List,
    /// Set some; the app gets a release with them, without a drop
    Set {
        /// The process type, such as web
        process: ProcessType,
        /// memory=BYTES (k, m, g), cpu=PROCESSORS, pids=COUNT
        #[arg(required = true, value_name = "WHAT=VALUE", value_parser = limit)]
        limits: Vec<Limit>,
        /// End as soon as the server has accepted it
        #[arg(long)]
        no_wait: bool,
    },
    /// Go back to the platform's defaults
    Unset {
        process: ProcessType,
        /// memory, cpu, pids; none: all of them
        #[arg(value_parser = ["memory", "cpu", "pids"])]
        what: Vec<String>,
        /// End as soon as the server has accepted it
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Memory(u64),
    CpuMillis(u32),
    Pids(u32),
}

fn limit(text: &str) -> Result<Limit, String> {
    let (what, value) = text.split_once('=').ok_or("it is not WHAT=VALUE, such as memory=256m")?;
    match what {
        "memory" => bytes(value).map(Limit::Memory),
        "cpu" => processors(value).map(Limit::CpuMillis),
        "pids" => {
            let count =
                value.parse().map_err(|_| format!("{value:?} is no number of processes"))?;
            Ok(Limit::Pids(count))
        }
        other => Err(format!("{other:?} is no limit: memory, cpu, pids")),
    }
}

/// `256m` is 256 MiB, as for Docker's own client.
fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, unit) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        _ => (lower, 1),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|n| *n > 0);
    bytes.ok_or_else(|| format!("{text:?} is no amount of memory: 256m, 1g"))
}

/// `0.5` is 500 thousandths.
fn processors(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is no number of processors: 0.5, 2");
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits || whole.is_empty() && part.is_empty() {
        return Err(bad());
    }
    let whole: u32 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| bad())?;
    let millis = whole.checked_mul(1000).and_then(|n| n.checked_add(part)).filter(|n| *n > 0);
    millis.ok_or_else(bad)
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Set { process, limits, no_wait } => {
            let put = |own: &mut Limits| {
                for limit in limits {
                    match limit {
                        Limit::Memory(bytes) => own.memory_bytes = Some(bytes),
                        Limit::CpuMillis(millis) => own.cpu_millis = Some(millis),
                        Limit::Pids(count) => own.pids = Some(count),
                    }
                }
            };
            change(context, &process, put, no_wait).await
        }
        Verb::Unset { process, what, no_wait } => {
            let all = what.is_empty();
            let named = |name: &str| all || what.iter().any(|w| w == name);
            let put = |own: &mut Limits| {
                own.memory_bytes = own.memory_bytes.filter(|_| !named("memory"));
                own.cpu_millis = own.cpu_millis.filter(|_| !named("cpu"));
                own.pids = own.pids.filter(|_| !named("pids"));
            };
            change(context, &process, put, no_wait).await
        }
    }
}

/// As it was written: `256 MiB`; else in decimal units.
fn memory(bytes: u64) -> String {
    match bytes {
        b if b % (1 << 30) == 0 => format!("{} GiB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{} MiB", b >> 20),
        b => size(b),
    }
}

/// `memory 256 MiB, cpu 0.5`
pub(super) fn words(own: &Limits) -> String {
    let memory = own.memory_bytes.map(|bytes| format!("memory {}", memory(bytes)));
    let cpu = own.cpu_millis.map(|m| format!("cpu {}", f64::from(m) / 1000.0));
    let pids = own.pids.map(|n| format!("pids {n}"));
    [memory, cpu, pids].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.limits(&app).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.limits.is_empty() {
        context.out.say(&format!("{app} has the platform's defaults."));
        return Ok(());
    }
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |(process, own): (&String, &Limits)| {
        vec![
            process.clone(),
            cell(own.memory_bytes.map(memory)),
            cell(own.cpu_millis.map(|m| (f64::from(m) / 1000.0).to_string())),
            cell(own.pids.map(|n| n.to_string())),
        ]
    };
    let rows: Vec<_> = found.limits.iter().map(row).collect();
    context.out.data(&table(&["PROCESS", "MEMORY", "CPU", "PIDS"], &rows))
}

async fn change(
    context: &Context,
    process: &ProcessType,
    put: impl FnOnce(&mut Limits),
    no_wait: bool,
) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let failed = |e| Failure::from(e).about(&app);
    let mut limits = client.limits(&app).await.map_err(failed)?.limits;
    let mut own = limits.remove(process.as_str()).unwrap_or_default();
    put(&mut own);
    let interrupt = Interrupt::listen();
    let changed = client.set_limits(&app, process, &own, &new_key()?).await.map_err(failed)?;
    let done = format!("Set the limits of {process}");
    settled(context, &client, (changed, &done), no_wait, &interrupt).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_people_write_them() {
        assert_eq!(limit("memory=256m"), Ok(Limit::Memory(256 << 20)));
        assert_eq!(limit("memory=1GiB"), Ok(Limit::Memory(1 << 30)));
        assert_eq!(limit("memory=1048576"), Ok(Limit::Memory(1 << 20)));
        assert_eq!(limit("cpu=0.5"), Ok(Limit::CpuMillis(500)));
        assert_eq!(limit("cpu=2"), Ok(Limit::CpuMillis(2000)));
        assert_eq!(limit("cpu=.25"), Ok(Limit::CpuMillis(250)));
        assert_eq!(limit("pids=64"), Ok(Limit::Pids(64)));
        for bad in [
            "memory",
            "memory=",
            "memory=-1",
            "memory=0",
            "memory=1x",
            "cpu=0",
            "cpu=.",
            "cpu=-1",
            "cpu=1.2345",
            "cpu=1e3",
            "pids=x",
            "disk=1g",
            "memory=99999999999999g",
        ] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
