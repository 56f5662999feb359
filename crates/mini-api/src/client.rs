//! The typed client of `/v1`.
//!
//! One connection per call ([`connect`]), one try in [`transport`], repeated by [`retry`] where
//! that is safe; streams resume by themselves ([`stream`]). A client knows one server and one
//! token, and sends the one to the other only: it follows no redirect.

mod connect;
mod endpoint;
mod error;
mod retry;
mod stream;
mod transport;
mod upload;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use http::Method;
use jiff::Timestamp;
use mini_core::id::{DeploymentId, TokenId};
use mini_core::name::AppName;
use mini_core::source::SourceDigest;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use endpoint::{BadEndpoint, Endpoint};
pub use error::{ClientError, Fault};
pub use stream::{Events, Logs};

use crate::{
    App, Apps, CreatedToken, Deployment, Deployments, Env, EnvChange, EnvChanged, Formation,
    HEARTBEAT_SECONDS, Health, Instances, NewApp, NewDeployment, NewToken, ReleaseInfo, Releases,
    Rollback, SOURCE_TYPES, Server, Source, Tokens,
};
use transport::Call;

/// How long a client waits for what.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Over an outage, from its first failure to giving up.
    pub patience: Duration,
    /// For the head of an answer, and within a document.
    pub answer: Duration,
    /// For the next line of a stream: longer than two heartbeats.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            answer: transport::ANSWER,
            silence: Duration::from_secs(2 * HEARTBEAT_SECONDS + 10),
        }
    }
}

type OnWait = Box<dyn Fn(&ClientError) + Send + Sync>;

/// A client of one server. Clones share what it learned.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    token: Option<String>,
    timing: Timing,
    on_wait: Option<OnWait>,
    contacted: AtomicBool,
}

impl Client {
    pub fn new(endpoint: Endpoint, token: Option<String>) -> Self {
        Self::with(endpoint, token, Timing::default(), None)
    }

    /// `on_wait` is told once per outage why the client waits.
    pub fn with(
        endpoint: Endpoint,
        token: Option<String>,
        timing: Timing,
        on_wait: Option<OnWait>,
    ) -> Self {
        let contacted = AtomicBool::new(false);
        Self { inner: Arc::new(Inner { endpoint, token, timing, on_wait, contacted }) }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    fn contacted(&self) {
        self.inner.contacted.store(true, Ordering::Relaxed);
    }

    fn was_contacted(&self) -> bool {
        self.inner.contacted.load(Ordering::Relaxed)
    }

    // The server itself.

    /// Needs no token.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("/v1/health").await
    }

    pub async fn server(&self) -> Result<Server, ClientError> {
        self.get("/v1/server").await
    }

    // Apps.

    pub async fn apps(&self) -> Result<Apps, ClientError> {
        self.get("/v1/apps").await
    }

    pub async fn create_app(&self, new: &NewApp) -> Result<App, ClientError> {
        self.send(Method::POST, "/v1/apps".to_owned(), Some(new), None).await
    }

    pub async fn app(&self, app: &AppName) -> Result<App, ClientError> {
        self.get(&format!("/v1/apps/{app}")).await
    }

    /// Begins to destroy the app; it is gone when [`Client::app`] no longer finds it.
    pub async fn destroy_app(&self, app: &AppName) -> Result<App, ClientError> {
        self.send::<(), _>(Method::DELETE, format!("/v1/apps/{app}"), None, None).await
    }

    pub async fn instances(&self, app: &AppName) -> Result<Instances, ClientError> {
        self.get(&format!("/v1/apps/{app}/instances")).await
    }

    /// The last `n` releases, newest first.
    pub async fn releases(&self, app: &AppName, n: u32) -> Result<Releases, ClientError> {
        self.get(&format!("/v1/apps/{app}/releases?n={n}")).await
    }

    pub async fn release(&self, app: &AppName, release: &str) -> Result<ReleaseInfo, ClientError> {
        self.get(&format!("/v1/apps/{app}/releases/{release}")).await
    }

    pub async fn env(&self, app: &AppName) -> Result<Env, ClientError> {
        self.get(&format!("/v1/apps/{app}/env")).await
    }

    /// `key` is the idempotency key: the same one again is the same rollout.
    pub async fn change_env(
        &self,
        app: &AppName,
        change: &EnvChange,
        key: &str,
    ) -> Result<EnvChanged, ClientError> {
        self.send(Method::PATCH, format!("/v1/apps/{app}/env"), Some(change), Some(key)).await
    }

    /// `key` is the idempotency key: the same one again is the same restart.
    pub async fn restart(&self, app: &AppName, key: &str) -> Result<Deployment, ClientError> {
        let path = format!("/v1/apps/{app}/restart");
        self.send::<(), _>(Method::POST, path, None, Some(key)).await
    }

    /// `key` is the idempotency key.
    pub async fn start(&self, app: &AppName, key: &str) -> Result<Deployment, ClientError> {
        let path = format!("/v1/apps/{app}/start");
        self.send::<(), _>(Method::POST, path, None, Some(key)).await
    }

    pub async fn formation(&self, app: &AppName) -> Result<Formation, ClientError> {
        self.get(&format!("/v1/apps/{app}/formation")).await
    }

    /// To want the same twice is to want it, so it may be repeated: that is what the key stands for.
    pub async fn scale(&self, app: &AppName, to: &Formation) -> Result<Formation, ClientError> {
        self.send(Method::PATCH, format!("/v1/apps/{app}/formation"), Some(to), Some("scale")).await
    }

    /// `key` is the idempotency key.
    pub async fn rollback(
        &self,
        app: &AppName,
        to: &Rollback,
        key: &str,
    ) -> Result<Deployment, ClientError> {
        self.send(Method::POST, format!("/v1/apps/{app}/rollback"), Some(to), Some(key)).await
    }

    /// Begins to stop the app; it is stopped when [`Client::app`] says so. To stop twice is to
    /// stop, so it may be repeated: that is what the key stands for.
    pub async fn stop(&self, app: &AppName) -> Result<App, ClientError> {
        self.send::<(), _>(Method::POST, format!("/v1/apps/{app}/stop"), None, Some("stop")).await
    }

    pub fn logs(&self, app: &AppName, query: LogQuery) -> Logs {
        Logs::new(self.clone(), app.to_string(), query)
    }

    // Sources and deployments.

    /// Whether the server has that source.
    pub async fn source(
        &self,
        app: &AppName,
        digest: &SourceDigest,
    ) -> Result<Option<Source>, ClientError> {
        match self.get(&format!("/v1/apps/{app}/sources/{digest}")).await {
            Ok(source) => Ok(Some(source)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends a `.tar.gz` in one try, streamed. A refusal is read even if the server stops reading.
    pub async fn upload_source(
        &self,
        app: &AppName,
        chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Source, ClientError> {
        let path = format!("/v1/apps/{app}/sources");
        let call = Call { method: Method::POST, path, json: None, key: None };
        let body = upload::Watched::new(chunks);
        self.parse(&self.try_upload(&call, SOURCE_TYPES[0], body).await?)
    }

    /// `key` is the idempotency key: the same one within a day is the same deployment.
    pub async fn deploy(
        &self,
        app: &AppName,
        new: &NewDeployment,
        key: &str,
    ) -> Result<Deployment, ClientError> {
        let path = format!("/v1/apps/{app}/deployments");
        self.send(Method::POST, path, Some(new), Some(key)).await
    }

    pub async fn deployments(&self, app: &AppName) -> Result<Deployments, ClientError> {
        self.get(&format!("/v1/apps/{app}/deployments")).await
    }

    pub async fn deployment(&self, id: &DeploymentId) -> Result<Deployment, ClientError> {
        self.get(&format!("/v1/deployments/{id}")).await
    }

    /// Follows a deployment from after event number `after` (0: from the start) to its end.
    pub fn deployment_events(&self, id: &DeploymentId, after: u64) -> Events {
        Events::new(self.clone(), id.to_string(), after)
    }

    pub async fn cancel_deployment(&self, id: &DeploymentId) -> Result<Deployment, ClientError> {
        self.send::<(), _>(Method::POST, format!("/v1/deployments/{id}/cancel"), None, None).await
    }

    // Tokens.

    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        self.get("/v1/tokens").await
    }

    pub async fn create_token(&self, new: &NewToken) -> Result<CreatedToken, ClientError> {
        self.send(Method::POST, "/v1/tokens".to_owned(), Some(new), None).await
    }

    pub async fn revoke_token(&self, id: &TokenId) -> Result<(), ClientError> {
        let path = format!("/v1/tokens/{id}");
        let call = Call { method: Method::DELETE, path, json: None, key: None };
        self.document(&call).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send::<(), T>(Method::GET, path.to_owned(), None, None).await
    }

    async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Option<&B>,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let json = body.map(serde_json::to_vec).transpose();
        let json = json.map_err(|e| self.garbled(&e.to_string()))?.map(Bytes::from);
        let call = Call { method, path, json, key: key.map(str::to_owned) };
        self.parse(&self.document(&call).await?)
    }

    fn parse<T: DeserializeOwned>(&self, document: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(document).map_err(|e| self.garbled(&e.to_string()))
    }
}

/// Which log lines: the query of `GET /v1/apps/{app}/logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// How many of the last lines; the server's default is 100.
    pub n: Option<u32>,
    pub follow: bool,
    /// `app` or `mini`.
    pub source: Option<String>,
    /// `web` or `web.1`.
    pub process: Option<String>,
    pub since: Option<Timestamp>,
    /// Only lines with a higher number: where a stream goes on. `n` and `since` are then left out.
    pub after: Option<u64>,
}

impl LogQuery {
    fn to_query(&self) -> String {
        let mut fields = Vec::new();
        match self.after {
            Some(after) => fields.push(format!("after={after}")),
            None => {
                fields.extend(self.n.map(|n| format!("n={n}")));
                fields.extend(self.since.map(|at| format!("since={}", escape(&at.to_string()))));
            }
        }
        if self.follow {
            fields.push("follow=true".to_owned());
        }
        fields.extend(self.source.as_ref().map(|s| format!("source={}", escape(s))));
        fields.extend(self.process.as_ref().map(|p| format!("process={}", escape(p))));
        if fields.is_empty() { String::new() } else { format!("?{}", fields.join("&")) }
    }
}

/// Percent-encodes all but the unreserved characters (RFC 3986 2.3).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
