//! What a controller would answer, as far as the tests go.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::fake::{Asked, Fake, Reply};

pub(crate) fn app(name: &str, release: Option<&str>) -> Value {
    json!({
        "name": name, "urls": [format!("http://{name}.localhost:8080")], "domains": [],
        "state": if release.is_some() { "running" } else { "empty" }, "release": release,
        "image": null, "created_at": "2026-11-23T09:00:00Z", "deployed_at": null,
        "env_staged": false
    })
}

pub(crate) fn deployment(app: &str, kind: &str, status: &str) -> Value {
    json!({
        "id": "d1", "app": app, "kind": kind, "status": status, "release": "v4",
        "created_at": "2026-11-23T09:00:00Z", "finished_at": null,
        "url": format!("http://{app}.localhost:8080"), "cause": null, "description": "Deploy",
        "created_by": "laptop"
    })
}

pub(crate) fn event(number: u64, mut body: Value) -> Value {
    body["number"] = json!(number);
    body["at"] = json!("2026-11-23T09:00:00Z");
    body
}

pub(crate) fn status(number: u64, status: &str) -> Value {
    event(number, json!({ "type": "status", "status": status }))
}

/// The events of a deploy that goes well.
pub(crate) fn good_events() -> Vec<Value> {
    vec![
        status(1, "queued"),
        status(2, "building"),
        event(3, json!({ "type": "output", "line": "Step 1/2 : FROM scratch" })),
        event(4, json!({ "type": "output", "line": "Step 2/2 : COPY . /" })),
        status(5, "starting"),
        event(6, json!({ "type": "healthy", "after_ms": 412 })),
        event(
            7,
            json!({ "type": "live", "release": "v4", "url": "http://blue-sky.localhost:8080" }),
        ),
        status(8, "live"),
    ]
}

/// A server with one app at most, as the controller behaves; `end` is how its deployments end, and
/// `events` answers the event stream.
pub(crate) struct Platform {
    apps: Mutex<BTreeSet<String>>,
    sources: Mutex<BTreeSet<String>>,
    last_digest: Mutex<String>,
    end: Value,
    events: Box<dyn Fn(&Asked) -> Reply + Send + Sync>,
}

impl Platform {
    pub(crate) fn good() -> Self {
        Self::ending(deployment("blue-sky", "deploy", "live"), |_| Reply::lines(&good_events()))
    }

    pub(crate) fn ending(
        end: Value,
        events: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (apps, sources, last_digest) = Default::default();
        Self { apps, sources, last_digest, end, events: Box::new(events) }
    }

    pub(crate) fn with_app(self, name: &str) -> Self {
        self.apps.lock().unwrap().insert(name.to_owned());
        self
    }

    pub(crate) fn start(self) -> Fake {
        Fake::start(move |asked| self.answer(asked))
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        if asked.token.as_deref() != Some("mini_good") {
            return Reply::error(401, "unauthorized", "the token is unknown");
        }
        let path = asked.path.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
        let mut apps = self.apps.lock().unwrap();
        match (asked.method.as_str(), parts.as_slice()) {
            ("POST", ["apps"]) => {
                let new: Value = serde_json::from_slice(&asked.body).unwrap();
                let name = new["name"].as_str().unwrap_or("blue-sky").to_owned();
                apps.insert(name.clone());
                Reply::json(201, &app(&name, None))
            }
            (_, ["apps", name, ..]) if !apps.contains(*name) => {
                Reply::error(404, "not_found", &format!("there is no app named {name}"))
            }
            ("GET", ["apps", name]) => Reply::json(200, &app(name, Some("v3"))),
            ("GET", ["apps", name, "volumes"]) => {
                let volume = json!({
                    "name": "data", "app": name, "left": false, "path": "/data", "shared": false,
                    "engine_name": "mini-data", "created_at": "2026-11-23T09:30:00Z"
                });
                Reply::json(200, &json!({ "volumes": [volume] }))
            }
            ("GET", ["apps", _, "sources", digest]) => {
                *self.last_digest.lock().unwrap() = (*digest).to_owned();
                if self.sources.lock().unwrap().contains(*digest) {
                    Reply::json(200, &json!({ "digest": digest, "files": 2, "bytes": 10 }))
                } else {
                    Reply::error(404, "not_found", "the server does not have that source")
                }
            }
            ("POST", ["apps", _, "sources"]) => {
                let digest = self.last_digest.lock().unwrap().clone();
                self.sources.lock().unwrap().insert(digest.clone());
                Reply::json(201, &json!({ "digest": digest, "files": 2, "bytes": 10 }))
            }
            ("POST", ["apps", name, "deployments" | "restart" | "start"]) => {
                Reply::json(202, &deployment(name, "deploy", "queued"))
            }
            ("PATCH", ["apps", name, "env"]) => {
                let change: Value = serde_json::from_slice(&asked.body).unwrap();
                let changed: Vec<_> = change["vars"].as_object().unwrap().keys().collect();
                let deployment = deployment(name, "config", "queued");
                Reply::json(200, &json!({ "changed": changed, "deployment": deployment }))
            }
            ("GET", ["deployments", _, "events"]) => (self.events)(asked),
            ("GET", ["deployments", _]) => Reply::json(200, &self.end),
            ("DELETE", ["apps", name]) => {
                let gone = app(name, None);
                apps.remove(*name);
                Reply::json(202, &gone)
            }
            _ => Reply::error(404, "not_found", &format!("there is nothing at {path}")),
        }
    }
}
