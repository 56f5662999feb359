//! The command line. Each verb's own arguments stand with the verb, in [`crate::commands`].

use clap::{Parser, Subcommand};
use mini_core::name::AppName;

use crate::commands::*;

#[derive(Debug, Parser)]
#[command(
    name = "mini",
    version,
    about = "Deploy apps to your own server",
    disable_help_subcommand = true,
    after_help = "Examples:\n  mini config set-host http://localhost   which server to use\n  \
                  mini login                              with a token of that server\n  \
                  mini deploy .                           the folder goes live"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// The app [env: MINI_APP; else mini.toml, else the git remote `mini`]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) app: Vec<AppName>,
    /// The server by its name in the config file [env: MINI_SERVER]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with = "host",
        help_heading = "Global options"
    )]
    pub(crate) server: Option<String>,
    /// The server by its address: https://HOST[:PORT], http://HOST[:PORT] or unix:PATH
    /// [env: MINI_HOST, with MINI_TOKEN and MINI_FINGERPRINT]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub(crate) host: Option<String>,
    /// Print data as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Deploy(deploy::Args),
    Apps(apps::Args),
    Open(open::Args),
    Logs(logs::Args),
    Metrics(metrics::Args),
    Ps(ps::Args),
    Run(run::Args),
    Exec(exec::Args),
    Env(env::Args),
    Restart(restart::Args),
    Diff(diff::Args),
    Rollback(rollback::Args),
    Scale(scale::Args),
    Limits(limits::Args),
    Volumes(volumes::Args),
    Domains(domains::Args),
    Maintenance(maintenance::Args),
    Pages(pages::Args),
    Stop(stop::Args),
    Start(start::Args),
    Releases(releases::Args),
    Deploys(deploys::Args),
    Server(server::Args),
    Config(config::Args),
    Login(login::Args),
    Certs(certs::Args),
    Tokens(tokens::Args),
    Audit(audit::Args),
    Version(version::Args),
    Completions(completions::Args),
}
