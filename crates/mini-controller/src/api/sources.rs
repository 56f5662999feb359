//! Sources: what the server has, and taking in what it has not.

use std::io;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use mini_api::{ErrorCode, Source};
use mini_core::fault;
use mini_core::source::{MAX_BYTES, Refused, SourceDigest};
use tokio::sync::mpsc;

use super::Api;
use super::body::OfApp;
use super::error::{ApiError, ApiResult};
use crate::clock;
use crate::sources::{SourceError, Taken};
use crate::store::{self, AppId, SourceRow};
use crate::vault;

/// Whether the app was sent a source, and it is kept. What others were sent is not told.
#[utoipa::path(get, path = "/v1/apps/{app}/sources/{digest}", params(("app" = String, Path), ("digest" = String, Path)), responses((status = 200, body = Source)))]
pub(super) async fn show(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Path((_, digest)): Path<(String, String)>,
) -> ApiResult<Json<Source>> {
    let digest: SourceDigest = digest
        .parse()
        .map_err(|error: mini_core::source::BadDigest| ApiError::invalid(error.to_string()))?;
    let wanted = digest.clone();
    let row = api.core.store.read(move |c| store::source(c, app.id, &wanted)).await?;
    match row.filter(|_| api.core.sources.has(&digest)) {
        Some(row) => {
            // It is about to be used: it counts as fresh again.
            let again = row.clone();
            let keep = move |tx: &rusqlite::Transaction<'_>| {
                store::insert_source(tx, app.id, &again, clock::now())
            };
            api.core.store.write(keep).await?;
            Ok(Json(Source { digest: row.digest, files: row.files, bytes: row.bytes }))
        }
        None => Err(missing(&digest)),
    }
}

pub(super) fn missing(digest: &SourceDigest) -> ApiError {
    let message = format!("this app was not sent the source {}", digest.short());
    ApiError::new(ErrorCode::NotFound, message).hint("send it: POST /v1/apps/{app}/sources")
}

/// Takes a `.tar.gz` (or plain tar) of source.
#[utoipa::path(
    post, path = "/v1/apps/{app}/sources", params(("app" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/gzip"),
    responses((status = 201, body = Source))
)]
pub(super) async fn upload(
    State(api): State<Api>,
    OfApp(app): OfApp,
    request: Request,
) -> ApiResult<(StatusCode, Json<Source>)> {
    let source = take(&api, app.id, request).await?;
    Ok((StatusCode::CREATED, Json(source)))
}

/// Streams the body through the archive rules to the disk; in memory are a few pieces of it.
pub(super) async fn take(api: &Api, app: AppId, request: Request) -> ApiResult<Source> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length: Option<u64> = length.and_then(|v| v.to_str().ok()?.parse().ok());
    if length.is_some_and(|bytes| bytes > MAX_BYTES) {
        return Err(refused(SourceError::Refused(Refused::TooLarge(MAX_BYTES))));
    }
    let sources = api.core.sources.clone();
    let name = format!("upload-{}", hex::encode(vault::random_id()?));
    let reader = body_reader(request.into_body());
    let taken = tokio::task::spawn_blocking(move || sources.take(reader, &name)).await;
    let Taken { digest, files, bytes } = match taken {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) => return Err(refused(error)),
        Err(error) => {
            tracing::error!(%error, "reading a source broke off");
            return Err(ApiError::new(ErrorCode::Internal, "the source could not be read"));
        }
    };
    let row = SourceRow { digest: digest.clone(), files, bytes };
    fault::point("source.taken");
    let keep =
        move |tx: &rusqlite::Transaction<'_>| store::insert_source(tx, app, &row, clock::now());
    api.core.store.write(keep).await?;
    fault::point("source.stored");
    Ok(Source { digest, files, bytes })
}

fn refused(error: SourceError) -> ApiError {
    let message = match &error {
        SourceError::Disk(detail) => {
            let full = crate::store::StoreError::Full(detail.to_string());
            return full.into();
        }
        SourceError::Refused(Refused::TooLarge(limit)) => {
            let size = mini_core::cause::size(*limit);
            return ApiError::new(ErrorCode::TooLarge, format!("the source is larger than {size}"))
                .hint("leave out what the build does not need: .dockerignore or .miniignore");
        }
        SourceError::Refused(Refused::TooMany(limit)) => {
            return ApiError::new(
                ErrorCode::TooLarge,
                format!("the source has more than {limit} entries"),
            )
            .hint("leave out what the build does not need: .dockerignore or .miniignore");
        }
        SourceError::Refused(refused) => format!("the archive is refused: {refused}"),
        other => other.to_string(),
    };
    ApiError::new(ErrorCode::SourceRefused, message)
        .hint("send a .tar.gz of plain files, folders and links, as `mini deploy` does")
}

/// A body as a blocking reader.
fn body_reader(body: Body) -> impl io::Read + Send {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece =
                piece.map_err(|e| io::Error::new(io::ErrorKind::ConnectionAborted, e.to_string()));
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                break;
            }
        }
    });
    Pieces { receiver, current: Bytes::new() }
}

struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}
