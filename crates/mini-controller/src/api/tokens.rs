//! API tokens.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mini_api::{CreatedToken, ErrorCode, NewToken, Token, Tokens};
use mini_core::id::TokenId;

use super::Api;
use super::auth::Caller;
use super::body::Json as Body;
use super::error::{ApiError, ApiResult};
use crate::clock::{self, timestamp};
use crate::store::{self, TokenRow};
use crate::tokens;

fn view(row: TokenRow, caller: &Caller) -> Token {
    let current = caller.token.as_ref().is_some_and(|t| t.id == row.id);
    Token {
        id: row.id,
        name: row.name,
        scope: row.scope,
        created_at: timestamp(row.created_at),
        expires_at: row.expires_at.map(timestamp),
        last_used_at: row.last_used_at.map(timestamp),
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
) -> ApiResult<(StatusCode, Json<CreatedToken>)> {
    let (row, secret) = make(&new)?;
    let stored = row.clone();
    api.core.store.write(move |tx| store::insert_token(tx, &stored)).await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token: view(row, &caller), secret })))
}

fn make(new: &NewToken) -> ApiResult<(TokenRow, String)> {
    let name = new.name.trim();
    if name.is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(ApiError::new(
            ErrorCode::InvalidName,
            "a token's name has 1 to 100 characters on one line",
        ));
    }
    if new.expires_in_seconds == Some(0) {
        return Err(ApiError::invalid("a token that expires at once is no use"));
    }
    let fresh = tokens::new_secret()?;
    let now = clock::now();
    let row = TokenRow {
        id: fresh.id,
        name: name.to_owned(),
        hash: fresh.hash,
        scope: "admin".to_owned(),
        created_at: now,
        expires_at: new.expires_in_seconds.map(|s| now.plus(s.saturating_mul(1000))),
        last_used_at: None,
        revoked_at: None,
    };
    Ok((row, fresh.secret))
}

/// Revokes a token, at once.
#[utoipa::path(delete, path = "/v1/tokens/{id}", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> ApiResult<StatusCode> {
    let missing = || {
        ApiError::new(ErrorCode::NotFound, format!("there is no token {id}"))
            .hint("`mini tokens list` shows their ids")
    };
    let wanted: TokenId = id.parse().map_err(|_| missing())?;
    let now = clock::now();
    let revoked = api.core.store.write(move |tx| store::revoke_token(tx, &wanted, now)).await?;
    if revoked { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}
