//! The handle on one engine: its socket, typed calls under deadlines, and what it says of itself.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::query_parameters::ListContainersOptionsBuilder;
use mini_core::id::{InstanceId, ServerId};
use mini_core::ports::{EngineInfo, RuntimeError, RuntimeErrorKind, RuntimeResult};

use crate::build::Limit;
use crate::raw::Raw;
use crate::{DockerConfig, error, host, labels};

/// How long a look may take.
pub(crate) const LOOK: Duration = Duration::from_secs(10);
/// How long making or removing something may take.
pub(crate) const MAKE: Duration = Duration::from_secs(120);

/// One Docker Engine, reached through its unix socket.
#[derive(Clone)]
pub struct Docker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) server: ServerId,
    pub(crate) raw: Raw,
    pub(crate) default_memory_bytes: Option<u64>,
    /// bollard refuses to be made while the socket is not there, and we start before the engine.
    api: OnceLock<bollard::Docker>,
    /// Which container an instance is: saves a list per call, and is only ever a short-cut.
    containers: Mutex<HashMap<InstanceId, String>>,
    /// One `ensure_network` at a time: engines before 1.44 allow two networks of one name.
    pub(crate) network_gate: tokio::sync::Mutex<()>,
    /// Whether the engine opened a BuildKit session when last asked.
    pub(crate) buildkit: Mutex<Option<bool>>,
    /// What all builds together may take.
    pub(crate) limit: Limit,
}

impl Docker {
    /// A handle on the engine that `config` names; makes no round trip.
    ///
    /// # Errors
    /// `Unsupported` for a host whose container addresses cannot be reached from here (`tcp://`,
    /// `ssh://`, `npipe://`), `Invalid` for one that cannot be read.
    pub fn connect(config: DockerConfig) -> RuntimeResult<Docker> {
        let socket = host::socket(config.host.as_deref())?;
        Ok(Docker {
            inner: Arc::new(Inner {
                server: config.server,
                raw: Raw::new(socket),
                default_memory_bytes: config.default_memory_bytes,
                api: OnceLock::new(),
                containers: Mutex::default(),
                network_gate: tokio::sync::Mutex::default(),
                buildkit: Mutex::default(),
                limit: Limit::default(),
            }),
        })
    }

    pub(crate) fn server(&self) -> &ServerId {
        &self.inner.server
    }

    /// bollard's client. Its own deadline covers whole builds and pulls, so it is out of the way:
    /// [`Docker::call`] has ours.
    pub(crate) fn api(&self, what: &str) -> RuntimeResult<&bollard::Docker> {
        if let Some(api) = self.inner.api.get() {
            return Ok(api);
        }
        let day_seconds = 86_400;
        let path = self.inner.raw.socket().to_string_lossy();
        let api =
            bollard::Docker::connect_with_unix(&path, day_seconds, bollard::API_DEFAULT_VERSION)
                .map_err(|error| error::from_api(what, &error))?;
        Ok(self.inner.api.get_or_init(|| api))
    }

    /// One typed call about `what`, under a deadline.
    pub(crate) async fn call<'a, T, F>(
        &'a self,
        what: &str,
        deadline: Duration,
        call: impl FnOnce(&'a bollard::Docker) -> F,
    ) -> RuntimeResult<T>
    where
        F: Future<Output = Result<T, ApiError>> + 'a,
    {
        let api = self.api(what)?;
        match tokio::time::timeout(deadline, call(api)).await {
            Ok(result) => result.map_err(|error| error::from_api(what, &error)),
            Err(_) => {
                let why = format!("it did not answer within {} s", deadline.as_secs());
                Err(error::unreachable(what, &why))
            }
        }
    }

    /// Who the engine is.
    ///
    /// # Errors
    /// `Unsupported` for an engine in a desktop's VM or a rootless one: the addresses of its
    /// containers lead nowhere from here.
    pub(crate) async fn engine_info(&self) -> RuntimeResult<EngineInfo> {
        let what = "the engine's description";
        let (info, version, buildkit) = tokio::join!(
            self.call(what, LOOK, |api| api.info()),
            self.call(what, LOOK, |api| api.version()),
            self.probe_buildkit(),
        );
        let (info, version) = (info?, version?);
        let os = info.operating_system.unwrap_or_default();
        let options = info.security_options.unwrap_or_default();
        let refuse = |what: &str| {
            RuntimeError::new(
                RuntimeErrorKind::Unsupported,
                format!("{what}: the addresses of its containers cannot be reached from here"),
            )
            .hint("use a Docker Engine that runs as root on this Linux machine")
        };
        if os.contains("Docker Desktop") {
            return Err(refuse("Docker Desktop keeps its engine in a virtual machine"));
        }
        if options.iter().any(|option| option.contains("name=rootless")) {
            return Err(refuse("this engine is rootless"));
        }
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            os,
            arch: info.architecture.unwrap_or_default(),
            cpus: positive(info.ncpu).try_into().unwrap_or(u32::MAX),
            memory_bytes: positive(info.mem_total),
            root_dir: PathBuf::from(info.docker_root_dir.unwrap_or_default()),
            storage_driver: info.driver.unwrap_or_default(),
            cgroup_version: info.cgroup_version.map(|v| v.to_string()).unwrap_or_default(),
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            buildkit: buildkit?,
        })
    }

    /// Remembers which container an instance is.
    pub(crate) fn remember(&self, id: &InstanceId, container: &str) {
        let mut known = self.inner.containers.lock().unwrap_or_else(PoisonError::into_inner);
        // Instances that others removed stay behind; the map is a short-cut and may be emptied.
        if known.len() > 10_000 {
            known.clear();
        }
        known.insert(id.clone(), container.to_owned());
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        self.inner.containers.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn remembered(&self, id: &InstanceId) -> Option<String> {
        self.inner.containers.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// The container of an instance of ours; `None` is known to be absent.
    pub(crate) async fn find_container(&self, id: &InstanceId) -> RuntimeResult<Option<String>> {
        let what = labels::instance_words(id);
        let extra = [(labels::INSTANCE, id.as_str())];
        let filters = labels::filters(self.server(), labels::KIND_INSTANCE, &extra);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = self.call(&what, LOOK, |api| api.list_containers(Some(options))).await?;
        let container = found.into_iter().find_map(|container| container.id);
        match &container {
            Some(container) => self.remember(id, container),
            None => self.forget(id),
        }
        Ok(container)
    }

    /// Does `call` on the container of an instance, by the remembered id first; `None` if the
    /// instance is known to be absent.
    pub(crate) async fn on_container<T, F>(
        &self,
        id: &InstanceId,
        call: impl Fn(String) -> F,
    ) -> RuntimeResult<Option<T>>
    where
        F: Future<Output = RuntimeResult<T>>,
    {
        if let Some(container) = self.remembered(id) {
            match call(container).await {
                Err(error) if error.kind == RuntimeErrorKind::NotFound => {}
                other => return other.map(Some),
            }
        }
        let Some(container) = self.find_container(id).await? else { return Ok(None) };
        match call(container).await {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => {
                self.forget(id);
                Ok(None)
            }
            other => other.map(Some),
        }
    }
}

/// The engine's numbers are signed; what they count is not.
pub(crate) fn positive(number: Option<i64>) -> u64 {
    number.and_then(|n| n.try_into().ok()).unwrap_or(0)
}
