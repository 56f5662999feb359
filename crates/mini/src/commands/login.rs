//! `mini login`: a token for one server, checked and stored.

use mini_api::client::{Endpoint, Fingerprint};

use crate::commands::config::{default_name, pin, warn_plain_http};
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::project::Project;
use crate::prompt;
use crate::settings::Target;

/// Store a token for a server, after trying it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini login\n  mini login http://203.0.113.7\n  \
                        mini login https://203.0.113.7 --fingerprint 3f1c…\n  \
                        minid token create --name laptop | mini login\n\n\
                        The server prints its fingerprint as it starts; so does `minid status`.\n\
                        `minid token create --name NAME` on the server prints a new token.")]
pub(crate) struct Args {
    /// The server: its name or address; left out, the current one
    host: Option<String>,
    /// The token; left out, it is asked for or read from stdin
    #[arg(long)]
    token: Option<String>,
    /// The certificate to believe until a public one comes: its SHA-256 in hex
    #[arg(long, value_name = "SHA256")]
    fingerprint: Option<Fingerprint>,
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let mut file = context.config()?;
    let mut target = target(context, args.host)?;
    pin(&mut target, args.fingerprint)?;
    warn_plain_http(context, &target.endpoint);
    if matches!(target.endpoint, Endpoint::Https { .. }) {
        // Before a token is typed: is it the right server?
        context.client_of(Target { token: None, ..target.clone() }).health().await?;
    }
    let token = match args.token {
        Some(token) if token != "-" => token.trim().to_owned(),
        _ => prompt::secret(&context.out, &format!("Token for {}:", target.endpoint))?,
    };
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Failure::usage("that is not a token: mini_ and letters and digits"));
    }
    let endpoint = target.endpoint.clone();
    let client = context.client_of(Target { token: Some(token.clone()), ..target.clone() });
    let server = client.server().await.map_err(|e| {
        let mut failure = Failure::from(e);
        if failure.kind == Kind::NotAuthorised {
            failure.hint = Some(
                "`minid token create --name NAME` on the server prints a new token".to_owned(),
            );
        }
        failure
    })?;
    let name = target.name.unwrap_or_else(|| default_name(&endpoint));
    file.set_host(&name, &endpoint);
    file.set_token(&name, &token);
    if let Some(fingerprint) = args.fingerprint {
        file.set_fingerprint(&name, fingerprint);
    }
    if file.current().is_none() {
        file.set_current(&name);
    }
    file.save()?;
    if context.out.json {
        return context.out.document(&server);
    }
    let who = server.token.map_or(String::new(), |token| format!(" with the token {token:?}"));
    context.out.say(&format!("Logged in to {name:?} ({endpoint}){who}."));
    if file.current() != Some(&name) {
        context.out.say(&format!("`mini config use {name}` makes it the current server."));
    }
    Ok(())
}

/// `HOST` is an address, or the name of a server in the file.
fn target(context: &Context, host: Option<String>) -> Result<Target, Failure> {
    let Some(host) = host else {
        return context.target(&Project::default());
    };
    let mut asked = context.asked.clone();
    (asked.host, asked.server) =
        if host.contains(':') { (Some(host), None) } else { (None, Some(host)) };
    crate::settings::target(&asked, &context.vars, &context.config()?, &Project::default(), None)
}
