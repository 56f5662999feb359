//! `minid upgrade`: another release of mini takes the place of the one that runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{Reload, StopSignals};
use crate::output::Fault;
use crate::settings::Flags;
use crate::upgrade::{Upgrade, Wanted};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  minid upgrade mini-0.2.0-x86_64-linux.tar.gz\n  \
                        minid upgrade https://example.com/mini-0.2.0-x86_64-linux.tar.gz\n  \
                        minid upgrade --back")]
pub(crate) struct Args {
    /// The archive: a file, or an https URL; its signature lies beside it, with .minisig appended
    #[arg(value_name = "FILE|URL", required_unless_present_any = ["back", "recover"])]
    source: Option<String>,
    /// Go back to the release before this one
    #[arg(long, conflicts_with = "source")]
    back: bool,
    /// Take back an upgrade that was cut off, before the services start: for mini-recover.service
    #[arg(long, hide = true, conflicts_with_all = ["source", "back"])]
    recover: bool,
    /// Whose archives are believed: a public key of minisign [default: /etc/mini/upgrade.pub]
    #[arg(long, env = "MINID_UPGRADE_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
    /// The archive's digest, where there is no key
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// How long the new release has until all must be well
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    within_s: u64,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode, Fault> {
    let settings = args.flags.resolve()?;
    let wanted = Wanted {
        source: args.source.filter(|_| !args.back),
        key: args.key,
        sha256: args.sha256,
        patience: Duration::from_secs(args.within_s),
    };
    // A connection that breaks must not end what is half done: from here on it goes to its end.
    let _signals = (StopSignals::new()?, Reload::new()?);
    let upgrade = Upgrade::begin(&settings).await?;
    if args.recover {
        upgrade.recover().await?;
    } else {
        upgrade.run(&wanted).await?;
    }
    Ok(ExitCode::SUCCESS)
}
