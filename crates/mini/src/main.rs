//! `mini`, the command line: parse ([`cli`]), resolve ([`settings`]), then one verb of
//! [`commands`]. Everything printed goes through [`output`].

mod cli;
mod commands;
mod config_file;
mod context;
mod env_file;
mod failure;
mod follow;
mod interrupt;
mod output;
mod pack;
mod project;
mod prompt;
mod settings;
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::cli::{Cli, Verb};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Asked, Vars};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let vars = Vars::of_process();
    let out = Arc::new(Output::new(cli.global.json, &vars));
    let asked = Asked { host: cli.global.host, server: cli.global.server, app: cli.global.app };
    let context = Context { out: out.clone(), vars, asked };
    match run(&context, cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

fn run(context: &Context, verb: Verb) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot start", &e))?;
    let result = runtime.block_on(dispatch(context, verb));
    // A thread that still reads a large file is not worth waiting for.
    runtime.shutdown_background();
    result
}

async fn dispatch(context: &Context, verb: Verb) -> Result<(), Failure> {
    use commands::*;
    match verb {
        Verb::Deploy(args) => Box::pin(deploy::run(context, args)).await,
        Verb::Apps(args) => apps::run(context, args).await,
        Verb::Open(args) => open::run(context, args).await,
        Verb::Logs(args) => logs::run(context, args).await,
        Verb::Ps(args) => ps::run(context, args).await,
        Verb::Env(args) => Box::pin(env::run(context, args)).await,
        Verb::Restart(args) => Box::pin(restart::run(context, args)).await,
        Verb::Diff(args) => Box::pin(diff::run(context, args)).await,
        Verb::Rollback(args) => Box::pin(rollback::run(context, args)).await,
        Verb::Scale(args) => Box::pin(scale::run(context, args)).await,
        Verb::Stop(args) => stop::run(context, args).await,
        Verb::Start(args) => Box::pin(start::run(context, args)).await,
        Verb::Releases(args) => releases::run(context, args).await,
        Verb::Deploys(args) => Box::pin(deploys::run(context, args)).await,
        Verb::Config(args) => config::run(context, args).await,
        Verb::Login(args) => login::run(context, args).await,
        Verb::Tokens(args) => tokens::run(context, args).await,
        Verb::Version(args) => version::run(context, args).await,
        Verb::Completions(args) => completions::run(context, args),
    }
}
