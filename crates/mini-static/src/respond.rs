//! What a request is answered.

use std::io::{self, Seek, SeekFrom};
use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::response::Builder;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};

use crate::body::Body;
use crate::condition::{self, Verdict};
use crate::encoding;
use crate::media;
use crate::path::{Refused, SitePath};
use crate::range::{self, Wanted};
use crate::site::{Found, Site, Target};

/// Answers one request; its body is not read.
pub(crate) async fn answer<B>(site: Arc<Site>, request: &Request<B>) -> Response<Body> {
    let method = request.method().clone();
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let is_head = method == Method::HEAD;
    // All that touches the disk happens on a thread that may wait for it.
    let task = tokio::task::spawn_blocking(move || decide(&site, &method, &uri, &headers));
    let mut response = match task.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            page(StatusCode::FORBIDDEN)
        }
        Ok(Err(error)) => {
            crate::say(&mut io::stderr(), &format!("{}: {error}", request.uri().path()));
            page(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Err(_) => page(StatusCode::INTERNAL_SERVER_ERROR),
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_head {
        // The length stays in the head (RFC 9110 section 9.3.2).
        *response.body_mut() = Body::empty();
    }
    response
}

fn decide(
    site: &Site,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> io::Result<Response<Body>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = page(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    let path = match SitePath::parse(uri.path()) {
        Ok(path) => path,
        Err(Refused::Malformed) => return Ok(page(StatusCode::BAD_REQUEST)),
        Err(Refused::Hidden) => return not_found(site, headers),
    };
    match site.find(&path, &encoding::accepted(headers))? {
        Target::File(found) => send(found, method, headers),
        Target::Folder => Ok(redirect(&path, uri.query())),
        Target::Nothing => not_found(site, headers),
    }
}

/// 200, 206, 304, 412 or 416 for a file that is there.
fn send(mut found: Found, method: &Method, headers: &HeaderMap) -> io::Result<Response<Body>> {
    match condition::weigh(headers, &found.validators) {
        Verdict::Failed => return Ok(page(StatusCode::PRECONDITION_FAILED)),
        Verdict::NotModified => {
            let head = describe(Response::builder().status(StatusCode::NOT_MODIFIED), &found);
            return Ok(built(head, Body::empty()));
        }
        Verdict::Send => {}
    }
    // Ranges are defined for GET alone (RFC 9110 section 14.2).
    let asks_part = *method == Method::GET && condition::range_applies(headers, &found.validators);
    let wanted = if asks_part { range::wanted(headers, found.length) } else { Wanted::Whole };
    let (first, length, status) = match wanted {
        Wanted::Whole => (0, found.length, StatusCode::OK),
        Wanted::Part(first, last) => (first, last - first + 1, StatusCode::PARTIAL_CONTENT),
        Wanted::Outside => {
            let head = Response::builder()
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(CONTENT_RANGE, format!("bytes */{}", found.length));
            return Ok(built(head, Body::empty()));
        }
    };
    let mut head = describe(Response::builder().status(status), &found)
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_TYPE, media::content_type(&found.path))
        .header(CONTENT_LENGTH, length);
    if let Some(coding) = found.coding {
        head = head.header(CONTENT_ENCODING, coding.token());
    }
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length - 1;
        head = head.header(CONTENT_RANGE, format!("bytes {first}-{last}/{}", found.length));
    }
    if *method == Method::HEAD {
        return Ok(built(head, Body::empty()));
    }
    found.file.seek(SeekFrom::Start(first))?;
    Ok(built(head, Body::file(found.file, length)?))
}

/// The headers that a 304 must repeat (RFC 9110 section 15.4.5).
fn describe(head: Builder, found: &Found) -> Builder {
    let mut head = head
        .header(ETAG, &found.validators.etag)
        .header(CACHE_CONTROL, media::cache_control(&found.path));
    if let Some(modified) = found.validators.modified {
        head = head.header(LAST_MODIFIED, httpdate::fmt_http_date(modified));
    }
    if found.varies { head.header(VARY, "Accept-Encoding") } else { head }
}

/// The site's own `404.html`, else a small page. Neither is a version of anything: no validators.
fn not_found(site: &Site, headers: &HeaderMap) -> io::Result<Response<Body>> {
    let accepted = encoding::accepted(headers);
    let Target::File(mut found) = site.not_found_page(&accepted)? else {
        return Ok(page(StatusCode::NOT_FOUND));
    };
    let mut head = Response::builder()
        .status(StatusCode::NOT_FOUND)
        .header(CACHE_CONTROL, "no-cache")
        .header(CONTENT_TYPE, media::content_type(&found.path))
        .header(CONTENT_LENGTH, found.length);
    if let Some(coding) = found.coding {
        head = head.header(CONTENT_ENCODING, coding.token());
    }
    if found.varies {
        head = head.header(VARY, "Accept-Encoding");
    }
    found.file.rewind()?;
    Ok(built(head, Body::file(found.file, found.length)?))
}

/// 308 to the same folder with its slash; the method and the query are kept.
fn redirect(path: &SitePath, query: Option<&str>) -> Response<Body> {
    let mut location = path.as_folder();
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let head = Response::builder()
        .status(StatusCode::PERMANENT_REDIRECT)
        .header(CACHE_CONTROL, "no-cache")
        .header(LOCATION, location);
    built(head, Body::empty())
}

/// A small page that says what a status means.
fn page(status: StatusCode) -> Response<Body> {
    let words = status.canonical_reason().unwrap_or("Error");
    let code = status.as_u16();
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{words}</title>\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:30rem;margin:20vh auto;\
         padding:0 1rem;color-scheme:light dark}}</style><h1>{code}</h1><p>{words}</p></html>\n"
    );
    let head = Response::builder()
        .status(status)
        .header(CACHE_CONTROL, "no-cache")
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .header(CONTENT_LENGTH, html.len());
    built(head, Body::bytes(html))
}

/// Puts head and body together. Every value above is made of visible ASCII, except a query, which
/// may hold bytes that a header may not.
fn built(head: Builder, body: Body) -> Response<Body> {
    head.body(body).unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    })
}
