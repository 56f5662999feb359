//! Looking: from the engine's description of a container to an [`Instance`].

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, EndpointSettings,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt, stream};
use mini_core::id::InstanceId;
use mini_core::ports::{Instance, InstanceState, OneOff, RuntimeErrorKind, RuntimeResult};
use mini_core::time::Millis;

use crate::engine::{Docker, LOOK};
use crate::labels::{self, Labels};

/// Inspections at once: 200 containers take a tenth of a second then.
const LOOKS_AT_ONCE: usize = 16;
/// How often, and how long each time, the reason of a fresh SIGKILL is waited for.
const SETTLE_TRIES: u32 = 3;
const SETTLE: Duration = Duration::from_millis(100);

impl Docker {
    /// One container by its engine id or name.
    pub(crate) async fn inspect(
        &self,
        what: &str,
        container: &str,
    ) -> RuntimeResult<ContainerInspectResponse> {
        self.call(what, LOOK, |api| {
            api.inspect_container(container, None::<InspectContainerOptions>)
        })
        .await
    }

    /// One container, its end told in full: the news that it was the kernel that killed it for its
    /// memory comes to the engine by another way than the news of its end, and may come later.
    async fn inspect_settled(
        &self,
        what: &str,
        container: &str,
    ) -> RuntimeResult<ContainerInspectResponse> {
        let mut found = self.inspect(what, container).await?;
        for _ in 0..SETTLE_TRIES {
            if !found.state.as_ref().is_some_and(|state| may_turn_out_oom(state, now())) {
                break;
            }
            tokio::time::sleep(SETTLE).await;
            found = self.inspect(what, container).await?;
        }
        Ok(found)
    }

    pub(crate) async fn see_all(&self) -> RuntimeResult<Vec<Instance>> {
        let what = "the list of instances";
        let filters = labels::filters(self.server(), labels::KIND_INSTANCE, &[]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self.call(what, LOOK, |api| api.list_containers(Some(options))).await?;
        // The list has neither start times nor exit codes.
        let seen = stream::iter(listed.into_iter().filter_map(|container| container.id))
            .map(|container| async move {
                match self.inspect_settled(what, &container).await {
                    Ok(found) => Ok(self.instance(&found)),
                    // Removed since the list was made.
                    Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect::<Vec<Option<Instance>>>()
            .await?;
        Ok(seen.into_iter().flatten().collect())
    }

    pub(crate) async fn see_one(&self, id: InstanceId) -> RuntimeResult<Option<Instance>> {
        let what = labels::instance_words(&id);
        let what = what.as_str();
        let found =
            self.on_container(&id, |container| async move {
                self.inspect_settled(what, &container).await
            })
            .await?;
        Ok(found.and_then(|found| self.instance(&found)))
    }

    /// The instance that a container is; `None` if it is not one of ours.
    pub(crate) fn instance(&self, found: &ContainerInspectResponse) -> Option<Instance> {
        let labels = found.config.as_ref()?.labels.as_ref()?;
        if !labels::is_ours(labels, self.server(), labels::KIND_INSTANCE) {
            return None;
        }
        let networks = found.network_settings.as_ref().and_then(|n| n.networks.as_ref());
        let network = format!("mini-{}-{}", self.server().short(), labels.get(labels::APP)?);
        let endpoint = networks.and_then(|networks| networks.get(&network));
        let state = found.state.as_ref().map_or(InstanceState::Dead, state);
        let instance = read(labels, endpoint, state);
        match &instance {
            Some(instance) => self.remember(&instance.id, found.id.as_deref()?),
            None => tracing::warn!(
                container = found.id.as_deref().unwrap_or("?"),
                "a container carries our label and cannot be read; left alone"
            ),
        }
        instance
    }
}

fn read(
    labels: &Labels,
    endpoint: Option<&EndpointSettings>,
    state: InstanceState,
) -> Option<Instance> {
    let text = |key: &str| labels.get(key).map(String::as_str);
    let promised: Option<Ipv4Addr> = text(labels::ADDRESS)?.parse().ok();
    // While it runs, the engine's word stands over the label.
    let actual = endpoint.and_then(|e| e.ip_address.as_deref()?.parse().ok());
    let running = matches!(state, InstanceState::Running { .. } | InstanceState::Paused { .. });
    Some(Instance {
        id: text(labels::INSTANCE)?.parse().ok()?,
        app: text(labels::APP)?.parse().ok()?,
        rollout: text(labels::ROLLOUT)?.parse().ok()?,
        release: text(labels::RELEASE)?.parse().ok()?,
        process: text(labels::PROCESS)?.parse().ok()?,
        ordinal: text(labels::ORDINAL)?.parse().ok()?,
        address: if running { actual.or(promised) } else { promised },
        port: text(labels::PORT).and_then(|port| port.parse().ok()),
        alone: text(labels::ALONE).is_some(),
        one_off: match text(labels::ONE_OFF) {
            None => None,
            Some(labels::DETACHED) => Some(OneOff::Detached),
            // Also a word of a later version: nothing of an app's formation has this label.
            Some(_) => Some(OneOff::Attached),
        },
        state,
    })
}

fn state(state: &ContainerState) -> InstanceState {
    let since = || millis(state.started_at.as_deref());
    match state.status {
        Some(Status::CREATED) => InstanceState::Created,
        Some(Status::RUNNING | Status::STOPPING) => InstanceState::Running { since: since() },
        Some(Status::PAUSED) => InstanceState::Paused { since: since() },
        Some(Status::EXITED | Status::RESTARTING) => InstanceState::Exited {
            code: state.exit_code.unwrap_or(-1),
            oom: state.oom_killed.unwrap_or(false),
            at: millis(state.finished_at.as_deref()),
        },
        _ => InstanceState::Dead,
    }
}

/// Whether this is a SIGKILL of the last second that nobody has explained yet.
fn may_turn_out_oom(seen: &ContainerState, now: Millis) -> bool {
    match state(seen) {
        InstanceState::Exited { code: 137, oom: false, at } => now.since(at) < 1000,
        _ => false,
    }
}

fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(now.as_millis().try_into().unwrap_or(u64::MAX))
}

/// The engine's RFC 3339 time; its zero (`0001-01-01T00:00:00Z`) and what cannot be read are 0.
fn millis(text: Option<&str>) -> Millis {
    let time = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    Millis(time.and_then(|time| time.as_millisecond().try_into().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        [
            ("mini.instance", "i1"),
            ("mini.app", "blue-sky"),
            ("mini.rollout", "d1"),
            ("mini.release", "7"),
            ("mini.process", "web"),
            ("mini.ordinal", "2"),
            ("mini.address", "10.210.0.66"),
            ("mini.port", "8080"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn endpoint(address: &str) -> EndpointSettings {
        EndpointSettings { ip_address: Some(address.to_owned()), ..Default::default() }
    }

    #[test]
    fn a_stopped_instance_keeps_its_own_address_whatever_the_engine_shows() {
        let exited = InstanceState::Exited { code: 0, oom: false, at: Millis(1) };
        let stale = read(&labels(), Some(&endpoint("10.210.0.99")), exited).unwrap();
        assert_eq!(stale.address, Some("10.210.0.66".parse().unwrap()));
        let running = InstanceState::Running { since: Millis(1) };
        let moved = read(&labels(), Some(&endpoint("10.210.0.99")), running).unwrap();
        assert_eq!(moved.address, Some("10.210.0.99".parse().unwrap()));
        let bare = read(&labels(), Some(&endpoint("")), running).unwrap();
        assert_eq!(bare.address, Some("10.210.0.66".parse().unwrap()));
        assert_eq!((bare.release, bare.ordinal, bare.port), (7, 2, Some(8080)));
    }

    #[test]
    fn labels_that_cannot_be_read_make_no_instance() {
        for key in ["mini.instance", "mini.app", "mini.release", "mini.address"] {
            let mut labels = labels();
            labels.remove(key);
            assert_eq!(read(&labels, None, InstanceState::Created), None, "{key}");
        }
    }

    #[test]
    fn states_and_times_are_the_engines() {
        let of = |status, code| {
            state(&ContainerState {
                status: Some(status),
                exit_code: Some(code),
                oom_killed: Some(true),
                started_at: Some("2026-11-23T19:19:16.123456789Z".into()),
                finished_at: Some("0001-01-01T00:00:00Z".into()),
                ..Default::default()
            })
        };
        let at = Millis(1_795_461_556_123);
        assert_eq!(of(Status::RUNNING, 0), InstanceState::Running { since: at });
        assert_eq!(
            of(Status::EXITED, 137),
            InstanceState::Exited { code: 137, oom: true, at: Millis(0) }
        );
        let killed = |seconds: u64| {
            let state = ContainerState {
                status: Some(Status::EXITED),
                exit_code: Some(137),
                finished_at: Some("2026-11-23T19:19:16.123Z".into()),
                ..Default::default()
            };
            may_turn_out_oom(&state, at.plus(seconds * 1000))
        };
        assert!(killed(0) && !killed(1));
        assert_eq!(of(Status::REMOVING, 0), InstanceState::Dead);
    }
}
