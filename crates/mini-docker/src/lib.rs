//! `Runtime` and `Builder` on the Docker Engine API, from API 1.41 on; the only user of bollard.
//!
//! An instance is a labelled container, an app's network a labelled bridge, and labels are the
//! only truth: nothing is remembered here but short-cuts that can be lost. [`labels`] says what
//! is written on the engine's objects, [`raw`] carries the streams (events, logs, builds) that
//! need more control than bollard gives, and everything else goes through bollard's typed calls,
//! each under a deadline.

mod archive;
mod build;
mod changes;
mod engine;
mod error;
mod host;
mod image;
mod instance;
mod labels;
mod listen;
mod logs;
mod network;
mod raw;
mod seen;
mod session;
mod stats;
mod volume;

use std::collections::BTreeMap;

use mini_core::id::{InstanceId, ServerId};
use mini_core::name::AppName;
use mini_core::ports::{
    BuildSpec, Builder, Change, EngineInfo, ExecSpec, Fut, ImageInfo, Instance, InstanceSpec,
    Items, LimitFound, Listening, NetworkSpec, Output, Progress, Runtime, RuntimeResult, Session,
    SessionInput, Stats, TerminalSize, VolumeSpec,
};
use mini_core::subnet::Subnet;

pub use build::Steps;
pub use engine::Docker;
pub use host::host_routes;
pub use labels::bridge_prefix;

/// Which engine, and whose objects on it.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Whose objects are ours: the value of the label `mini.server`.
    pub server: ServerId,
    /// `DOCKER_HOST` as Docker's own client reads it; `None` is that variable of our own
    /// environment, else `unix:///var/run/docker.sock`.
    pub host: Option<String>,
    /// The memory limit in bytes of an instance whose spec names none.
    pub default_memory_bytes: Option<u64>,
}

impl Runtime for Docker {
    fn info(&self) -> Fut<'_, RuntimeResult<EngineInfo>> {
        Box::pin(self.engine_info())
    }

    fn ensure_network(&self, network: NetworkSpec) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.make_network(network))
    }

    fn remove_network(&self, app: AppName) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.drop_network(app))
    }

    fn networks(&self) -> Fut<'_, RuntimeResult<Vec<AppName>>> {
        Box::pin(self.apps_with_network())
    }

    fn subnets_in_use(&self) -> Fut<'_, RuntimeResult<Vec<Subnet>>> {
        Box::pin(self.every_subnet())
    }

    fn ensure_volume(&self, volume: VolumeSpec) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.make_volume(volume))
    }

    fn remove_volume(&self, engine_name: String) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.drop_volume(engine_name))
    }

    fn volumes(&self) -> Fut<'_, RuntimeResult<Vec<String>>> {
        Box::pin(self.our_volumes())
    }

    fn start(&self, spec: InstanceSpec) -> Fut<'_, RuntimeResult<Instance>> {
        Box::pin(self.create_and_start(spec))
    }

    fn start_again(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Instance>> {
        Box::pin(self.start_existing(id))
    }

    fn stop(&self, id: InstanceId, grace_ms: u64) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.stop_instance(id, grace_ms))
    }

    fn remove(&self, id: InstanceId) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.remove_instance(id))
    }

    fn observe(&self) -> Fut<'_, RuntimeResult<Vec<Instance>>> {
        Box::pin(self.see_all())
    }

    fn observe_one(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Option<Instance>>> {
        Box::pin(self.see_one(id))
    }

    fn changes(&self) -> Items<Change> {
        changes::changes(self.clone())
    }

    fn logs(
        &self,
        id: InstanceId,
        since_nanos: Option<i64>,
        follow: bool,
    ) -> Items<RuntimeResult<Output>> {
        logs::logs(self.clone(), id, since_nanos, follow)
    }

    fn exec(
        &self,
        id: InstanceId,
        spec: ExecSpec,
        input: Items<SessionInput>,
    ) -> Fut<'_, RuntimeResult<Session>> {
        Box::pin(self.exec_in(id, spec, input))
    }

    fn run(
        &self,
        spec: InstanceSpec,
        terminal: Option<TerminalSize>,
        input: Items<SessionInput>,
    ) -> Fut<'_, RuntimeResult<(Instance, Session)>> {
        Box::pin(self.run_attached(spec, terminal, input))
    }

    fn listening(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Listening>> {
        Box::pin(self.where_it_listens(id))
    }

    fn stats(&self, ids: Vec<InstanceId>) -> Fut<'_, RuntimeResult<BTreeMap<InstanceId, Stats>>> {
        Box::pin(self.stats_of(ids))
    }

    fn image(&self, reference: String) -> Fut<'_, RuntimeResult<Option<ImageInfo>>> {
        Box::pin(self.image_info(reference))
    }

    fn pull(&self, reference: String) -> Items<RuntimeResult<Progress>> {
        image::pull(self.clone(), reference)
    }

    fn remove_image(&self, id: String) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.drop_image(id))
    }

    fn images(&self) -> Fut<'_, RuntimeResult<Vec<String>>> {
        Box::pin(self.built_images())
    }
}

impl Builder for Docker {
    fn build(&self, spec: BuildSpec) -> Items<RuntimeResult<Progress>> {
        build::build(self.clone(), spec)
    }

    fn keep_limit(&self) -> Fut<'_, Result<LimitFound, String>> {
        Box::pin(Docker::keep_limit(self))
    }
}
