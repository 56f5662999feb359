//! `mini version`: of both sides.

use mini_api::{API_LEVEL, Health};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::project::Project;

/// Show the versions of this client and of the server
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini version\n  mini version --json")]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    api_level: u32,
    host: Option<String>,
    server: Option<Health>,
}

pub(crate) async fn run(context: &Context, _: Args) -> Result<(), Failure> {
    let client = env!("CARGO_PKG_VERSION");
    if !context.out.json {
        context.out.data(&format!("client  {client}"))?;
    }
    // The client's version is an answer too: no server is no failure.
    let target = match context.target(&Project::read(".".as_ref())?) {
        Ok(target) => Some(target),
        Err(failure) => {
            context.out.say(&format!("server  none: {}", failure.message));
            None
        }
    };
    let host = target.as_ref().map(|t| t.endpoint.to_string());
    let mut server = None;
    if let Some(target) = target {
        match context.client_of(target).health().await {
            Ok(health) => server = Some(health),
            Err(e) => context.out.say(&format!("server  none: {e}")),
        }
    }
    if context.out.json {
        return context.out.document(&Versions { client, api_level: API_LEVEL, host, server });
    }
    if let (Some(health), Some(host)) = (server, host) {
        context.out.data(&format!("server  {} ({host}, {})", health.version, health.status))?;
    }
    Ok(())
}
