//! The typed client of `/v1`.
//!
//! One connection per call ([`connect`]), one try in [`transport`], repeated by [`retry`] where
//! that is safe; streams resume by themselves ([`stream`]). A client knows one server and one
//! token, and sends the one to the other only: it follows no redirect.

mod connect;
mod endpoint;
mod error;
mod retry;
mod session;
mod stream;
mod tls;
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
use mini_core::name::{AppName, ProcessType, VolumeName};
use mini_core::source::SourceDigest;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use endpoint::{BadEndpoint, Endpoint};
pub use error::{ClientError, Fault};
pub use session::{Session, SessionReader, SessionWriter};
pub use stream::{Events, Logs};
pub use tls::{BadFingerprint, Fingerprint};

use crate::{
    AllLimits, App, Apps, Audit, Cert, CertAdded, CertDetail, Certs, CreatedToken, Deployment,
    Deployments, DomainAdded, Domains, Env, EnvChange, EnvChanged, Formation, HEARTBEAT_SECONDS,
    Health, Instances, Limits, Maintenance, Metrics, NewApp, NewCert, NewDeployment, NewDomain,
    NewPage, NewToken, NewVolume, Pages, ReleaseInfo, Releases, Rollback, Rotate, RouteChanged,
    SOURCE_TYPES, Server, SettingsChanged, Source, Tokens, VolumeAdded, Volumes,
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
    tls: tls::Tls,
    timing: Timing,
    on_wait: Option<OnWait>,
    contacted: AtomicBool,
}

impl Client {
    pub fn new(endpoint: Endpoint, token: Option<String>) -> Self {
        Self::with(endpoint, token, None, Timing::default(), None)
    }

    /// `pin` is the certificate that is believed over TLS beside those of the system's authorities.
    /// `on_wait` is told once per outage why the client waits.
    pub fn with(
        endpoint: Endpoint,
        token: Option<String>,
        pin: Option<Fingerprint>,
        timing: Timing,
        on_wait: Option<OnWait>,
    ) -> Self {
        let contacted = AtomicBool::new(false);
        let tls = tls::Tls::new(pin);
        Self { inner: Arc::new(Inner { endpoint, token, tls, timing, on_wait, contacted }) }
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

    /// Begins to destroy the app; it is gone when [`Client::app`] no longer finds it. To destroy
    /// twice is to destroy, so it may be repeated: that is what the key stands for. A repetition
    /// may find nothing any more.
    pub async fn destroy_app(&self, app: &AppName, with_volumes: bool) -> Result<App, ClientError> {
        let path = format!("/v1/apps/{app}?with_volumes={with_volumes}");
        self.send::<(), _>(Method::DELETE, path, None, Some("destroy")).await
    }

    pub async fn instances(&self, app: &AppName) -> Result<Instances, ClientError> {
        self.get(&format!("/v1/apps/{app}/instances")).await
    }

    /// Wants another in place of the instance `web.1`; answers with what runs of that name now. To
    /// replace twice is to replace, so it may be repeated: that is what the key stands for.
    pub async fn restart_instance(
        &self,
        app: &AppName,
        instance: &str,
    ) -> Result<Instances, ClientError> {
        let path = format!("/v1/apps/{app}/instances/{}/restart", escape(instance));
        self.send::<(), _>(Method::POST, path, None, Some("restart")).await
    }

    // Limits and volumes.

    pub async fn limits(&self, app: &AppName) -> Result<AllLimits, ClientError> {
        self.get(&format!("/v1/apps/{app}/limits")).await
    }

    /// Sets all limits of one process type. `key` is the idempotency key.
    pub async fn set_limits(
        &self,
        app: &AppName,
        process: &ProcessType,
        limits: &Limits,
        key: &str,
    ) -> Result<SettingsChanged, ClientError> {
        let path = format!("/v1/apps/{app}/limits/{process}");
        self.send(Method::PUT, path, Some(limits), Some(key)).await
    }

    pub async fn volumes(&self, app: &AppName) -> Result<Volumes, ClientError> {
        self.get(&format!("/v1/apps/{app}/volumes")).await
    }

    /// Of every app, and what destroyed ones left.
    pub async fn all_volumes(&self) -> Result<Volumes, ClientError> {
        self.get("/v1/volumes").await
    }

    /// `key` is the idempotency key.
    pub async fn add_volume(
        &self,
        app: &AppName,
        new: &NewVolume,
        key: &str,
    ) -> Result<VolumeAdded, ClientError> {
        self.send(Method::POST, format!("/v1/apps/{app}/volumes"), Some(new), Some(key)).await
    }

    /// `key` is the idempotency key.
    pub async fn remove_volume(
        &self,
        app: &AppName,
        volume: &VolumeName,
        delete_data: bool,
        key: &str,
    ) -> Result<SettingsChanged, ClientError> {
        let path = format!("/v1/apps/{app}/volumes/{volume}?delete_data={delete_data}");
        self.send::<(), _>(Method::DELETE, path, None, Some(key)).await
    }

    /// Deletes a volume that the destroyed app `left_by` left.
    pub async fn delete_left_volume(
        &self,
        left_by: &AppName,
        volume: &VolumeName,
    ) -> Result<SettingsChanged, ClientError> {
        let path = format!("/v1/volumes/{left_by}/{volume}");
        self.send::<(), _>(Method::DELETE, path, None, None).await
    }

    // Domains, maintenance, error pages: to want the same twice is to want it, so each may be
    // repeated; that is what the keys stand for. A repeated removal may find nothing any more.

    /// `dns`: whether to ask what the names lead to.
    pub async fn domains(&self, app: &AppName, dns: bool) -> Result<Domains, ClientError> {
        self.get(&format!("/v1/apps/{app}/domains?dns={dns}")).await
    }

    pub async fn add_domain(
        &self,
        app: &AppName,
        new: &NewDomain,
    ) -> Result<DomainAdded, ClientError> {
        self.send(Method::POST, format!("/v1/apps/{app}/domains"), Some(new), Some("add")).await
    }

    pub async fn remove_domain(
        &self,
        app: &AppName,
        domain: &str,
    ) -> Result<RouteChanged, ClientError> {
        let path = format!("/v1/apps/{app}/domains/{}", escape(domain));
        self.send::<(), _>(Method::DELETE, path, None, Some("remove")).await
    }

    pub async fn maintenance(&self, app: &AppName) -> Result<Maintenance, ClientError> {
        self.get(&format!("/v1/apps/{app}/maintenance")).await
    }

    pub async fn set_maintenance(
        &self,
        app: &AppName,
        on: bool,
    ) -> Result<RouteChanged, ClientError> {
        let path = format!("/v1/apps/{app}/maintenance");
        self.send(Method::PUT, path, Some(&Maintenance { on }), Some("set")).await
    }

    pub async fn pages(&self, app: &AppName) -> Result<Pages, ClientError> {
        self.get(&format!("/v1/apps/{app}/pages")).await
    }

    /// `code` is one of [`PAGE_CODES`](crate::PAGE_CODES).
    pub async fn set_page(
        &self,
        app: &AppName,
        code: &str,
        page: &NewPage,
    ) -> Result<RouteChanged, ClientError> {
        let path = format!("/v1/apps/{app}/pages/{}", escape(code));
        self.send(Method::PUT, path, Some(page), Some("set")).await
    }

    pub async fn unset_page(&self, app: &AppName, code: &str) -> Result<RouteChanged, ClientError> {
        let path = format!("/v1/apps/{app}/pages/{}", escape(code));
        self.send::<(), _>(Method::DELETE, path, None, Some("unset")).await
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

    pub async fn metrics(&self, app: &AppName) -> Result<Metrics, ClientError> {
        self.get(&format!("/v1/apps/{app}/metrics")).await
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

    /// To cancel twice is to cancel, so it may be repeated: that is what the key stands for.
    pub async fn cancel_deployment(&self, id: &DeploymentId) -> Result<Deployment, ClientError> {
        let path = format!("/v1/deployments/{id}/cancel");
        self.send::<(), _>(Method::POST, path, None, Some("cancel")).await
    }

    // Certificates.

    pub async fn certs(&self) -> Result<Certs, ClientError> {
        self.get("/v1/certs").await
    }

    pub async fn cert(&self, name: &str) -> Result<CertDetail, ClientError> {
        self.get(&format!("/v1/certs/{}", escape(name))).await
    }

    /// To bring the same twice is to bring it, so it may be repeated: that is what the key stands
    /// for.
    pub async fn add_cert(&self, new: &NewCert) -> Result<CertAdded, ClientError> {
        self.send(Method::POST, "/v1/certs".to_owned(), Some(new), Some("add")).await
    }

    pub async fn remove_cert(&self, name: &str) -> Result<(), ClientError> {
        let path = format!("/v1/certs/{}", escape(name));
        let call = Call { method: Method::DELETE, path, json: None, key: None };
        self.document(&call).await.map(drop)
    }

    /// Has the server order a certificate now.
    pub async fn retry_cert(&self, name: &str) -> Result<Cert, ClientError> {
        let path = format!("/v1/certs/{}/retry", escape(name));
        self.send::<(), _>(Method::POST, path, None, None).await
    }

    // Tokens.

    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        self.get("/v1/tokens").await
    }

    pub async fn create_token(&self, new: &NewToken) -> Result<CreatedToken, ClientError> {
        self.send(Method::POST, "/v1/tokens".to_owned(), Some(new), None).await
    }

    /// Gives a token another secret. Not repeated over a lost connection: the answer has the secret.
    pub async fn rotate_token(
        &self,
        id: &TokenId,
        how: &Rotate,
    ) -> Result<CreatedToken, ClientError> {
        self.send(Method::POST, format!("/v1/tokens/{id}/rotate"), Some(how), None).await
    }

    /// Who asked for what, newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<Audit, ClientError> {
        let mut parts = Vec::new();
        parts.extend(query.app.as_ref().map(|app| format!("app={app}")));
        parts.extend(query.since.map(|at| format!("since={at}")));
        parts.extend(query.n.map(|n| format!("n={n}")));
        self.get(&format!("/v1/audit?{}", parts.join("&"))).await
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

/// Which entries of the audit trail: the query of `GET /v1/audit`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub app: Option<AppName>,
    pub since: Option<Timestamp>,
    /// How many at most, the newest; the server's default is 50.
    pub n: Option<u32>,
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
