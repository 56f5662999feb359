//! `mini tokens`: who may use the server.

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use mini_api::{NewToken, Token};
use mini_core::id::TokenId;

use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::output::table;
use crate::prompt;
use crate::words::{ago, duration};

/// Create, list and revoke the server's tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini tokens create ci --expires 90d\n  mini tokens list\n  \
                        mini tokens revoke ID")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them, without their secrets
    List,
    /// Make one; its secret is printed once, alone on stdout
    Create {
        name: String,
        /// For how long it lives: 12h, 30d; left out: until it is revoked
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<SignedDuration>,
    },
    /// End one at once
    Revoke {
        id: TokenId,
        /// Do not ask, even if it is the token in use
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Create { name, expires } => create(context, name, expires).await,
        Verb::Revoke { id, yes } => revoke(context, &id, yes).await,
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let found = context.client()?.tokens().await?;
    if context.out.json {
        return context.out.document(&found);
    }
    let now = Timestamp::now();
    let row = |t: &Token| {
        let name = if t.current { format!("{} (in use)", t.name) } else { t.name.clone() };
        let expires = match t.expires_at {
            None => "never".to_owned(),
            Some(at) if at <= now => "expired".to_owned(),
            Some(at) => at.strftime("%Y-%m-%d").to_string(),
        };
        vec![
            t.id.to_string(),
            name,
            t.scope.clone(),
            ago(t.created_at, now),
            t.last_used_at.map_or_else(|| "never".into(), |at| ago(at, now)),
            expires,
        ]
    };
    let rows: Vec<_> = found.tokens.iter().map(row).collect();
    context.out.data(&table(&["ID", "NAME", "SCOPE", "CREATED", "USED", "EXPIRES"], &rows))
}

async fn create(
    context: &Context,
    name: String,
    expires: Option<SignedDuration>,
) -> Result<(), Failure> {
    let expires_in_seconds = expires.and_then(|e| u64::try_from(e.as_secs()).ok());
    let created = context.client()?.create_token(&NewToken { name, expires_in_seconds }).await?;
    if context.out.json {
        return context.out.document(&created);
    }
    let id = &created.token.id;
    context
        .out
        .say(&format!("Token {:?} (id {id}); its secret is shown this once:", created.token.name));
    context.out.data(&created.secret)
}

async fn revoke(context: &Context, id: &TokenId, yes: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let found = client.tokens().await?;
    let token = found.tokens.iter().find(|t| t.id == *id).ok_or_else(|| {
        Failure::new(Kind::NotFound, format!("there is no token {id}"))
            .hint("`mini tokens list` lists them")
    })?;
    if token.current {
        let what = format!("Revoking {:?}, the token in use here,", token.name);
        prompt::confirm(&context.out, &what, &token.name, yes)?;
    }
    client.revoke_token(id).await?;
    context.out.say(&format!("Revoked {:?}.", token.name));
    Ok(())
}
