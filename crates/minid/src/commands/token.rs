//! `minid token create`: a new token, made on the server itself, whether it runs or not.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use mini_api::NewToken;

use crate::admin::{self, Asked};
use crate::output::{self, Fault};
use crate::settings::{Flags, Settings};

#[derive(Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, alone, to standard output
    Create(Create),
}

#[derive(Args)]
pub(crate) struct Create {
    /// Whose it is, or what for: shown in `mini tokens list`
    #[arg(long, value_name = "NAME")]
    name: String,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) async fn run(token: Token) -> Result<ExitCode, Fault> {
    let Token::Create(create) = token;
    let settings = create.flags.resolve()?;
    let secret = make(&settings, &create.name).await?;
    output::line(&secret);
    Ok(ExitCode::SUCCESS)
}

/// Asks the controller that runs; without one, opens the data folder.
async fn make(settings: &Settings, name: &str) -> Result<String, Fault> {
    let new = NewToken { name: name.to_owned(), expires_in_seconds: None };
    match admin::create_token(&settings.admin_socket(), &new).await {
        Asked::Answered(created) => return Ok(created.secret),
        Asked::Refused(why) => return Err(Fault::new(why)),
        Asked::NotRunning => {}
    }
    if !settings.data_dir.join("mini.db").is_file() {
        let message = format!("there is no server's data in {}", settings.data_dir.display());
        return Err(Fault::new(message)
            .hint("name the server's folder with --data-dir; `minid run` makes a new one"));
    }
    let folder = mini_controller::DataFolder::open(&settings.data_dir)
        .await
        .map_err(super::controller::not_started)?;
    folder.create_token(name).await.map_err(super::controller::not_started)
}
