//! What came over http to a door that answers over https only. If a token came with it, the proxy sends
//! it on to here, whatever it asked for. The token may be known to others by now, and that is written
//! down; nothing else is done.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use mini_api::ErrorCode;
use mini_core::control::HTTPS_REQUIRED;

use super::audit::{self, Asked};
use super::error::{ApiError, RequestId, no_such_path, unread};
use super::{Api, Entrance, auth};

/// Says that the door is over https; for one with a good token, marks that.
pub(super) async fn refuse(State(api): State<Api>, request: Request) -> Response {
    let headers = request.headers();
    // Over https this is no place.
    if api.entrance != Entrance::Door || !auth::could_be_read(headers) {
        return no_such_path(request).await.into_response();
    }
    let [message, hint] = HTTPS_REQUIRED;
    let error = ApiError::new(ErrorCode::HttpsRequired, message).hint(hint);
    // Of others nothing is kept, and what is wrong with them is not told.
    if let Ok(Ok((token, _))) = auth::good_token(&api, headers).await {
        auth::note_seen_over_http(&api, &token);
        let id = request.extensions().get::<RequestId>();
        let asked = Asked {
            actor: Some(token.name),
            token_id: Some(token.id),
            action: "api.over_http",
            app: None,
            target: None,
            request_id: id.map_or_else(String::new, |id| id.0.clone()),
            source: audit::source(headers),
        };
        audit::refused(&api, asked, &error);
    }
    unread(error, &request)
}
