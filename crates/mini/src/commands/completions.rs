//! `mini completions`: what a shell needs to complete `mini`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::context::Context;
use crate::failure::Failure;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mini completions bash > ~/.local/share/bash-completion/completions/mini\n  \
                        mini completions zsh > ~/.zfunc/_mini"
)]
pub(crate) struct Args {
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mini", &mut script);
    context.out.raw(&script)
}
