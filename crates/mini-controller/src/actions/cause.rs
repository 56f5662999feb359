//! Why an instance did not become healthy, from all that can be found out about it.

use mini_core::cause::{Cause, Findings, diagnose};
use mini_core::control::Verdict;
use mini_core::id::{DeploymentId, InstanceId};
use mini_core::name::AppName;
use mini_core::ports::{Instance, InstanceState, Listening};

use super::release_of;
use crate::clock;
use crate::core::Core;
use crate::logs::Filter;

/// How many of the last lines go with a failure.
const TAIL: usize = 15;

/// Why an instance of a rollout did not become healthy.
pub(super) async fn cause_of(
    core: &Core,
    app: &AppName,
    rollout: &DeploymentId,
    id: &InstanceId,
) -> Cause {
    let Some(instance) = core.world.get(id) else {
        return Cause::new("vanished", "the instance was removed from the engine by somebody else");
    };
    let exited = matches!(instance.state, InstanceState::Exited { .. });
    if exited {
        core.pumps.finish(&instance).await;
    } else {
        core.logs.flush().await;
    }
    let listening = core
        .runtime
        .listening(id.clone())
        .await
        .unwrap_or_else(|error| Listening::Unknown(error.to_string()));
    let probe = match core.link.verdict(id) {
        Some(Verdict::Unhealthy { why }) => Some(why),
        _ => None,
    };
    let check = match core.checks.of(id).flatten().map(|checked| checked.verdict) {
        Some(Verdict::Unhealthy { why }) => Some(why),
        _ => None,
    };
    let release = release_of(core, app, rollout).await.ok().map(|(_, release)| release);
    let limits = release
        .as_ref()
        .and_then(|r| r.spec.processes.get(&instance.process))
        .and_then(|p| p.limits.memory_bytes);
    let waited_ms = match instance.state {
        InstanceState::Running { since } => clock::now().since(since),
        _ => 0,
    };
    let label = instance.label();
    let mut cause = diagnose(&Findings {
        instance: &label,
        state: instance.state,
        port: instance.port,
        listening: &listening,
        probe: probe.as_deref(),
        check: check.as_deref(),
        waited_ms,
        memory_bytes: limits,
    });
    cause.log_tail = log_tail(core, &instance).await;
    cause
}

pub(crate) async fn log_tail(core: &Core, instance: &Instance) -> Vec<String> {
    let reader = core.logs.reader(&instance.app);
    let filter = Filter { instance: Some(instance.id.clone()), ..Filter::default() };
    let read = tokio::task::spawn_blocking(move || {
        let end = reader.end()?;
        reader.last(TAIL, &filter, end)
    });
    let lines = read.await.ok().and_then(Result::ok).unwrap_or_default();
    lines.into_iter().map(|(_, record)| record.text).collect()
}
