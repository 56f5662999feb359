//! `mini pages`: an app's own error pages.

use std::path::{Path, PathBuf};

use mini_api::{MAX_PAGE_BYTES, NewPage, Page};
use mini_core::cause::size;

use super::domains::away;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table;

/// Show, set or unset the pages that an app has in place of the router's
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mini pages\n  mini pages set H80 closed.html   in maintenance\n  \
                        mini pages set '*' error.html    for every code that has none\n  \
                        mini pages unset H80\n\n\
                        Codes: H10 crashed, H12 too slow, H13 no answer, H14 stopped, H15 idle, H17 bad \
                        answer,\nH19 unreachable, H20 still starting, H21 refused, H22 too many \
                        waiting, H26 body too large,\nH80 maintenance, H81 nothing deployed, \
                        password_required, address_not_allowed.\nClients that do not read HTML get text \
                        or JSON as ever; the status stays the code's."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List them
    List,
    /// Set the page for a code; it is served at once
    Set {
        /// A code, or * for every code that has none
        code: String,
        /// A file of HTML, at most 64 KiB
        file: PathBuf,
    },
    /// Have the router's own page served again
    Unset { code: String },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Set { code, file } => set(context, &code, &file).await,
        Verb::Unset { code } => unset(context, &code).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let found = client.pages(&app).await.map_err(|e| Failure::from(e).about(&app))?;
    if context.out.json {
        return context.out.document(&found);
    }
    if found.pages.is_empty() {
        context.out.say("No pages of its own; `mini pages set CODE FILE.html` sets one.");
        return Ok(());
    }
    let row = |page: &Page| vec![page.code.clone(), size(page.bytes)];
    let rows: Vec<_> = found.pages.iter().map(row).collect();
    context.out.data(&table(&["CODE", "SIZE"], &rows))
}

async fn set(context: &Context, code: &str, file: &Path) -> Result<(), Failure> {
    let html = read(file)?;
    let (app, client) = context.app()?;
    let done = client.set_page(&app, code, &NewPage { html }).await;
    let done = done.map_err(|e| Failure::from(e).about(&app))?;
    context.out.say(&match done.changed {
        true => format!("Set: {app} answers {} with {}", named(code), file.display()),
        false => "Nothing changed: it was that page already".to_owned(),
    });
    if !done.routed {
        away(context);
    }
    if context.out.json { context.out.document(&done) } else { Ok(()) }
}

fn named(code: &str) -> String {
    if code == "*" { "every code that has no page".to_owned() } else { code.to_owned() }
}

/// Not more than is allowed is read, whatever the file is.
fn read(file: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let cannot = |e| Failure::io(format!("cannot read {}", file.display()), &e);
    let opened = std::fs::File::open(file).map_err(cannot)?;
    let mut bytes = Vec::new();
    opened.take(MAX_PAGE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > MAX_PAGE_BYTES {
        return Err(Failure::failed(format!("{} is larger than 64 KiB", file.display()))
            .hint("keep images and scripts elsewhere, and name them by their address"));
    }
    String::from_utf8(bytes)
        .map_err(|_| Failure::failed(format!("{} is not text in UTF-8", file.display())))
}

async fn unset(context: &Context, code: &str) -> Result<(), Failure> {
    let (app, client) = context.app()?;
    let done = client.unset_page(&app, code).await;
    let done = done.map_err(|e| Failure::from(e).about(&app))?;
    context.out.say(&format!("Unset: the router answers {} itself again", named(code)));
    if !done.routed {
        away(context);
    }
    if context.out.json { context.out.document(&done) } else { Ok(()) }
}
