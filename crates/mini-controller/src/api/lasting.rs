//! Answers that go on: a stream or a session ends with the token that it was opened with.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures_util::StreamExt;
use mini_api::NDJSON;

use super::Api;
use super::auth::Caller;
use crate::clock;
use crate::store;
use crate::tokens::{self, Judged};

/// How often a token is looked at of which nothing was heard: time ends one too.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The answer, which is cut off when its token ends if it is a stream. Its client asks again, and is
/// told why not.
pub(super) fn while_good(api: &Api, caller: Caller, answer: Response) -> Response {
    let stream = answer.headers().get(header::CONTENT_TYPE);
    if caller.token.is_none() || stream != Some(&HeaderValue::from_static(NDJSON)) {
        return answer;
    }
    let ended = ended(api.clone(), caller);
    answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(ended))))
}

/// Returns when the caller's token is good no more: revoked, rotated, expired. On the admin socket
/// that is never.
pub(super) async fn ended(api: Api, caller: Caller) {
    let Some((token, secret)) = caller.token.zip(caller.secret) else {
        return std::future::pending().await;
    };
    let mut changed = api.guard.tokens_changed();
    loop {
        let heard = tokio::time::timeout(LOOK_EVERY, changed.changed()).await;
        if matches!(heard, Ok(Err(_))) {
            return;
        }
        let id = token.id.clone();
        match api.core.store.read(move |c| store::token(c, &id)).await {
            Ok(Some(row)) if tokens::judge(&secret, &row, clock::now()) == Judged::Good => {}
            Ok(_) => {
                tracing::info!(token.name, "a stream or session ended with its token");
                return;
            }
            Err(error) => tracing::debug!(%error, "whether a token is still good is not known"),
        }
    }
}
