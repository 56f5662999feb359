//! `mini domains`: names of one's own that lead to an app.

use jiff::Timestamp;
use mini_api::{Dns, DnsRecord, DnsState, Domain, NewDomain};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::words::ago;

/// Show, add or remove an app's domains
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini domains\n  mini domains add www.example.com\n  \
                        mini domains add '*.example.com'     every name of one label before it\n  \
                        mini domains remove www.example.com")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List them, with what they lead to now
    List,
    /// Add one: requests for it reach the app at once, and no release is made
    Add {
        /// www.example.com, or *.example.com
        domain: String,
    },
    /// Remove one; another app may have it from then on
    #[command(visible_alias = "rm")]
    Remove { domain: String },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Add { domain } => add(context, domain).await,
        Verb::Remove { domain } => remove(context, &domain).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.domains(&app, true).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.domains.is_empty() {
        context.out.say("No domains of its own; `mini domains add NAME` adds one.");
        return Ok(());
    }
    let now = Timestamp::now();
    let row = |domain: &Domain| {
        let dns = domain.dns.as_ref().map_or_else(|| "not looked up".to_owned(), leads);
        vec![domain.name.to_string(), ago(domain.created_at, now), dns]
    };
    let rows: Vec<_> = found.domains.iter().map(row).collect();
    context.out.data(&table(&["DOMAIN", "ADDED", "LEADS TO"], &rows))
}

/// What a name leads to, in a few words.
fn leads(dns: &Dns) -> String {
    match dns.state {
        DnsState::Here => "this server".to_owned(),
        DnsState::Elsewhere => addresses(dns),
        DnsState::Unresolved => {
            format!("nothing yet ({})", dns.why.as_deref().unwrap_or("not known"))
        }
    }
}

fn addresses(dns: &Dns) -> String {
    let all: Vec<String> = dns.addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

async fn add(context: &Context, name: String) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let added = client.add_domain(&app, &NewDomain { name }).await;
    let added = added.map_err(|e| Failure::from(e).about(&app))?;
    let (out, name) = (&context.out, &added.domain.name);
    let what = if added.changed { "Added" } else { "Nothing changed:" };
    match (added.changed, added.routed) {
        (true, true) => out.say(&format!("{what} {name}: requests for it reach {app}")),
        (false, _) => out.say(&format!("{what} {name} is a domain of {app} already")),
        (true, false) => out.say(&format!("{what} {name}")),
    }
    if !added.routed {
        away(context);
    }
    if let Some(other) = &added.taken_from {
        out.say(&format!("It is of a wildcard of {other}, which does not get it any more."));
    }
    if let Some(dns) = &added.domain.dns {
        advise(context, name.as_str(), dns);
    }
    if out.json { out.document(&added) } else { Ok(()) }
}

/// Says what is to be done at the domain's DNS: a hint, as the server cannot see everything.
fn advise(context: &Context, name: &str, dns: &Dns) {
    let out = &context.out;
    match dns.state {
        DnsState::Here => return out.say(&format!("DNS: {name} leads to this server.")),
        DnsState::Elsewhere => out.say(&format!(
            "DNS: {name} leads to {}, which is not this server as far as it knows (behind a proxy \
             or NAT that may be right).",
            addresses(dns)
        )),
        DnsState::Unresolved => {
            let why = dns.why.as_deref().unwrap_or("not known");
            out.say(&format!("DNS: {name} leads to nothing yet ({why})."));
        }
    }
    let record = |r: &DnsRecord| format!("  {} {} {}", r.name, r.kind, r.value);
    match dns.records.as_slice() {
        [] => out.say(
            "Make an A or AAAA record with this server's public address. The server itself has no \
             public name (minid --domain).",
        ),
        [only] => out.say(&format!("Make this record:\n{}", record(only))),
        several => {
            let all: Vec<String> = several.iter().map(record).collect();
            let which = match several[0].kind.as_str() {
                "CNAME" => "Make the first of these records, or the others in its place",
                _ => "Make these records",
            };
            out.say(&format!("{which}:\n{}", all.join("\n")));
        }
    }
}

/// Something is stored and the proxy does not have it.
pub(super) fn away(context: &Context) {
    context.out.warn("the proxy does not answer: it takes effect as soon as it is back");
}

async fn remove(context: &Context, domain: &str) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let removed = client.remove_domain(&app, domain).await;
    let removed = removed.map_err(|e| Failure::from(e).about(&app))?;
    context.out.say(&format!("Removed {domain}: requests for it do not reach {app} any more"));
    if !removed.routed {
        away(context);
    }
    if context.out.json { context.out.document(&removed) } else { Ok(()) }
}
