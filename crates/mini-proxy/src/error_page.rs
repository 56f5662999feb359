//! What the router itself answers: one place that turns a code into a response.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::forward::body::OutBody;
use crate::headers::X_REQUEST_ID;

const X_MINI_ERROR: HeaderName = HeaderName::from_static("x-mini-error");

/// Why the router answers by itself: CONTRACTS, "Routing".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    UnknownHost,
    /// Crashed.
    H10,
    /// First byte too late.
    H12,
    /// Closed without an answer.
    H13,
    /// No web process runs.
    H14,
    /// Idle.
    H15,
    /// Bad response.
    H17,
    /// Connect timeout.
    H19,
    /// Boot timeout.
    H20,
    /// Refused.
    H21,
    /// Too many waiting.
    H22,
    /// Bad request; with the end of the sentence "The request was refused: …".
    H26(&'static str),
    /// The same for a head that is too large, with 431.
    HeadTooLarge,
    /// Nothing deployed yet.
    H81,
    /// The door: the controller is away.
    ControllerUnavailable,
}

struct Page {
    status: StatusCode,
    /// `X-Mini-Error`, and `code` in JSON.
    code: &'static str,
    title: &'static str,
    text: String,
    hint: &'static str,
}

impl Code {
    pub(crate) fn status(self) -> StatusCode {
        self.page().status
    }

    /// `H12`, for logs.
    pub(crate) fn name(self) -> &'static str {
        self.page().code
    }

    fn page(self) -> Page {
        let page = |status, code, title, text: &str, hint| Page {
            status,
            code,
            title,
            text: text.to_owned(),
            hint,
        };
        use StatusCode as S;
        match self {
            Code::UnknownHost => page(
                S::NOT_FOUND,
                "unknown_host",
                "No app here",
                "No app answers to this name.",
                "See `mini apps` for the names in use.",
            ),
            Code::H10 => page(
                S::SERVICE_UNAVAILABLE,
                "H10",
                "App crashed",
                "The app's web process crashed and will be restarted.",
                "See `mini logs` for why.",
            ),
            Code::H12 => page(
                S::GATEWAY_TIMEOUT,
                "H12",
                "App too slow",
                "The app did not begin to answer in time.",
                "See `mini logs` for what it was doing.",
            ),
            Code::H13 => page(
                S::BAD_GATEWAY,
                "H13",
                "No answer",
                "The app closed the connection without an answer.",
                "See `mini logs` for why.",
            ),
            Code::H14 => page(
                S::SERVICE_UNAVAILABLE,
                "H14",
                "App stopped",
                "The app has no web process running.",
                "Start it with `mini scale web=1` or `mini start`.",
            ),
            Code::H15 => page(
                S::GATEWAY_TIMEOUT,
                "H15",
                "Connection idle",
                "Nothing was sent for too long.",
                "Send the request again.",
            ),
            Code::H17 => page(
                S::BAD_GATEWAY,
                "H17",
                "Bad answer",
                "The app's answer was not valid HTTP.",
                "See `mini logs`.",
            ),
            Code::H19 => page(
                S::GATEWAY_TIMEOUT,
                "H19",
                "App unreachable",
                "The app did not accept a connection in time.",
                "See `mini logs`.",
            ),
            Code::H20 => page(
                S::SERVICE_UNAVAILABLE,
                "H20",
                "App still starting",
                "The app did not become ready in time.",
                "Try again in a moment, or see `mini logs`.",
            ),
            Code::H21 => page(
                S::BAD_GATEWAY,
                "H21",
                "Connection refused",
                "The app refused the connection.",
                "See `mini logs`.",
            ),
            Code::H22 => page(
                S::SERVICE_UNAVAILABLE,
                "H22",
                "Too many requests waiting",
                "Too many requests wait for this app to start.",
                "Try again in a moment.",
            ),
            Code::H26(why) => Page {
                status: S::BAD_REQUEST,
                code: "H26",
                title: "Bad request",
                text: format!("The request was refused: {why}."),
                hint: "Correct the request and send it again.",
            },
            Code::HeadTooLarge => page(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "H26",
                "Header fields too large",
                "The request was refused: more than 64 KiB or 100 header fields.",
                "Clear this site's cookies, or send fewer header fields.",
            ),
            Code::H81 => page(
                S::SERVICE_UNAVAILABLE,
                "H81",
                "Nothing deployed yet",
                "This app exists, but nothing is deployed yet.",
                "Deploy it with `mini deploy`.",
            ),
            Code::ControllerUnavailable => page(
                S::SERVICE_UNAVAILABLE,
                "controller_unavailable",
                "Controller away",
                "The controller is not running or is restarting; apps are not affected.",
                "Try again in a moment; on the server, `minid status` says more.",
            ),
        }
    }
}

/// Builds the answer: HTML for browsers, JSON where `Accept` asks for it, else a line of text.
pub(crate) fn answer(
    code: Code,
    request: &HeaderMap,
    request_id: &HeaderValue,
) -> Response<OutBody> {
    let page = code.page();
    let id = request_id.to_str().unwrap_or_default();
    let accepts = |kind: &str| {
        let mut values = request.get_all(header::ACCEPT).iter();
        values.any(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains(kind)))
    };
    // The door's clients are programs; they get JSON whatever they accept.
    let (kind, text) = if code == Code::ControllerUnavailable {
        ("application/json", json(&page, id))
    } else if accepts("text/html") {
        ("text/html; charset=utf-8", html(&page, id))
    } else if accepts("application/json") {
        ("application/json", json(&page, id))
    } else {
        let Page { code, text, hint, .. } = &page;
        ("text/plain; charset=utf-8", format!("{code}: {text}\n{hint}\nrequest id: {id}\n"))
    };
    let mut response = Response::new(OutBody::full(Bytes::from(text)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_MINI_ERROR, HeaderValue::from_static(page.code));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if page.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    response
}

fn json(page: &Page, id: &str) -> String {
    serde_json::json!({
        "code": page.code, "message": page.text, "hint": page.hint, "request_id": id,
    })
    .to_string()
}

fn html(page: &Page, id: &str) -> String {
    let Page { status, code, title, text, hint } = page;
    // Everything here is ours but the request id, whose alphabet has nothing to escape.
    let number = status.as_u16();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style>\
         <main><p class=\"n\">{number}</p><h1>{title}</h1><p>{text}</p><p class=\"h\">{hint}</p>\
         <footer>{code} &middot; {id}</footer></main></html>\n",
        hint = code_spans(hint),
    )
}

/// Turns `` `x` `` into `<code>x</code>`.
fn code_spans(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    pieces.map(|(i, p)| if i % 2 == 1 { format!("<code>{p}</code>") } else { p.into() }).collect()
}

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;\
font:16px/1.5 system-ui,sans-serif;background:#fafaf9;color:#1c1917}\
main{max-width:30rem;padding:2rem}\
h1{margin:0 0 .5rem;font-size:1.6rem;letter-spacing:-.01em}\
p{margin:0 0 .5rem}.n{font:600 .9rem ui-monospace,monospace;color:#c2410c}\
.h,footer{color:#78716c}\
code{font:.9em ui-monospace,monospace;background:#8881;padding:.1em .3em;border-radius:4px}\
footer{margin-top:2rem;font:.8rem ui-monospace,monospace;overflow-wrap:anywhere}\
@media(prefers-color-scheme:dark){body{background:#1c1917;color:#f5f5f4}\
.n{color:#fb923c}.h,footer{color:#a8a29e}}";

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code, accept: &str) -> (StatusCode, String) {
        let mut headers = HeaderMap::new();
        headers.insert("accept", accept.parse().unwrap());
        let response = answer(code, &headers, &HeaderValue::from_static("id"));
        assert_eq!(response.headers()["x-request-id"], "id");
        (response.status(), response.headers()["content-type"].to_str().unwrap().to_owned())
    }

    #[test]
    fn each_client_gets_what_it_reads() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(kind(Code::H12, browser), (S504, "text/html; charset=utf-8".into()));
        assert_eq!(kind(Code::H12, "application/json"), (S504, "application/json".into()));
        assert_eq!(kind(Code::H12, "*/*"), (S504, "text/plain; charset=utf-8".into()));
        let door = kind(Code::ControllerUnavailable, browser);
        assert_eq!(door, (StatusCode::SERVICE_UNAVAILABLE, "application/json".into()));
    }

    const S504: StatusCode = StatusCode::GATEWAY_TIMEOUT;

    #[test]
    fn the_page_is_small_and_stands_alone() {
        let page = html(&Code::H81.page(), "abc");
        assert!(page.len() < 2048, "{} bytes", page.len());
        assert!(page.contains("<code>mini deploy</code>") && page.contains("abc"));
        assert!(!page.contains("http"), "nothing is loaded from elsewhere: {page}");
    }
}
