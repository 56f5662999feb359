//! `mini tokens`: who may use the server, and for what.

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use mini_api::client::Client;
use mini_api::{NewToken, Rotate, Scope, Token};
use mini_core::name::AppName;

use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::output::table;
use crate::prompt;
use crate::words::{ago, duration};

/// Create, list, rotate and revoke the server's tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mini tokens create laptop\n  \
                        mini tokens create ci --scope deploy --app blue --expires 1y\n  \
                        mini tokens create wall --scope read --expires 90d\n  \
                        mini tokens rotate ci --overlap 1h\n  \
                        mini tokens revoke ci")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List them, without their secrets
    List,
    /// Make one; its secret is printed once, alone on stdout. --app, once or several times, names
    /// the apps that it is for
    Create {
        name: String,
        /// admin: everything; deploy: deploy, roll back and read the apps named; read: read all
        /// apps or those named. Values of config vars are shown to admin alone
        #[arg(long, value_name = "SCOPE", default_value = "admin")]
        scope: Scope,
        /// For how long it lives: 12h, 30d, 1y; left out: until it is revoked
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<SignedDuration>,
    },
    /// Give one another secret, printed once; scope, apps and lifetime stay
    Rotate {
        /// Its name, or its id
        token: String,
        /// How long the old secret works on; 0s ends it at once
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
        overlap: SignedDuration,
        /// For how long it lives from now; left out: as long as it was made for
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<SignedDuration>,
    },
    /// End one at once
    Revoke {
        /// Its name, or its id
        token: String,
        /// Do not ask, even if it is the token in use
        #[arg(long, short)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context, args: Args) -> Result<(), Failure> {
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => list(context).await,
        Verb::Create { name, scope, expires } => {
            let apps = context.asked.apps.clone();
            let expires_in_seconds = expires.map(seconds);
            create(context, &NewToken { name, scope, apps, expires_in_seconds }).await
        }
        Verb::Rotate { token, overlap, expires } => {
            let expires_in_seconds = expires.map(seconds);
            let how = Rotate { overlap_seconds: seconds(overlap), expires_in_seconds };
            rotate(context, &token, &how).await
        }
        Verb::Revoke { token, yes } => revoke(context, &token, yes).await,
    }
}

fn seconds(duration: SignedDuration) -> u64 {
    u64::try_from(duration.as_secs()).unwrap_or(0)
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
            Some(at) => day(at),
        };
        vec![
            t.id.to_string(),
            name,
            t.scope.to_string(),
            apps(t),
            ago(t.created_at, now),
            t.last_used_at.map_or_else(|| "never".into(), |at| ago(at, now)),
            expires,
            notes(t, now).join("; "),
        ]
    };
    let rows: Vec<_> = found.tokens.iter().map(row).collect();
    let head = ["ID", "NAME", "SCOPE", "APPS", "CREATED", "USED", "EXPIRES", ""];
    context.out.data(&table(&head, &rows))?;
    if found.tokens.iter().any(|t| t.seen_over_http_at.is_some()) {
        context.out.warn(
            "a token that was seen over http could be read on the way: give it another secret \
             over https with `mini tokens rotate NAME --overlap 0s`, or end it with \
             `mini tokens revoke NAME`",
        );
    }
    Ok(())
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

fn apps(token: &Token) -> String {
    match &token.apps {
        None => "all".to_owned(),
        Some(apps) if apps.is_empty() => "none left".to_owned(),
        Some(apps) => apps.iter().map(AppName::as_str).collect::<Vec<_>>().join(", "),
    }
}

fn notes(token: &Token, now: Timestamp) -> Vec<String> {
    let rotated = token.rotated_at.map(|at| format!("rotated {}", ago(at, now)));
    let old = token.old_secret_until.map(|at| format!("old secret works until {}", clock(at)));
    let seen = token.seen_over_http_at.map(|at| format!("seen over http {}", ago(at, now)));
    [rotated, old, seen].into_iter().flatten().collect()
}

fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

async fn create(context: &Context, new: &NewToken) -> Result<(), Failure> {
    let created = context.client()?.create_token(new).await?;
    if context.out.json {
        return context.out.document(&created);
    }
    let token = &created.token;
    let may = match (token.scope, &token.apps) {
        (Scope::Admin, _) => "may do everything".to_owned(),
        (scope, None) => format!("may {scope} all apps"),
        (scope, Some(_)) => format!("may {scope} {}", apps(token)),
    };
    let until = token.expires_at.map_or_else(String::new, |at| format!(" until {}", day(at)));
    context.out.say(&format!(
        "Token {:?} (id {}) {may}{until}; its secret is shown this once:",
        token.name, token.id
    ));
    context.out.data(&created.secret)
}

async fn rotate(context: &Context, token: &str, how: &Rotate) -> Result<(), Failure> {
    let client = context.client()?;
    let token = find(&client, token).await?;
    let created = client.rotate_token(&token.id, how).await?;
    if context.out.json {
        return context.out.document(&created);
    }
    let old = match created.token.old_secret_until {
        Some(at) => format!("the old one works until {}", clock(at)),
        None => "the old one works no more".to_owned(),
    };
    context
        .out
        .say(&format!("Token {:?} has a new secret, shown this once; {old}:", created.token.name));
    if token.current {
        context.out.warn("it is the token in use here: `mini login` stores the new secret");
    }
    context.out.data(&created.secret)
}

async fn revoke(context: &Context, token: &str, yes: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let token = find(&client, token).await?;
    if token.current {
        let what = format!("Revoking {:?}, the token in use here,", token.name);
        prompt::confirm(&context.out, &what, &token.name, yes)?;
    }
    client.revoke_token(&token.id).await?;
    context.out.say(&format!("Revoked {:?}.", token.name));
    Ok(())
}

/// The token with this id or, if there is one only, this name.
async fn find(client: &Client, wanted: &str) -> Result<Token, Failure> {
    let mut found = client.tokens().await?.tokens;
    if let Some(at) = found.iter().position(|t| t.id.as_str() == wanted) {
        return Ok(found.swap_remove(at));
    }
    found.retain(|t| t.name == wanted);
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(Failure::new(Kind::NotFound, format!("there is no token {wanted}"))
            .hint("`mini tokens list` lists them")),
        n => {
            let ids: Vec<&str> = found.iter().map(|t| t.id.as_str()).collect();
            Err(Failure::new(Kind::Conflict, format!("{n} tokens are named {wanted:?}"))
                .hint(format!("name one by its id: {}", ids.join(", "))))
        }
    }
}
