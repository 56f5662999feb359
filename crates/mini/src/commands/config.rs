//! `mini config`: which servers there are. (An app's config vars are `mini env`.)

use std::net::IpAddr;

use clap::Subcommand;
use mini_api::client::{Endpoint, Fingerprint};
use serde::Serialize;

use crate::config_file::Known;
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::output::table;
use crate::project::Project;
use crate::settings::Target;

/// Choose and list servers; an app's config vars are `mini env`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini config set-host http://localhost\n  \
                        mini config set-host https://203.0.113.7 --as prod --fingerprint 3f1c…\n  \
                        mini config use prod\n  mini config list")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Name a server and make it the current one
    SetHost {
        /// https://HOST[:PORT], http://HOST[:PORT] or unix:PATH
        url: String,
        /// Its name here; left out, it is made from the host
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// The certificate to believe until a public one comes: its SHA-256 in hex
        #[arg(long, value_name = "SHA256")]
        fingerprint: Option<Fingerprint>,
    },
    /// Make a server the current one
    Use { name: String },
    /// List the servers
    List,
    /// Show which server is used, and why
    Show,
    /// Forget a server and its token
    Remove { name: String },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb {
        Verb::SetHost { url, name, fingerprint } => {
            set_host(context, &url, name, fingerprint).await
        }
        Verb::Use { name } => choose(context, &name),
        Verb::List => list(context),
        Verb::Show => show(context),
        Verb::Remove { name } => remove(context, &name),
    }
}

async fn set_host(
    context: &Context,
    url: &str,
    name: Option<String>,
    fingerprint: Option<Fingerprint>,
) -> Result<(), Failure> {
    let endpoint: Endpoint = url.parse().map_err(|e| Failure::usage(format!("{e}")))?;
    if name.as_ref().is_some_and(|n| n.trim().is_empty()) {
        return Err(Failure::usage("a server's name is not empty"));
    }
    let mut file = context.config()?;
    warn_plain_http(context, &endpoint);
    // Without any token: it may not be the server that the tokens here are for.
    let known = file.with_host(&endpoint);
    let mut target = Target {
        endpoint: endpoint.clone(),
        token: None,
        fingerprint: known.as_ref().and_then(|k| k.fingerprint),
        name: None,
        from: "",
        note: None,
    };
    pin(&mut target, fingerprint)?;
    let pinned = target.fingerprint;
    let health = context.client_of(target).health().await?;
    let name = name.or(known.map(|k| k.name)).unwrap_or_else(|| default_name(&endpoint));
    let before = file.server(&name).ok().flatten();
    let dropped = file.set_host(&name, &endpoint);
    if let Some(pinned) = pinned {
        file.set_fingerprint(&name, pinned);
    }
    file.set_current(&name);
    file.save()?;
    if let Some(before) = before.filter(|b| b.endpoint != endpoint) {
        let token = if dropped { "; the token for it is forgotten" } else { "" };
        context.out.say(&format!("{name:?} was {}{token}.", before.endpoint));
    }
    context.out.say(&format!("Server {name:?} is {endpoint} (mini {}).", health.version));
    let has_token = file.server(&name)?.is_some_and(|k| k.token.is_some());
    if !has_token && !matches!(endpoint, Endpoint::Unix(_)) {
        context.out.say("Next: `mini login` stores a token for it.");
    }
    Ok(())
}

fn choose(context: &Context, name: &str) -> Result<(), Failure> {
    let mut file = context.config()?;
    let known = file.server(name)?.ok_or_else(|| unknown(name))?;
    file.set_current(name);
    file.save()?;
    context.out.say(&format!("Now using {name:?} ({}).", known.endpoint));
    Ok(())
}

#[derive(Serialize)]
struct Shown {
    name: Option<String>,
    host: String,
    current: bool,
    has_token: bool,
    fingerprint: Option<String>,
}

fn list(context: &Context) -> Result<(), Failure> {
    let file = context.config()?;
    let current = file.current().map(str::to_owned);
    let shown = |known: Known| Shown {
        current: current.as_ref() == Some(&known.name),
        host: known.endpoint.to_string(),
        has_token: known.token.is_some(),
        fingerprint: known.fingerprint.map(|f| f.to_string()),
        name: Some(known.name),
    };
    let servers: Vec<Shown> = file.servers().into_iter().map(shown).collect();
    if context.out.json {
        return context.out.document(&servers);
    }
    if servers.is_empty() {
        context.out.say("No servers yet; `mini config set-host URL` adds one.");
        return Ok(());
    }
    let row = |s: &Shown| {
        let mark = |on: bool, text: &str| if on { text.to_owned() } else { String::new() };
        vec![
            s.name.clone().unwrap_or_default(),
            s.host.clone(),
            if s.has_token { "yes" } else { "no" }.to_owned(),
            mark(s.current, "current"),
        ]
    };
    let rows: Vec<_> = servers.iter().map(row).collect();
    context.out.data(&table(&["NAME", "HOST", "TOKEN", ""], &rows))
}

fn show(context: &Context) -> Result<(), Failure> {
    let target = context.target(&Project::read(".".as_ref())?)?;
    let file = context.config()?;
    if context.out.json {
        let current = target.name.is_some() && file.current() == target.name.as_deref();
        return context.out.document(&Shown {
            host: target.endpoint.to_string(),
            current,
            has_token: target.token.is_some(),
            fingerprint: target.fingerprint.map(|f| f.to_string()),
            name: target.name,
        });
    }
    let token = if target.token.is_some() { "yes" } else { "no" };
    let name = target.name.as_deref().unwrap_or("-");
    context.out.data(&format!("server  {name}"))?;
    context.out.data(&format!("host    {}", target.endpoint))?;
    context.out.data(&format!("token   {token}"))?;
    if let Some(fingerprint) = target.fingerprint {
        context.out.data(&format!("pinned  {fingerprint}"))?;
    }
    context.out.data(&format!("from    {}", target.from))?;
    context.out.data(&format!("file    {}", file.path.display()))
}

fn remove(context: &Context, name: &str) -> Result<(), Failure> {
    let mut file = context.config()?;
    if !file.remove(name) {
        return Err(unknown(name));
    }
    file.save()?;
    context.out.say(&format!("Forgot {name:?} and its token."));
    if file.current().is_none() && !file.servers().is_empty() {
        context.out.say("It was the current server; `mini config use NAME` chooses another.");
    }
    Ok(())
}

fn unknown(name: &str) -> Failure {
    Failure::new(Kind::NotFound, format!("there is no server {name:?}"))
        .hint("`mini config list` lists them")
}

/// A token over plain http can be read by everybody between.
pub(super) fn warn_plain_http(context: &Context, endpoint: &Endpoint) {
    if endpoint.is_plain() {
        let secure = endpoint.to_string().replacen("http://", "https://", 1);
        context.out.warn(&format!(
            "{endpoint} is plain http: what you send there, the token too, can be read on the way; \
             over https ({secure}, with --fingerprint until it has a public certificate) it cannot"
        ));
    }
}

/// Puts the certificate that is named into the target.
pub(super) fn pin(target: &mut Target, fingerprint: Option<Fingerprint>) -> Result<(), Failure> {
    if fingerprint.is_some() && !matches!(target.endpoint, Endpoint::Https { .. }) {
        return Err(Failure::usage(format!("{} has no certificate to pin", target.endpoint))
            .hint("--fingerprint goes with an address that begins with https://"));
    }
    target.fingerprint = fingerprint.or(target.fingerprint);
    Ok(())
}

/// `local` for this machine, else the first telling label, else the address itself.
pub(super) fn default_name(endpoint: &Endpoint) -> String {
    let (Endpoint::Http { host, .. } | Endpoint::Https { host, .. }) = endpoint else {
        return "local".to_owned();
    };
    if endpoint.is_local() {
        return "local".to_owned();
    }
    if host.parse::<IpAddr>().is_ok() {
        return host.replace(['.', ':'], "-");
    }
    let labels: Vec<&str> = host.split('.').collect();
    let telling = labels.iter().find(|l| !["mini", "www"].contains(*l));
    telling.map_or_else(|| host.clone(), |l| (*l).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_after_their_host() {
        for (url, name) in [
            ("http://localhost:8080", "local"),
            ("http://[::1]", "local"),
            ("unix:/run/x", "local"),
            ("http://paas.example.com", "paas"),
            ("http://mini.example.com", "example"),
            ("http://203.0.113.7", "203-0-113-7"),
            ("http://mini", "mini"),
        ] {
            assert_eq!(default_name(&url.parse().unwrap()), name, "{url}");
        }
    }
}
