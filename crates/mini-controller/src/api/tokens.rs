//! API tokens.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use mini_api::{CreatedToken, ErrorCode, NewToken, Rotate, Token, Tokens};
use mini_core::id::TokenId;

use super::Api;
use super::audit::About;
use super::auth::Caller;
use super::body::Json as Body;
use super::error::{ApiError, ApiResult};
use crate::clock::{self, timestamp};
use crate::store::{self, Rotation, TokenRow};
use crate::tokens::{self, NotMade};

/// How long the secret from before a rotation may work on: 30 days.
const MAX_OVERLAP_SECONDS: u64 = 30 * 86_400;

fn view(row: TokenRow, caller: &Caller) -> Token {
    let current = caller.token.as_ref().is_some_and(|t| t.id == row.id);
    shown(row, current)
}

/// A token as it is told; `current` is the caller's own.
pub(crate) fn shown(row: TokenRow, current: bool) -> Token {
    let now = clock::now();
    let old = row.old.iter().map(|(_, until)| *until).filter(|until| now < *until).max();
    Token {
        id: row.id,
        name: row.name,
        scope: row.scope,
        apps: row.apps,
        created_at: timestamp(row.created_at),
        expires_at: row.expires_at.map(timestamp),
        last_used_at: row.last_used_at.map(timestamp),
        rotated_at: row.rotated_at.map(timestamp),
        old_secret_until: old.map(timestamp),
        seen_over_http_at: row.seen_over_http_at.map(timestamp),
        current,
    }
}

/// Every token that was not revoked.
#[utoipa::path(get, path = "/v1/tokens", responses((status = 200, body = Tokens)))]
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> ApiResult<Json<Tokens>> {
    let rows = api.core.store.read(store::tokens).await?;
    Ok(Json(Tokens { tokens: rows.into_iter().map(|row| view(row, &caller)).collect() }))
}

/// Makes a token; its secret is shown this once.
#[utoipa::path(post, path = "/v1/tokens", request_body = NewToken, responses((status = 201, body = CreatedToken)))]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Body(new): Body<NewToken>,
) -> ApiResult<(StatusCode, Extension<About>, Json<CreatedToken>)> {
    let (row, secret) = tokens::make(&new, clock::now())?;
    let stored = row.clone();
    let stored = api.core.store.write(move |tx| store::insert_token(tx, &stored)).await?;
    stored.map_err(|app| ApiError::no_app(&app))?;
    let about = About { app: None, target: Some(format!("{} {}", row.id, row.name)) };
    let created = CreatedToken { token: view(row, &caller), secret };
    Ok((StatusCode::CREATED, Extension(about), Json(created)))
}

impl From<NotMade> for ApiError {
    fn from(error: NotMade) -> Self {
        let message = error.to_string();
        match error {
            NotMade::Name => Self::new(ErrorCode::InvalidName, message),
            NotMade::Vault(error) => error.into(),
            NotMade::NoApps => Self::invalid(message).hint("name them: --app NAME, or `apps`"),
            NotMade::AdminWithApps => {
                Self::invalid(message).hint("a deploy or read token is bound to apps")
            }
            NotMade::NoTime | NotMade::Scope => Self::invalid(message),
        }
    }
}

/// Gives a token another secret, shown this once; the old one works on for a while.
#[utoipa::path(post, path = "/v1/tokens/{id}/rotate", params(("id" = String, Path)), request_body = Rotate, responses((status = 200, body = CreatedToken)))]
pub(super) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Body(how): Body<Rotate>,
) -> ApiResult<Json<CreatedToken>> {
    if how.expires_in_seconds == Some(0) {
        return Err(NotMade::NoTime.into());
    }
    if how.overlap_seconds > MAX_OVERLAP_SECONDS {
        return Err(ApiError::invalid("an old secret works on for 30 days at most"));
    }
    let wanted: TokenId = id.parse().map_err(|_| missing(&id))?;
    let known = wanted.clone();
    let found = api.core.store.read(move |c| store::token(c, &known)).await?;
    let token = found.filter(|t| t.revoked_at.is_none()).ok_or_else(|| missing(&id))?;
    let fresh = tokens::another_secret(wanted.clone())?;
    let now = clock::now();
    // Without another word, as long as it was made for.
    let begun = token.rotated_at.unwrap_or(token.created_at);
    let life = token.expires_at.map(|at| at.0.saturating_sub(begun.0) / 1000);
    let new = Rotation {
        hash: fresh.hash,
        now,
        old_until: tokens::after(now, how.overlap_seconds),
        expires_at: how.expires_in_seconds.or(life).map(|seconds| tokens::after(now, seconds)),
    };
    let rotated = move |tx: &rusqlite::Transaction<'_>| {
        Ok(store::rotate_token(tx, &wanted, &new)?.then_some(store::token(tx, &wanted)?).flatten())
    };
    let row = api.core.store.write(rotated).await?.ok_or_else(|| missing(&id))?;
    api.guard.tokens_change();
    Ok(Json(CreatedToken { token: view(row, &caller), secret: fresh.secret }))
}

fn missing(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no token {id}"))
        .hint("`mini tokens list` shows their ids")
}

/// Revokes a token, at once.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let wanted: TokenId = id.parse().map_err(|_| missing(&id))?;
    let now = clock::now();
    let revoked = api.core.store.write(move |tx| store::revoke_token(tx, &wanted, now)).await?;
    api.guard.tokens_change();
    if revoked { Ok(StatusCode::NO_CONTENT) } else { Err(missing(&id)) }
}
