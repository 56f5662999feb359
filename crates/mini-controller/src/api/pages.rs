//! An app's own error pages, in place of the router's.

use axum::Json;
use axum::extract::{Path, State};
use mini_api::{ErrorCode, MAX_PAGE_BYTES, NewPage, PAGE_CODES, Page, Pages, RouteChanged};
use mini_core::cause::size;
use mini_core::fault;

use super::Api;
use super::body::{Json as Body, OfApp};
use super::error::{ApiError, ApiResult};
use super::settings;
use crate::store;

/// All pages of all apps together: the whole table goes to the proxy as one document.
const MAX_BYTES_IN_ALL: u64 = 16 << 20;

/// The pages that the app has.
#[utoipa::path(get, path = "/v1/apps/{app}/pages", params(("app" = String, Path)), responses((status = 200, body = Pages)))]
pub(super) async fn list(State(api): State<Api>, OfApp(app): OfApp) -> ApiResult<Json<Pages>> {
    let pages = api.core.store.read(move |c| store::pages_of(c, app.id)).await?;
    let page = |(code, html): (String, String)| Page { code, bytes: html.len() as u64 };
    Ok(Json(Pages { pages: pages.into_iter().map(page).collect() }))
}

/// Sets the page for a code, or for `*`: answers when it is served, or the proxy is away.
#[utoipa::path(put, path = "/v1/apps/{app}/pages/{code}", params(("app" = String, Path), ("code" = String, Path)), request_body = NewPage, responses((status = 200, body = RouteChanged)))]
pub(super) async fn set(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Path((_, code)): Path<(String, String)>,
    Body(NewPage { html }): Body<NewPage>,
) -> ApiResult<Json<RouteChanged>> {
    settings::is_kept(&app)?;
    let code = known(&code)?;
    check(&html)?;
    let (id, text) = (app.id, html.clone());
    let set = api.core.store.write(move |tx| {
        let others = store::bytes_of_pages(tx, (id, code))?;
        if others + text.len() as u64 > MAX_BYTES_IN_ALL {
            return Ok(None);
        }
        store::set_page(tx, id, code, &text).map(Some)
    });
    let Some(changed) = set.await? else {
        let most = size(MAX_BYTES_IN_ALL);
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the error pages of all apps would take more than {most} together"),
        )
        .hint("unset some, or make them smaller"));
    };
    fault::point("route.stored");
    if changed {
        api.core.logs.say(&app.name, "api", format!("Error page for {code} set"));
    }
    let page = (code.to_owned(), html);
    let routed = settings::routed(&api, &app, |route| route.rules.pages.contains(&page)).await;
    Ok(Json(RouteChanged { changed, routed }))
}

/// Lets the router's own page be served again.
#[utoipa::path(delete, path = "/v1/apps/{app}/pages/{code}", params(("app" = String, Path), ("code" = String, Path)), responses((status = 200, body = RouteChanged)))]
pub(super) async fn unset(
    State(api): State<Api>,
    OfApp(app): OfApp,
    Path((_, code)): Path<(String, String)>,
) -> ApiResult<Json<RouteChanged>> {
    let (id, code) = (app.id, known(&code)?);
    let gone = api.core.store.write(move |tx| store::unset_page(tx, id, code)).await?;
    fault::point("route.stored");
    if !gone {
        let message = format!("{} has no error page of its own for {code}", app.name);
        return Err(ApiError::new(ErrorCode::NotFound, message)
            .hint(format!("`mini pages --app {}` lists those it has", app.name)));
    }
    api.core.logs.say(&app.name, "api", format!("Error page for {code} unset"));
    let none =
        |route: &mini_core::route::AppRoute| route.rules.pages.iter().all(|(own, _)| own != code);
    let routed = settings::routed(&api, &app, none).await;
    Ok(Json(RouteChanged { changed: true, routed }))
}

fn known(code: &str) -> ApiResult<&'static str> {
    let found = PAGE_CODES.into_iter().find(|known| known.eq_ignore_ascii_case(code));
    found.ok_or_else(|| {
        ApiError::invalid(format!("{code:?} is no code that an app may have a page for"))
            .hint(format!("one of {}", PAGE_CODES.join(", ")))
    })
}

fn check(html: &str) -> ApiResult<()> {
    if html.len() > MAX_PAGE_BYTES {
        let (is, most) = (size(html.len() as u64), size(MAX_PAGE_BYTES as u64));
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            format!("the page has {is}; {most} are allowed"),
        )
        .hint("keep images and scripts elsewhere, and name them by their address"));
    }
    if html.trim().is_empty() {
        return Err(ApiError::invalid("the page is empty"));
    }
    // Written to the proxy as JSON, in which these would take six times the room.
    if html.chars().any(|c| c.is_control() && !"\n\r\t".contains(c)) {
        return Err(ApiError::invalid("the page holds control characters: it is no HTML"));
    }
    Ok(())
}
