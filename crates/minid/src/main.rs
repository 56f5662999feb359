//! `minid`, the server: the one place that names every part and puts them together.
//!
//! `minid run` is a small parent that holds the listening sockets and keeps two children going,
//! `minid controller` and `minid proxy`; on a VM the service manager does the same with units.

mod admin;
mod commands;
mod handover;
mod health;
mod output;
mod settings;
mod supervise;

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
    /// Make API tokens on the server itself
    #[command(subcommand)]
    Token(commands::token::Token),
    /// Say what is wrong on this machine, and what to do about it
    Doctor(settings::Flags),
    /// Print the API's description (OpenAPI, JSON)
    Openapi,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::start_log();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(dispatch(cli.command));
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

async fn dispatch(command: Command) -> Result<ExitCode, output::Fault> {
    match command {
        Command::Run(flags) => commands::run::run(flags.resolve()?).await,
        Command::Controller(flags) => commands::controller::run(flags.resolve()?).await,
        Command::Proxy(flags) => commands::proxy::run(flags.resolve()?).await,
        Command::Token(token) => commands::token::run(token).await,
        Command::Doctor(flags) => commands::doctor::run(flags.resolve()?).await,
        Command::Openapi => commands::openapi::run(),
    }
}
