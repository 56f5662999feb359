//! What each operation of the API is called, and the least that a token must be allowed for it. The
//! one table of both: `auth` decides by it, the audit trail takes its names from it, and an
//! operation that does not stand here is the admin's alone.

use axum::http::Method;
use mini_api::{ErrorCode, Scope};
use mini_core::name::AppName;

use super::error::ApiError;
use crate::store::TokenRow;

/// The least scope that an operation needs, in rising order of what it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    Read,
    Deploy,
    Admin,
}
use Needs::{Admin, Deploy, Read};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    /// As the audit trail has it.
    pub(super) name: &'static str,
    needs: Needs,
}

impl Operation {
    /// Whether what it does is done on the engine, and no transaction of the store tells of it.
    pub(super) fn on_engine(self) -> bool {
        matches!(self.name, "sessions.exec" | "sessions.run")
    }
}

/// Method, path as the router has it, name, and who may.
///
/// `exec`, `run` and the values of config vars are the admin's: each shows an app's secrets.
/// Whoever may deploy an app can have its own code tell them, but not without a trace.
const TABLE: [(&str, &str, &str, Needs); 54] = [
    ("GET", "/v1/server", "server.show", Read),
    ("GET", "/v1/apps", "apps.list", Read),
    ("POST", "/v1/apps", "apps.create", Admin),
    ("GET", "/v1/apps/{app}", "apps.show", Read),
    ("DELETE", "/v1/apps/{app}", "apps.destroy", Admin),
    ("POST", "/v1/apps/{app}/stop", "apps.stop", Admin),
    ("POST", "/v1/apps/{app}/start", "apps.start", Admin),
    ("POST", "/v1/apps/{app}/restart", "apps.restart", Deploy),
    ("POST", "/v1/apps/{app}/rollback", "apps.rollback", Deploy),
    ("GET", "/v1/apps/{app}/instances", "instances.list", Read),
    ("POST", "/v1/apps/{app}/instances/{instance}/restart", "instances.restart", Admin),
    ("GET", "/v1/apps/{app}/formation", "formation.show", Read),
    ("PATCH", "/v1/apps/{app}/formation", "formation.scale", Admin),
    ("GET", "/v1/apps/{app}/limits", "limits.show", Read),
    ("PUT", "/v1/apps/{app}/limits/{process}", "limits.set", Admin),
    ("GET", "/v1/apps/{app}/env", "env.show", Read),
    ("PATCH", "/v1/apps/{app}/env", "env.change", Admin),
    ("POST", "/v1/apps/{app}/exec", "sessions.exec", Admin),
    ("POST", "/v1/apps/{app}/runs", "sessions.run", Admin),
    ("GET", "/v1/apps/{app}/logs", "logs.read", Read),
    ("GET", "/v1/apps/{app}/metrics", "metrics.show", Read),
    ("GET", "/v1/apps/{app}/releases", "releases.list", Read),
    ("GET", "/v1/apps/{app}/releases/{release}", "releases.show", Read),
    ("POST", "/v1/apps/{app}/sources", "sources.upload", Deploy),
    ("GET", "/v1/apps/{app}/sources/{digest}", "sources.show", Read),
    ("GET", "/v1/apps/{app}/deployments", "deployments.list", Read),
    ("POST", "/v1/apps/{app}/deployments", "deployments.create", Deploy),
    ("GET", "/v1/deployments/{id}", "deployments.show", Read),
    ("GET", "/v1/deployments/{id}/events", "deployments.events", Read),
    ("POST", "/v1/deployments/{id}/cancel", "deployments.cancel", Deploy),
    ("GET", "/v1/apps/{app}/volumes", "volumes.list", Read),
    ("POST", "/v1/apps/{app}/volumes", "volumes.add", Admin),
    ("DELETE", "/v1/apps/{app}/volumes/{volume}", "volumes.remove", Admin),
    ("GET", "/v1/volumes", "volumes.list_all", Read),
    ("DELETE", "/v1/volumes/{app}/{volume}", "volumes.delete_left", Admin),
    ("GET", "/v1/apps/{app}/domains", "domains.list", Read),
    ("POST", "/v1/apps/{app}/domains", "domains.add", Admin),
    ("DELETE", "/v1/apps/{app}/domains/{domain}", "domains.remove", Admin),
    ("GET", "/v1/apps/{app}/maintenance", "maintenance.show", Read),
    ("PUT", "/v1/apps/{app}/maintenance", "maintenance.set", Admin),
    ("GET", "/v1/apps/{app}/pages", "pages.list", Read),
    ("PUT", "/v1/apps/{app}/pages/{code}", "pages.set", Admin),
    ("DELETE", "/v1/apps/{app}/pages/{code}", "pages.unset", Admin),
    ("GET", "/v1/certs", "certs.list", Read),
    ("POST", "/v1/certs", "certs.add", Admin),
    ("GET", "/v1/certs/{name}", "certs.show", Read),
    ("DELETE", "/v1/certs/{name}", "certs.remove", Admin),
    ("POST", "/v1/certs/{name}/retry", "certs.retry", Admin),
    ("GET", "/v1/tokens", "tokens.list", Admin),
    ("POST", "/v1/tokens", "tokens.create", Admin),
    ("POST", "/v1/tokens/{id}/rotate", "tokens.rotate", Admin),
    ("DELETE", "/v1/tokens/{id}", "tokens.revoke", Admin),
    ("GET", "/v1/audit", "audit.list", Admin),
    // Needs no token at all; here so that the test may ask for every path.
    ("GET", "/v1/health", "server.health", Read),
];

/// The operation at a path of the router; what is not in the table is the admin's.
pub(super) fn operation(method: &Method, path: &str) -> Operation {
    find(method.as_str(), path).unwrap_or(Operation { name: "unknown", needs: Admin })
}

fn find(method: &str, path: &str) -> Option<Operation> {
    let method = if method == "HEAD" { "GET" } else { method };
    let found = TABLE.iter().find(|(m, p, ..)| *m == method && *p == path);
    found.map(|&(_, _, name, needs)| Operation { name, needs })
}

/// Whether the token may do it to the app that the path names, if it names one. An app that it may
/// not see is answered as one that is not there.
pub(super) fn decide(
    token: &TokenRow,
    operation: Operation,
    app: Option<&AppName>,
) -> Result<(), ApiError> {
    if let Some(app) = app.filter(|app| !may_see(token, app)) {
        return Err(ApiError::no_app(app));
    }
    let may = match token.scope {
        Scope::Admin => true,
        Scope::Deploy => operation.needs <= Deploy,
        Scope::Read => operation.needs <= Read,
        Scope::Unknown => false,
    };
    if may {
        return Ok(());
    }
    let asked = match app {
        Some(app) => format!("{} of {app}", operation.name),
        None => operation.name.to_owned(),
    };
    let enough = match operation.needs {
        Read => "read",
        Deploy => "deploy",
        Admin => "admin",
    };
    Err(ApiError::new(
        ErrorCode::OutOfScope,
        format!("the token {:?} may {}; this asked for {asked}", token.name, words(token)),
    )
    .hint(format!(
        "use a token of the scope {enough}: `mini tokens create NAME --scope {enough}` with an \
         admin's token makes one"
    )))
}

/// Whether the token reaches the app at all.
pub(super) fn may_see(token: &TokenRow, app: &AppName) -> bool {
    token.scope != Scope::Unknown && token.apps.as_ref().is_none_or(|apps| apps.contains(app))
}

/// What a token may do: `deploy blue and red`.
fn words(token: &TokenRow) -> String {
    let apps = match &token.apps {
        None => "all apps".to_owned(),
        Some(apps) if apps.is_empty() => "no app (those that it was for are gone)".to_owned(),
        Some(apps) => apps.iter().map(AppName::as_str).collect::<Vec<_>>().join(" and "),
    };
    match token.scope {
        Scope::Admin => "do everything".to_owned(),
        Scope::Deploy => format!("deploy and read {apps}"),
        Scope::Read => format!("read {apps}, and change nothing"),
        Scope::Unknown => "do nothing that this version of the server knows".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mini_core::time::Millis;

    fn token(scope: Scope, apps: Option<&[&str]>) -> TokenRow {
        TokenRow {
            id: "t".parse().unwrap(),
            name: "ci".into(),
            hash: Vec::new(),
            old: Vec::new(),
            scope,
            apps: apps.map(|apps| apps.iter().map(|app| app.parse().unwrap()).collect()),
            created_at: Millis(0),
            expires_at: None,
            last_used_at: None,
            rotated_at: None,
            seen_over_http_at: None,
            revoked_at: None,
        }
    }

    #[test]
    fn every_path_of_the_description_stands_in_the_table_and_no_other() {
        let document = serde_json::to_value(super::super::openapi_document()).unwrap();
        let mut described = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.push((method.to_uppercase(), path.clone()));
            }
        }
        for (method, path) in &described {
            assert!(find(method, path).is_some(), "{method} {path} has no scope in api/access.rs");
        }
        for (method, path, ..) in TABLE {
            let known = described.contains(&(method.to_owned(), path.to_owned()));
            assert!(known, "{method} {path} is not in the API's description");
        }
        let mut names: Vec<_> = TABLE.iter().map(|(_, _, name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len(), "two operations share a name");
    }

    #[test]
    fn each_scope_against_each_operation() {
        let blue: AppName = "blue".parse().unwrap();
        let deploy = token(Scope::Deploy, Some(&["blue"]));
        let allowed = |token: &TokenRow| -> Vec<&str> {
            let fine = |(method, path, ..): &&(&str, &str, &str, Needs)| {
                let app = path.contains("{app}").then_some(&blue);
                decide(token, find(method, path).unwrap(), app).is_ok()
            };
            let changing = TABLE.iter().filter(|(method, ..)| *method != "GET");
            changing.filter(fine).map(|(_, _, name, _)| *name).collect()
        };
        let deploys = [
            "apps.restart",
            "apps.rollback",
            "sources.upload",
            "deployments.create",
            "deployments.cancel",
        ];
        assert_eq!(allowed(&deploy), deploys);
        assert_eq!(allowed(&token(Scope::Read, None)), [""; 0]);
        assert_eq!(allowed(&token(Scope::Unknown, None)), [""; 0]);
        let changing = TABLE.iter().filter(|(method, ..)| *method != "GET").count();
        assert_eq!(allowed(&token(Scope::Admin, None)).len(), changing);
        for secret in ["/v1/tokens", "/v1/audit"] {
            assert!(decide(&deploy, operation(&Method::GET, secret), None).is_err(), "{secret}");
        }
        let unknown = operation(&Method::PUT, "/v1/of-tomorrow");
        assert!(decide(&deploy, unknown, None).is_err());
    }

    #[test]
    fn an_app_that_it_is_not_for_is_not_there() {
        let (blue, red) = ("blue".parse().unwrap(), "red".parse().unwrap());
        let show = operation(&Method::GET, "/v1/apps/{app}");
        let destroy = operation(&Method::DELETE, "/v1/apps/{app}");
        for scope in [Scope::Deploy, Scope::Read] {
            let one = token(scope, Some(&["blue"]));
            assert!(decide(&one, show, Some(&blue)).is_ok());
            for operation in [show, destroy] {
                let refused = decide(&one, operation, Some(&red)).unwrap_err();
                assert_eq!(format!("{refused:?}"), format!("{:?}", ApiError::no_app(&red)));
            }
        }
        assert!(decide(&token(Scope::Read, None), show, Some(&red)).is_ok());
        assert!(decide(&token(Scope::Read, Some(&[])), show, Some(&blue)).is_err(), "none is left");
        let refused =
            format!("{:?}", decide(&token(Scope::Deploy, Some(&["blue"])), destroy, Some(&blue)));
        for words in ["may deploy and read blue", "apps.destroy of blue", "--scope admin"] {
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }
}
