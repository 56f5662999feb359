//! What the router itself answers: one place that turns a code into a response.

use bytes::Bytes;
use http::StatusCode;
use mini_core::control::HTTPS_REQUIRED;

use crate::forward::job::About;

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
    /// The body is larger than the app takes.
    BodyTooLarge,
    /// In maintenance.
    H80,
    /// The client went before the end of the answer; logged only.
    ClientGone,
    /// Nothing deployed yet.
    H81,
    /// The app asks for a name and a password (RFC 7617).
    PasswordRequired,
    /// The app is for other addresses.
    AddressNotAllowed,
    /// The door, over plain http while there is a certificate for it.
    HttpsRequired,
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

    /// What happened, in a few words, for logs.
    pub(crate) fn title(self) -> &'static str {
        self.page().title
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
            Code::BodyTooLarge => page(
                S::PAYLOAD_TOO_LARGE,
                "H26",
                "Body too large",
                "The request was refused: its body is larger than this app takes.",
                "Send less, or raise `body_limit` in the app's mini.toml.",
            ),
            Code::H80 => page(
                S::SERVICE_UNAVAILABLE,
                "H80",
                "Down for maintenance",
                "This app is being worked on and will be back.",
                "Its owner ends this with `mini maintenance off`.",
            ),
            Code::PasswordRequired => page(
                S::UNAUTHORIZED,
                "password_required",
                "Password required",
                "This app asks for a name and a password.",
                "Its owner names them in mini.toml, under `basic_auth`.",
            ),
            Code::AddressNotAllowed => page(
                S::FORBIDDEN,
                "address_not_allowed",
                "Not for this address",
                "This app answers other addresses than yours.",
                "Its owner names them in mini.toml, under `allow`.",
            ),
            // Not registered with IANA; what nginx logs for the same.
            Code::ClientGone => page(
                S::from_u16(499).unwrap_or(S::BAD_REQUEST),
                "H27",
                "Client closed the connection",
                "The client closed the connection.",
                "Send the request again.",
            ),
            Code::H81 => page(
                S::SERVICE_UNAVAILABLE,
                "H81",
                "Nothing deployed yet",
                "This app exists, but nothing is deployed yet.",
                "Deploy it with `mini deploy`.",
            ),
            Code::HttpsRequired => page(
                S::FORBIDDEN,
                "https_required",
                "Over https only",
                HTTPS_REQUIRED[0],
                HTTPS_REQUIRED[1],
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

/// What a client reads best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    Html,
    Json,
    Text,
}

impl Accept {
    /// By the value of its `Accept` field, if it has one.
    pub(crate) fn of(value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return Accept::Text };
        let value = value.to_ascii_lowercase();
        let has = |kind: &str| memchr::memmem::find(&value, kind.as_bytes()).is_some();
        if has("text/html") {
            Accept::Html
        } else if has("application/json") {
            Accept::Json
        } else {
            Accept::Text
        }
    }
}

/// An answer of the router's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// Beside the length.
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Reply {
    /// HTML for browsers, JSON where `Accept` asks for it, else lines of text. An app's own page
    /// is for those who read HTML; the status stays the code's.
    pub(crate) fn of(code: Code, about: &About) -> Self {
        let own = about.app.as_ref().and_then(|app| app.rules.page(code));
        Self::new(code, own, about.accept, &about.id)
    }

    fn new(code: Code, own: Option<&Bytes>, accept: Accept, id: &str) -> Self {
        let page = code.page();
        // The door's clients are programs; they get JSON whatever they accept.
        let of_the_door = matches!(code, Code::ControllerUnavailable | Code::HttpsRequired);
        let accept = if of_the_door { Accept::Json } else { accept };
        let (kind, body) = match accept {
            Accept::Json => ("application/json", json(&page, id).into()),
            Accept::Html => {
                let page = own.cloned().unwrap_or_else(|| html(&page, id).into());
                ("text/html; charset=utf-8", page)
            }
            Accept::Text => {
                let Page { code, text, hint, .. } = &page;
                let text = format!("{code}: {text}\n{hint}\nrequest id: {id}\n");
                ("text/plain; charset=utf-8", text.into())
            }
        };
        let mut fields = vec![
            ("Content-Type", kind.to_owned()),
            ("Cache-Control", "no-store".to_owned()),
            ("X-Mini-Error", page.code.to_owned()),
            ("X-Request-ID", id.to_owned()),
        ];
        if code == Code::PasswordRequired {
            let basic = "Basic realm=\"app\", charset=\"UTF-8\"";
            fields.push(("WWW-Authenticate", basic.to_owned()));
        }
        if page.status == StatusCode::SERVICE_UNAVAILABLE {
            fields.push(("Retry-After", "2".to_owned()));
        }
        Self { status: page.status, fields, body }
    }

    /// To the same over https, for ever and with the same method (RFC 9110 section 15.4.9).
    pub(crate) fn redirect(location: String, id: &str) -> Self {
        let body = format!("This is over https only: {location}\n");
        let fields = vec![
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("Location", location),
            ("X-Request-ID", id.to_owned()),
        ];
        Self { status: StatusCode::PERMANENT_REDIRECT, fields, body: body.into() }
    }

    /// Text and nothing else, as a certificate authority wants it (RFC 8555 section 8.3).
    pub(crate) fn text(text: &str) -> Self {
        let fields = vec![("Content-Type", "application/octet-stream".to_owned())];
        Self { status: StatusCode::OK, fields, body: text.to_owned().into() }
    }
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
        let reply = Reply::new(code, None, Accept::of(Some(accept.as_bytes())), "id");
        assert!(std::str::from_utf8(&reply.body).unwrap().contains("id"));
        let field = |name| reply.fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        assert_eq!(field("X-Request-ID").as_deref(), Some("id"));
        (reply.status, field("Content-Type").unwrap())
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

    #[test]
    fn the_apps_own_page_is_for_those_who_read_html() {
        let own = Bytes::from_static(b"<h1>Back soon</h1>");
        let ask = |accept| Reply::new(Code::H80, Some(&own), accept, "id");
        let page = ask(Accept::Html);
        assert_eq!((page.status.as_u16(), &page.body), (503, &own));
        let has = |name, value: &str| page.fields.contains(&(name, value.to_owned()));
        assert!(has("X-Mini-Error", "H80") && has("Retry-After", "2"), "{:?}", page.fields);
        assert!(ask(Accept::Json).body != own && ask(Accept::Text).body != own);
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
