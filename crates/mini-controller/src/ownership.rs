//! Whose an image is. All images lie on the engine side by side, and what one holds (the source, what
//! was baked into it) is read by whoever runs it; so a token that is bound to apps runs only images
//! that are theirs, or nobody's.

use mini_core::ports::ImageInfo;
use rusqlite::Connection;

use crate::store::{self, StoreResult, TokenRow};

/// Whether the token may have an app run the image.
///
/// An image is an app's if one of its releases has it, by the engine's id, or if mini built it: then
/// it is that app's which has a release with it, and nobody else's.
pub(crate) fn may_run(c: &Connection, token: &TokenRow, image: &ImageInfo) -> StoreResult<bool> {
    let Some(apps) = &token.apps else { return Ok(true) };
    let owners = store::apps_with_image(c, &image.id)?;
    let own = owners.iter().any(|owner| apps.contains(owner));
    Ok(own || (owners.is_empty() && !image.built))
}

/// What is said of an image that a token may not run, and the way out.
pub(crate) fn refusal(token: &str, image: &str) -> (String, &'static str) {
    (
        format!("the image {image} belongs to an app that the token {token:?} is not for"),
        "use a token that is for both apps (`mini tokens create NAME --scope deploy --app A --app \
         B`), or deploy it once with an admin's token: from then on it is this app's too",
    )
}
