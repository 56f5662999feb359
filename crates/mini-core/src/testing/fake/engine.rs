//! The fake as a [`Runtime`].

use std::collections::BTreeMap;

use super::{Call, FakeRuntime, session, streams};
use crate::id::InstanceId;
use crate::name::AppName;
use crate::ports::{
    Change, EngineInfo, ExecSpec, Fut, ImageInfo, Instance, InstanceSpec, Items, Listening,
    NetworkSpec, Output, Progress, Runtime, RuntimeResult, Session, SessionInput, Stats,
    TerminalSize, VolumeSpec,
};
use crate::subnet::Subnet;

impl Runtime for FakeRuntime {
    fn info(&self) -> Fut<'_, RuntimeResult<EngineInfo>> {
        Box::pin(self.call(Call::Info, |state| Ok(state.info.clone())))
    }

    fn ensure_network(&self, network: NetworkSpec) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::EnsureNetwork, |state| state.ensure_network(network)))
    }

    fn remove_network(&self, app: AppName) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::RemoveNetwork, move |state| {
            state.networks.remove(&app);
            Ok(())
        }))
    }

    fn networks(&self) -> Fut<'_, RuntimeResult<Vec<AppName>>> {
        Box::pin(self.call(Call::Networks, |state| Ok(state.networks.keys().cloned().collect())))
    }

    fn subnets_in_use(&self) -> Fut<'_, RuntimeResult<Vec<Subnet>>> {
        Box::pin(self.call(Call::SubnetsInUse, |state| {
            Ok(state.networks.values().chain(&state.foreign_networks).copied().collect())
        }))
    }

    fn ensure_volume(&self, volume: VolumeSpec) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::EnsureVolume, move |state| {
            state.volumes.insert(volume.engine_name);
            Ok(())
        }))
    }

    fn remove_volume(&self, engine_name: String) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::RemoveVolume, move |state| state.remove_volume(&engine_name)))
    }

    fn volumes(&self) -> Fut<'_, RuntimeResult<Vec<String>>> {
        Box::pin(self.call(Call::Volumes, |state| Ok(state.volumes.iter().cloned().collect())))
    }

    fn start(&self, spec: InstanceSpec) -> Fut<'_, RuntimeResult<Instance>> {
        Box::pin(self.call(Call::Start, |state| state.start(spec)))
    }

    fn start_again(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Instance>> {
        Box::pin(self.call(Call::StartAgain, move |state| state.start_again(&id)))
    }

    fn stop(&self, id: InstanceId, _grace_ms: u64) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::Stop, move |state| {
            // SIGTERM, passed on by init to a program that does not handle it.
            state.exit(&id, 143, false);
            Ok(())
        }))
    }

    fn remove(&self, id: InstanceId) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::Remove, move |state| {
            state.exit(&id, 137, false);
            state.vanish(&id);
            Ok(())
        }))
    }

    fn observe(&self) -> Fut<'_, RuntimeResult<Vec<Instance>>> {
        Box::pin(self.call(Call::Observe, |state| Ok(state.all())))
    }

    fn observe_one(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Option<Instance>>> {
        Box::pin(self.call(Call::ObserveOne, move |state| {
            Ok(state.instances.get(&id).map(super::state::Container::instance))
        }))
    }

    fn changes(&self) -> Items<Change> {
        streams::changes(self.clone())
    }

    fn logs(
        &self,
        id: InstanceId,
        since_nanos: Option<i64>,
        follow: bool,
    ) -> Items<RuntimeResult<Output>> {
        streams::logs(self.clone(), id, since_nanos, follow)
    }

    fn exec(
        &self,
        id: InstanceId,
        spec: ExecSpec,
        input: Items<SessionInput>,
    ) -> Fut<'_, RuntimeResult<Session>> {
        Box::pin(session::exec(self, id, spec, input))
    }

    fn run(
        &self,
        spec: InstanceSpec,
        terminal: Option<TerminalSize>,
        input: Items<SessionInput>,
    ) -> Fut<'_, RuntimeResult<(Instance, Session)>> {
        Box::pin(session::run(self, spec, terminal, input))
    }

    fn listening(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Listening>> {
        Box::pin(self.call(Call::Listening, move |state| state.listens(&id)))
    }

    fn stats(&self, ids: Vec<InstanceId>) -> Fut<'_, RuntimeResult<BTreeMap<InstanceId, Stats>>> {
        Box::pin(self.call(Call::Stats, move |state| {
            let up = ids.into_iter().filter(|id| state.is_up(id));
            Ok(up.map(|id| (id.clone(), state.uses(&id))).collect())
        }))
    }

    fn image(&self, reference: String) -> Fut<'_, RuntimeResult<Option<ImageInfo>>> {
        Box::pin(self.call(Call::Image, move |state| Ok(state.image(&reference).cloned())))
    }

    fn pull(&self, reference: String) -> Items<RuntimeResult<Progress>> {
        super::build::pull(self.clone(), reference)
    }

    fn remove_image(&self, id: String) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.call(Call::RemoveImage, move |state| state.remove_image(&id)))
    }

    fn images(&self) -> Fut<'_, RuntimeResult<Vec<String>>> {
        Box::pin(self.call(Call::Images, |state| {
            let ours = state.images.iter().filter(|(_, image)| image.built_here);
            Ok(ours.map(|(id, _)| id.clone()).collect())
        }))
    }
}
