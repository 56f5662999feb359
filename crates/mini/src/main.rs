//! `mini`, the command line: parse ([`cli`]), resolve ([`settings`]), then one verb of
//! [`commands`]. Everything printed goes through [`output`].

mod attach;
mod ci;
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
mod system;
mod terminal;
mod words;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::ci::Actions;
use crate::cli::{Cli, Global, Verb};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Asked, Vars};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let vars = Vars::of_process();
    let out = Arc::new(match &cli.verb {
        Verb::Deploy(args) if args.ci => {
            // Without randomness there are no commands, and nothing that could be mistaken for one.
            let actions = Actions::of(&vars).unwrap_or_default();
            Output::for_pipeline(cli.global.json, &vars, actions)
        }
        _ => Output::new(cli.global.json, &vars),
    });
    let Global { host, server, app: apps, .. } = cli.global;
    let asked = Asked { host, server, app: apps.last().cloned(), apps };
    let context = Context { out: out.clone(), vars, asked };
    match one_app(&context, &cli.verb).and_then(|()| run(&context, cli.verb)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// A token may be for several apps; all else is about one.
fn one_app(context: &Context, verb: &Verb) -> Result<(), Failure> {
    if context.asked.apps.len() > 1 && !matches!(verb, Verb::Tokens(_)) {
        return Err(Failure::usage("--app is given more than once; this is about one app"));
    }
    Ok(())
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
        Verb::Metrics(args) => Box::pin(metrics::run(context, args)).await,
        Verb::Ps(args) => ps::run(context, args).await,
        Verb::Run(args) => Box::pin(run::run(context, args)).await,
        Verb::Exec(args) => Box::pin(exec::run(context, args)).await,
        Verb::Env(args) => Box::pin(env::run(context, args)).await,
        Verb::Restart(args) => Box::pin(restart::run(context, args)).await,
        Verb::Diff(args) => Box::pin(diff::run(context, args)).await,
        Verb::Rollback(args) => Box::pin(rollback::run(context, args)).await,
        Verb::Scale(args) => Box::pin(scale::run(context, args)).await,
        Verb::Limits(args) => Box::pin(limits::run(context, args)).await,
        Verb::Volumes(args) => Box::pin(volumes::run(context, args)).await,
        Verb::Domains(args) => Box::pin(domains::run(context, args)).await,
        Verb::Maintenance(args) => maintenance::run(context, args).await,
        Verb::Pages(args) => pages::run(context, args).await,
        Verb::Stop(args) => stop::run(context, args).await,
        Verb::Start(args) => Box::pin(start::run(context, args)).await,
        Verb::Releases(args) => releases::run(context, args).await,
        Verb::Deploys(args) => Box::pin(deploys::run(context, args)).await,
        Verb::Server(args) => Box::pin(server::run(context, args)).await,
        Verb::Config(args) => config::run(context, args).await,
        Verb::Login(args) => login::run(context, args).await,
        Verb::Certs(args) => certs::run(context, args).await,
        Verb::Tokens(args) => tokens::run(context, args).await,
        Verb::Audit(args) => audit::run(context, args).await,
        Verb::Version(args) => version::run(context, args).await,
        Verb::Completions(args) => completions::run(context, args),
    }
}
