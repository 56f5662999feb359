//! `mini certs`: the certificates that the server serves with.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mini_api::{Cert, CertSource, CertState, Certs, NewCert};

use super::word;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;
use crate::prompt;
use crate::words::{ago, time_since};

/// Larger than any certificate chain or key.
const LARGEST_FILE: u64 = 256 << 10;

/// Show the certificates of all names that lead to the server, and bring your own
///
/// The server orders a certificate for every name by itself, if it was started with --acme-email.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini certs\n  mini certs show blue.example.com\n  \
                        mini certs add fullchain.pem privkey.pem\n  \
                        mini certs remove blue.example.com\n  \
                        mini certs retry blue.example.com        after its DNS record was made")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List them
    List,
    /// Show one name's certificate and what happened to it
    Show { name: String },
    /// Bring an own certificate; it wins over ordered ones for its names
    ///
    /// With --app it belongs to that app, and goes with it.
    Add {
        /// The chain in PEM, the server's own certificate first
        chain: PathBuf,
        /// Its private key in PEM
        key: PathBuf,
    },
    /// Remove an own certificate, by one of its names
    Remove {
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Order a certificate now, without waiting for the next try
    Retry { name: String },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Show { name } => show(context, &name).await,
        Verb::Add { chain, key } => add(context, &chain, &key).await,
        Verb::Remove { name, yes } => remove(context, &name, yes).await,
        Verb::Retry { name } => retry(context, &name).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let found = context.client()?.certs().await?;
    if context.out.json {
        return context.out.document(&found);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = found.certs.iter().map(|cert| row(cert, now)).collect();
    let head = ["NAME", "APP", "SOURCE", "STATE", "EXPIRES", "NEXT", "LAST ERROR"];
    context.out.data(&table(&head, &rows))?;
    for note in notes(&found) {
        context.out.say(&note);
    }
    Ok(())
}

fn row(cert: &Cert, now: Timestamp) -> Vec<String> {
    vec![
        cert.name.clone(),
        cert.app.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        cert.source.as_ref().map_or_else(|| "-".to_owned(), source),
        word(&cert.state),
        cert.not_after.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d").to_string()),
        next(cert, now),
        cert.last_error.as_deref().map_or_else(String::new, short),
    ]
}

fn source(source: &CertSource) -> String {
    match source {
        CertSource::Acme => "ordered".to_owned(),
        CertSource::Own => "own".to_owned(),
        CertSource::Unknown => "unknown".to_owned(),
    }
}

/// What comes next for a name, and when.
fn next(cert: &Cert, now: Timestamp) -> String {
    let within = |at: Timestamp| match at <= now {
        true => "now".to_owned(),
        false => format!("in {}", time_since(now, at)),
    };
    match (cert.next_try_at, cert.renew_at) {
        (Some(at), _) => format!("try {}", within(at)),
        (None, Some(at)) => format!("renew {}", within(at)),
        (None, None) => "-".to_owned(),
    }
}

/// One line of the table holds so much.
fn short(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What the table does not say, each once.
fn notes(found: &Certs) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(why) = &found.acme.off {
        notes.push(format!("No certificates are ordered: {why}"));
    }
    let mut noted: Vec<(&str, Vec<&str>)> = Vec::new();
    for cert in &found.certs {
        let Some(note) = &cert.note else { continue };
        if Some(note) == found.acme.off.as_ref() {
            continue;
        }
        match noted.iter_mut().find(|(known, _)| known == note) {
            Some((_, names)) => names.push(&cert.name),
            None => noted.push((note, vec![&cert.name])),
        }
    }
    notes.extend(noted.into_iter().map(|(note, names)| format!("{}: {note}", names.join(", "))));
    if found.certs.iter().any(|c| c.state == CertState::Failed) {
        notes.push("`mini certs show NAME` has the whole story of a name.".to_owned());
    }
    notes
}

async fn show(context: &Context, name: &str) -> Result<(), Failure> {
    let found = context.client()?.cert(name).await?;
    if context.out.json {
        return context.out.document(&found);
    }
    let (cert, now) = (&found.cert, Timestamp::now());
    let mut lines = vec![("name", cert.name.clone())];
    lines.extend(cert.app.as_ref().map(|app| ("app", app.to_string())));
    lines.push(("state", word(&cert.state)));
    if let Some(from) = &cert.source {
        let issuer = cert.issuer.as_deref().unwrap_or("somebody");
        lines.push(("source", format!("{}, issued by {issuer}", source(from))));
        lines.push(("names", cert.names.join(", ")));
    }
    lines.extend(cert.not_before.map(|at| ("from", at.to_string())));
    lines.extend(cert.not_after.map(|at| ("until", at.to_string())));
    lines.extend(cert.renew_at.map(|at| {
        let by = if cert.renewal_suggested {
            "as the authority suggests"
        } else {
            "two thirds of its life"
        };
        ("renewal", format!("{at} ({by})"))
    }));
    lines.extend(cert.fingerprint.as_ref().map(|f| ("sha-256", f.clone())));
    if let Some(error) = &cert.last_error {
        let times = if cert.attempts == 1 { "once" } else { "in a row" };
        let count =
            if cert.attempts > 1 { format!("{} times ", cert.attempts) } else { String::new() };
        lines.push(("failed", format!("{count}{times}: {error}")));
    }
    lines.extend(cert.next_try_at.map(|at| ("next try", at.to_string())));
    lines.extend(cert.note.as_ref().map(|note| ("note", note.clone())));
    for (label, text) in lines {
        context.out.data(&format!("{label:<10}{text}"))?;
    }
    for event in &found.events {
        context.out.data(&format!("{:<12}{}", ago(event.at, now), event.text))?;
    }
    Ok(())
}

async fn add(context: &Context, chain: &Path, key: &Path) -> Result<(), Failure> {
    let new = NewCert { chain: read(chain)?, key: read(key)?, app: context.asked.app.clone() };
    let added = context.client()?.add_cert(&new).await?;
    if context.out.json {
        return context.out.document(&added);
    }
    for warning in &added.warnings {
        context.out.warn(warning);
    }
    let names: Vec<&str> = added.certs.iter().map(|c| c.name.as_str()).collect();
    let until = added.certs.first().and_then(|c| c.not_after);
    let until = until.map_or_else(String::new, |at| format!(", until {}", at.strftime("%Y-%m-%d")));
    context.out.say(&format!("Added the certificate for {}{until}", names.join(", ")));
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    let what = path.display();
    let failed = |e: &std::io::Error| Failure::io(format!("cannot read {what}"), e);
    let size = std::fs::metadata(path).map_err(|e| failed(&e))?.len();
    if size > LARGEST_FILE {
        return Err(Failure::usage(format!("{what} is too large for a certificate or key"))
            .hint("give the chain and the key as PEM files"));
    }
    let bytes = std::fs::read(path).map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|_| {
        Failure::usage(format!("{what} is not PEM"))
            .hint("`openssl x509 -inform der` and `openssl pkey -inform der` turn DER into PEM")
    })
}

async fn remove(context: &Context, name: &str, yes: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let cert = client.cert(name).await?.cert;
    if cert.source == Some(CertSource::Own) {
        let what = format!("Removing the certificate for {}", cert.names.join(", "));
        prompt::confirm(&context.out, &what, name, yes)?;
    }
    client.remove_cert(name).await?;
    context.out.say(&format!("Removed the certificate for {}", cert.names.join(", ")));
    Ok(())
}

async fn retry(context: &Context, name: &str) -> Result<(), Failure> {
    let cert = context.client()?.retry_cert(name).await?;
    if context.out.json {
        return context.out.document(&cert);
    }
    context.out.say(&format!(
        "A certificate for {name} is ordered; `mini certs show {name}` says what becomes of it"
    ));
    Ok(())
}
