//! `minid token`: tokens are made and listed on the server itself, whether it runs or not.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use mini_api::{NewToken, Scope};
use mini_core::name::AppName;

use crate::admin::{self, Asked};
use crate::output::{self, Fault};
use crate::settings::{Flags, Settings};

#[derive(Subcommand)]
pub(crate) enum Token {
    /// Make a token and print it, alone, to standard output
    Create(Create),
    /// List them, without their secrets
    List(Flags),
}

#[derive(Args)]
pub(crate) struct Create {
    /// Whose it is, or what for: shown in `mini tokens list`
    #[arg(long, value_name = "NAME")]
    name: String,
    /// admin: everything; deploy: deploy, roll back and read the apps named; read: read only
    #[arg(long, value_name = "SCOPE", default_value = "admin")]
    scope: Scope,
    /// An app that it is for; several times for several
    #[arg(long = "app", value_name = "NAME")]
    apps: Vec<AppName>,
    /// For how long it lives: 12h, 30d, 1y; left out: until it is revoked
    #[arg(long, value_name = "DURATION", value_parser = mini_core::time::seconds)]
    expires: Option<u64>,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) async fn run(token: Token) -> Result<ExitCode, Fault> {
    let create = match token {
        Token::Create(create) => create,
        Token::List(flags) => return list(&flags.resolve()?).await,
    };
    let Create { name, scope, apps, expires, flags } = create;
    let settings = flags.resolve()?;
    let new = NewToken { name, scope, apps, expires_in_seconds: expires };
    let secret = make(&settings, &new).await?;
    output::line(&secret);
    Ok(ExitCode::SUCCESS)
}

async fn list(settings: &Settings) -> Result<ExitCode, Fault> {
    let tokens = match admin::tokens(&settings.sockets.live("admin.sock")).await {
        Some(tokens) => tokens,
        None => open(settings).await?.tokens().await.map_err(super::controller::not_started)?,
    };
    let width = tokens.iter().map(|token| token.name.chars().count()).max().unwrap_or(0);
    for token in tokens {
        let day = |at: jiff::Timestamp| at.strftime("%Y-%m-%d").to_string();
        let mut line =
            format!("{}  {:<width$}  made {}", token.id, token.name, day(token.created_at));
        match &token.apps {
            _ if token.scope == Scope::Admin => {}
            None => line.push_str(&format!(", {} of all apps", token.scope)),
            Some(apps) => {
                let apps: Vec<&str> = apps.iter().map(AppName::as_str).collect();
                line.push_str(&format!(", {} of {}", token.scope, apps.join(" and ")));
            }
        }
        match token.last_used_at {
            Some(at) => line.push_str(&format!(", used {}", day(at))),
            None => line.push_str(", never used"),
        }
        if let Some(at) = token.expires_at {
            line.push_str(&format!(", ends {}", day(at)));
        }
        if let Some(at) = token.seen_over_http_at {
            line.push_str(&format!(", SEEN OVER HTTP {}: make another, revoke it", day(at)));
        }
        output::line(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the controller that runs; without one, opens the data folder.
async fn make(settings: &Settings, new: &NewToken) -> Result<String, Fault> {
    match admin::create_token(&settings.sockets.live("admin.sock"), new).await {
        Asked::Answered(created) => return Ok(created.secret),
        Asked::Refused(why) => return Err(Fault::new(why)),
        Asked::NotRunning => {}
    }
    let folder = open(settings).await?;
    folder.create_token(new).await.map_err(super::controller::not_started)
}

/// The data folder of a server that does not run.
async fn open(settings: &Settings) -> Result<mini_controller::DataFolder, Fault> {
    if !settings.data_dir.join("mini.db").is_file() {
        let message = format!("there is no server's data in {}", settings.data_dir.display());
        return Err(Fault::new(message)
            .hint("name the server's folder with --data-dir; `minid run` makes a new one"));
    }
    mini_controller::DataFolder::open(&settings.data_dir)
        .await
        .map_err(super::controller::not_started)
}
