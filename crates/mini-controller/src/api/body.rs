//! Reading what requests bring, with errors in the API's own form.

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use mini_api::ErrorCode;
use mini_core::name::AppName;
use serde::de::DeserializeOwned;

use super::Api;
use super::error::ApiError;
use crate::store::{self, AppRow};

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = bytes::Bytes::from_request(request, state).await.map_err(|error| {
            let code = match error.status().as_u16() {
                413 => ErrorCode::TooLarge,
                _ => ErrorCode::InvalidRequest,
            };
            ApiError::new(code, format!("the body could not be read: {}", error.body_text()))
        })?;
        let bytes = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            ApiError::invalid(format!("the body is not the JSON that is expected here: {error}"))
                .hint("GET /v1/openapi.json describes it")
        })
    }
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(ApiError::invalid(error.body_text())),
        }
    }
}

/// The `{app}` of the path, which must exist.
pub(super) struct OfApp(pub(super) AppRow);

impl FromRequestParts<Api> for OfApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Path(path) =
            Path::<std::collections::HashMap<String, String>>::from_request_parts(parts, api)
                .await
                .map_err(|error| ApiError::invalid(error.body_text()))?;
        let name = path.get("app").cloned().unwrap_or_default();
        let name: AppName = name.parse().map_err(|error: mini_core::name::BadName| {
            ApiError::new(ErrorCode::InvalidName, error.to_string())
        })?;
        let found = name.clone();
        let row = api.core.store.read(move |c| store::app_by_name(c, &found)).await?;
        row.map(Self).ok_or_else(|| ApiError::no_app(&name))
    }
}
