//! Making, starting, stopping and removing instances.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use mini_core::fault;
use mini_core::id::InstanceId;
use mini_core::ports::{
    Instance, InstanceSpec, InstanceState, RuntimeError, RuntimeErrorKind, RuntimeResult,
    TerminalSize,
};

use crate::engine::{Docker, MAKE};
use crate::{error, labels, volume};

/// Processes and threads of an instance whose spec names no limit.
const DEFAULT_PIDS: i64 = 512;
/// Builds weigh 256: an app is served first.
const CPU_WEIGHT: i64 = 1024;
/// What an ordinary image needs as root. KILL so that init can pass a signal on to a process
/// that changed its user.
const CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "KILL", "NET_BIND_SERVICE"];
/// The engine's own time to stop and clean up, on top of the app's.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// How messages name an instance to be.
fn words(spec: &InstanceSpec) -> String {
    format!("{}.{} of {}", spec.process, spec.ordinal, spec.app)
}

impl Docker {
    pub(crate) async fn create_and_start(&self, spec: InstanceSpec) -> RuntimeResult<Instance> {
        self.volumes_are_there(&spec.volumes).await?;
        let what = words(&spec);
        let name = labels::container_name(self.server(), &spec);
        let body = self.create_body(&spec);
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let created = self.call(&what, MAKE, |api| api.create_container(Some(options), body)).await;
        let container = match created {
            Ok(created) => created.id,
            Err(error) if error.kind == RuntimeErrorKind::Conflict => {
                let there = self.there_already(&what, &name, &spec.id, error).await?;
                match there {
                    (_, instance) if instance.state != InstanceState::Created => {
                        return Ok(instance);
                    }
                    (container, _) => container,
                }
            }
            Err(error) => return Err(error::from_start(&what, error)),
        };
        self.remember(&spec.id, &container);
        fault::point("engine.created");
        if let Err(error) = self.start_container(&what, &container).await {
            // With no answer it may be starting still; the next look will say.
            if error.kind != RuntimeErrorKind::Unreachable {
                self.clean_up(&what, &spec.id, &container).await;
            }
            return Err(error);
        }
        fault::point("engine.started");
        self.look_after_start(&what, &container).await
    }

    /// Makes the container of a one-off that somebody will be attached to.
    pub(crate) async fn create_held(
        &self,
        spec: &InstanceSpec,
        terminal: Option<TerminalSize>,
    ) -> RuntimeResult<(String, String)> {
        self.volumes_are_there(&spec.volumes).await?;
        let what = words(spec);
        let name = labels::container_name(self.server(), spec);
        let mut body = self.create_body(spec);
        body.open_stdin = Some(true);
        // Its input ends with ours.
        body.stdin_once = Some(true);
        body.attach_stdin = Some(true);
        body.attach_stdout = Some(true);
        body.attach_stderr = Some(true);
        body.tty = Some(terminal.is_some());
        if let Some(host) = &mut body.host_config {
            // What is typed and shown is nobody else's, and a dump that passes needs no disk.
            host.log_config =
                Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None });
            // From API 1.42 on; before, the size comes after the start.
            host.console_size = terminal.map(|t| vec![t.rows.into(), t.columns.into()]);
        }
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let created = self.call(&what, MAKE, |api| api.create_container(Some(options), body)).await;
        let container = created.map_err(|error| error::from_start(&what, error))?.id;
        self.remember(&spec.id, &container);
        Ok((what, container))
    }

    /// The container that holds the name, if it is this very instance.
    async fn there_already(
        &self,
        what: &str,
        name: &str,
        id: &InstanceId,
        conflict: RuntimeError,
    ) -> RuntimeResult<(String, Instance)> {
        let found = match self.inspect(what, name).await {
            // On its way out, and gone by now: the name is free for the next try.
            Err(error) if error.kind == RuntimeErrorKind::NotFound => return Err(conflict),
            other => other?,
        };
        let instance = self.instance(&found).filter(|instance| instance.id == *id);
        match (found.id, instance) {
            (Some(container), Some(instance)) => Ok((container, instance)),
            _ => Err(conflict),
        }
    }

    pub(crate) async fn start_existing(&self, id: InstanceId) -> RuntimeResult<Instance> {
        let what = labels::instance_words(&id);
        let what = what.as_str();
        let started = self.on_container(&id, |container| async move {
            self.start_container(what, &container).await?;
            self.look_after_start(what, &container).await
        });
        started.await?.ok_or_else(|| {
            RuntimeError::new(RuntimeErrorKind::NotFound, format!("{what} is not there"))
        })
    }

    /// Starts; started already is done.
    pub(crate) async fn start_container(&self, what: &str, container: &str) -> RuntimeResult<()> {
        let started = self
            .call(what, MAKE, |api| api.start_container(container, None::<StartContainerOptions>))
            .await;
        started.map_err(|error| error::from_start(what, error))
    }

    pub(crate) async fn look_after_start(
        &self,
        what: &str,
        container: &str,
    ) -> RuntimeResult<Instance> {
        let found = self.inspect(what, container).await?;
        self.instance(&found).ok_or_else(|| {
            RuntimeError::new(
                RuntimeErrorKind::Other,
                format!("{what} was started and lost its labels"),
            )
        })
    }

    /// Removes what a failed start left; if that fails too, the next look shows it.
    pub(crate) async fn clean_up(&self, what: &str, id: &InstanceId, container: &str) {
        match self.remove_container(what, container).await {
            Ok(()) => self.forget(id),
            Err(error) => tracing::warn!(%error, what, "a failed start left its container"),
        }
    }

    pub(crate) async fn stop_instance(&self, id: InstanceId, grace_ms: u64) -> RuntimeResult<()> {
        let what = labels::instance_words(&id);
        let what = what.as_str();
        // The engine counts whole seconds.
        let seconds = grace_ms.div_ceil(1000).min(86_400);
        let deadline = Duration::from_secs(seconds) + STOP_MARGIN;
        let stopped = self.on_container(&id, |container| async move {
            let options = StopContainerOptionsBuilder::new().t(seconds as i32).build();
            self.call(what, deadline, |api| api.stop_container(&container, Some(options))).await
        });
        stopped.await.map(|_| ())
    }

    pub(crate) async fn remove_instance(&self, id: InstanceId) -> RuntimeResult<()> {
        let what = labels::instance_words(&id);
        let what = what.as_str();
        self.on_container(
            &id,
            |container| async move { self.remove_container(what, &container).await },
        )
        .await?;
        self.forget(&id);
        Ok(())
    }

    async fn remove_container(&self, what: &str, container: &str) -> RuntimeResult<()> {
        // Volumes without a name go with their container.
        let options = || RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed =
            self.call(what, MAKE, |api| api.remove_container(container, Some(options()))).await;
        match removed {
            // "removal of container … is already in progress": somebody's else removal ends it.
            Err(error) if error.kind == RuntimeErrorKind::Conflict => {
                self.wait_until_gone(what, container).await
            }
            other => other,
        }
    }

    /// Waits for a removal that is under way elsewhere.
    async fn wait_until_gone(&self, what: &str, container: &str) -> RuntimeResult<()> {
        for _ in 0..100 {
            match self.inspect(what, container).await {
                Err(error) if error.kind == RuntimeErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        Err(RuntimeError::new(
            RuntimeErrorKind::Conflict,
            format!("{what} is being removed and does not go"),
        ))
    }

    fn create_body(&self, spec: &InstanceSpec) -> ContainerCreateBody {
        let network = labels::network_name(self.server(), &spec.app);
        let memory = spec.limits.memory_bytes.or(self.inner.default_memory_bytes);
        let memory = memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(spec.address.to_string()),
                ..Default::default()
            }),
            ..Default::default()
        };
        ContainerCreateBody {
            hostname: Some(labels::host_name(spec)),
            env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
            cmd: spec.command.clone(),
            // One empty word clears the image's entry point; an empty list would keep it.
            entrypoint: spec.command.as_ref().map(|_| vec![String::new()]),
            image: Some(spec.image.clone()),
            tty: Some(false),
            // The image's check is run by the controller; the engine's first one would come late.
            healthcheck: Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..Default::default()
            }),
            labels: Some(labels::of_instance(self.server(), spec)),
            host_config: Some(HostConfig {
                network_mode: Some(network.clone()),
                mounts: Some(volume::mounts(&spec.volumes)),
                init: Some(true),
                // Restarting is the planner's, with its back-off.
                restart_policy: Some(RestartPolicy {
                    name: Some(RestartPolicyNameEnum::NO),
                    maximum_retry_count: None,
                }),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                memory,
                memory_swap: memory,
                nano_cpus: spec.limits.cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
                cpu_shares: Some(CPU_WEIGHT),
                pids_limit: Some(spec.limits.pids.map_or(DEFAULT_PIDS, i64::from)),
                // Follow loses lines at a rotation, so rotations are far apart.
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".to_owned()),
                    config: Some(HashMap::from(
                        [("max-size", "50m"), ("max-file", "2")]
                            .map(|(key, value)| (key.to_owned(), value.to_owned())),
                    )),
                }),
                ..Default::default()
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(network, endpoint)])),
            }),
            ..Default::default()
        }
    }
}
