//! What instances use: the kernel's own counters, read from the control groups where the engine
//! is on this machine. The engine's answer to the same question takes up to a second.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::{StreamExt, stream};
use mini_core::id::InstanceId;
use mini_core::ports::{RuntimeResult, Stats};

use crate::engine::Docker;
use crate::labels;

const AT_ONCE: usize = 16;
/// How long one instance's figures are waited for: while a container ends, the engine lets those
/// who ask about it wait.
const EACH: Duration = Duration::from_millis(1500);
const ROOT: &str = "/sys/fs/cgroup";

impl Docker {
    /// Those that do not run, or cannot be read, are left out.
    pub(crate) async fn stats_of(
        &self,
        ids: Vec<InstanceId>,
    ) -> RuntimeResult<BTreeMap<InstanceId, Stats>> {
        let found = stream::iter(ids)
            .map(|id| async move {
                let stats = tokio::time::timeout(EACH, self.stats_of_one(&id)).await;
                stats.unwrap_or(Ok(None)).map(|stats| stats.map(|stats| (id, stats)))
            })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let (mut all, mut trouble) = (BTreeMap::new(), None);
        for one in found {
            match one {
                Ok(stats) => all.extend(stats),
                Err(error) => trouble = Some(error),
            }
        }
        // One that is about to end must not hide the others.
        match trouble {
            Some(error) if all.is_empty() => Err(error),
            Some(error) => {
                tracing::debug!(%error, "what one instance uses is not known");
                Ok(all)
            }
            None => Ok(all),
        }
    }

    async fn stats_of_one(&self, id: &InstanceId) -> RuntimeResult<Option<Stats>> {
        let what = labels::instance_words(id);
        let what = what.as_str();
        let stats = self.on_container(id, |container| async move {
            let found = self.inspect(what, &container).await?;
            let pid = found.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
            let Some(pid) = pid else { return Ok(None) };
            match counters(pid, &container).await {
                Some(stats) => Ok(Some(stats)),
                None => Ok(self.asked(what, &container).await),
            }
        });
        Ok(stats.await?.flatten())
    }

    /// The engine's own answer, where the kernel's files are not ours to read.
    async fn asked(&self, what: &str, container: &str) -> Option<Stats> {
        let asked = self.call(what, EACH, |api| {
            let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
            let mut answers = Box::pin(api.stats(container, Some(options)));
            async move { answers.next().await.transpose() }
        });
        match asked.await {
            Ok(answer) => answer.as_ref().and_then(from_engine),
            Err(error) => {
                tracing::debug!(%error, what, "the engine does not say what it uses");
                None
            }
        }
    }
}

fn from_engine(answer: &ContainerStatsResponse) -> Option<Stats> {
    let ContainerMemoryStats { usage, stats, .. } = answer.memory_stats.as_ref()?;
    let stats = stats.as_ref();
    let cache = stats.and_then(|s| s.get("total_inactive_file").or(s.get("inactive_file")));
    let cpu = answer.cpu_stats.as_ref()?.cpu_usage.as_ref()?.total_usage?;
    Some(Stats {
        memory_bytes: usage.as_ref()?.saturating_sub(cache.copied().unwrap_or(0)),
        cpu_nanos: cpu,
    })
}

/// The counters of a container's control group, where its first process is in our view.
async fn counters(pid: i64, container: &str) -> Option<Stats> {
    let groups = read(format!("/proc/{pid}/cgroup").into()).await?;
    // Where the engine counts processes in another way the number is somebody else's.
    if !groups.contains(container) {
        return None;
    }
    let place = places(&groups);
    let (used, detail, key) = match &place.memory {
        Some(group) => {
            let folder = folder(&format!("{ROOT}/memory"), group);
            (
                folder.join("memory.usage_in_bytes"),
                folder.join("memory.stat"),
                "total_inactive_file",
            )
        }
        None => {
            let folder = folder(ROOT, place.unified.as_deref()?);
            (folder.join("memory.current"), folder.join("memory.stat"), "inactive_file")
        }
    };
    let used: u64 = read(used).await?.trim().parse().ok()?;
    // As the engine's client counts: pages of files that would be given back at once are no use.
    let cache = field(&read(detail).await?, key).unwrap_or(0);
    let cpu_nanos = match &place.cpuacct {
        Some(group) => {
            let file = folder(&format!("{ROOT}/cpuacct"), group).join("cpuacct.usage");
            read(file).await?.trim().parse().ok()?
        }
        None => {
            let file = folder(ROOT, place.unified.as_deref()?).join("cpu.stat");
            field(&read(file).await?, "usage_usec")?.checked_mul(1000)?
        }
    };
    Some(Stats { memory_bytes: used.saturating_sub(cache), cpu_nanos })
}

async fn read(path: PathBuf) -> Option<String> {
    tokio::fs::read_to_string(path).await.ok()
}

fn folder(root: &str, group: &str) -> PathBuf {
    PathBuf::from(format!("{root}{group}"))
}

/// Where a process is in each hierarchy that counts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    memory: Option<String>,
    cpuacct: Option<String>,
    unified: Option<String>,
}

/// Reads `/proc/PID/cgroup` (cgroups(7)): `4:memory:/docker/ID` of version 1, `0::/…` of version 2.
/// A path out of our own view (`/../…`) and the root, which is everybody's, are of no use.
fn places(text: &str) -> Places {
    let mut places = Places::default();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        if group == "/" || group.split('/').any(|part| part == "..") {
            continue;
        }
        if controllers.is_empty() {
            places.unified = Some(group.to_owned());
        }
        for controller in controllers.split(',') {
            match controller {
                "memory" => places.memory = Some(group.to_owned()),
                "cpuacct" => places.cpuacct = Some(group.to_owned()),
                _ => {}
            }
        }
    }
    places
}

/// `KEY NUMBER`, a line of a flat keyed file.
fn field(text: &str, key: &str) -> Option<u64> {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let first =
            places("9:name=systemd:/docker/a\n4:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n0::/\n");
        let group = Some("/docker/a".to_owned());
        assert_eq!(first, Places { memory: group.clone(), cpuacct: group, unified: None });
        let second = places("0::/system.slice/docker-a.scope\n");
        assert_eq!(second.unified.as_deref(), Some("/system.slice/docker-a.scope"));
        assert_eq!(places("0::/../../docker/a\n4:memory:/\nnothing\n"), Places::default());
        let stat = "usage_usec 1234\nuser_usec 1000\ninactive_file 4096\n";
        assert_eq!((field(stat, "usage_usec"), field(stat, "usec")), (Some(1234), None));
    }
}
