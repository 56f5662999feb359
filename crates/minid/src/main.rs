//! `minid`, the server: the one place that names every part and puts them together.
//!
//! `minid run` is a small parent that holds the listening sockets and keeps two children going,
//! `minid controller` and `minid proxy`; on a VM the service manager does the same with units.

mod acme;
mod activation;
mod admin;
mod commands;
#[cfg(debug_assertions)]
mod fault;
mod handover;
mod health;
mod installed;
mod notify;
mod output;
mod program;
mod schedule;
mod services;
mod settings;
mod sockets;
mod supervise;
mod troubles;
mod upgrade;

use handover::Listeners;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "minid",
    version,
    about = "The mini server: controller and proxy",
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run controller and proxy together, restarting either when it dies
    Run(settings::Flags),
    /// Run the controller alone
    Controller(settings::Flags),
    /// Run the proxy alone
    Proxy(settings::Flags),
    /// Replace the proxy by a new one, of the program that is on disk now; no request is dropped
    Reload(settings::Flags),
    /// Replace mini by another release of itself; goes back by itself if that one is no good
    Upgrade(commands::upgrade::Args),
    /// Make API tokens on the server itself
    #[command(subcommand)]
    Token(commands::token::Token),
    /// Put the whole platform into one file, while it runs
    Backup(commands::backup::Backup),
    /// Bring a platform back from a backup, on an empty machine
    Restore(commands::restore::Restore),
    /// Say how the server is, also with the controller or the proxy dead
    ///
    /// Ends with 0 if all is well, with 1 if something is down.
    Status(commands::status::Args),
    /// Print what the proxy counts of requests, as Prometheus reads it
    Metrics(commands::metrics::Args),
    /// Say what is wrong on this machine, and what to do about it
    Doctor(settings::Flags),
    /// Write the units of systemd that this version runs under into a folder; prints which differed
    Units(commands::units::Units),
    /// Show or remove what keeps apps from the rest of this machine
    #[command(subcommand)]
    Firewall(commands::firewall::Verb),
    /// Print the API's description (OpenAPI, JSON)
    Openapi,
}

fn main() -> ExitCode {
    installed::take_settings();
    let cli = Cli::parse();
    output::start_log();
    let given = match activation::listeners() {
        Ok(given) => given,
        Err(fault) => {
            output::error(&fault);
            return ExitCode::FAILURE;
        }
    };
    if let Command::Backup(_) = cli.command {
        // Before there are threads, so that all of them have it.
        mini_controller::step_back();
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(dispatch(cli.command, given));
            // What is left are threads that wait for nobody.
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
            done
        }
        Err(error) => Err(output::Fault::new(format!("no threads could be started: {error}"))),
    };
    match done {
        Ok(code) => code,
        Err(fault) => {
            output::error(&fault);
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(command: Command, given: Listeners) -> Result<ExitCode, output::Fault> {
    match command {
        Command::Run(flags) => commands::run::run(flags.resolve()?, given).await,
        Command::Controller(flags) => commands::controller::run(flags.resolve()?).await,
        Command::Proxy(flags) => commands::proxy::run(flags.resolve()?, given).await,
        Command::Reload(flags) => commands::reload::run(flags.resolve()?).await,
        Command::Upgrade(args) => Box::pin(commands::upgrade::run(args)).await,
        Command::Token(token) => commands::token::run(token).await,
        Command::Backup(backup) => commands::backup::run(backup).await,
        Command::Restore(restore) => commands::restore::run(restore).await,
        Command::Metrics(args) => commands::metrics::run(args).await,
        Command::Status(args) => commands::status::run(args).await,
        Command::Doctor(flags) => commands::doctor::run(flags.resolve()?).await,
        Command::Units(args) => commands::units::run(args),
        Command::Firewall(verb) => commands::firewall::run(verb).await,
        Command::Openapi => commands::openapi::run(),
    }
}
