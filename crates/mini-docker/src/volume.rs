//! Volumes: labelled, and touched only if the label says that they are ours.

use bollard::models::{Mount as EngineMount, MountType, VolumeCreateRequest, VolumeListResponse};
use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptions};
use mini_core::ports::{RuntimeError, RuntimeErrorKind, RuntimeResult, VolumeSpec};
use mini_core::release::Mount;

use crate::engine::{Docker, LOOK, MAKE};
use crate::labels;

fn words(engine_name: &str) -> String {
    format!("the volume {engine_name}")
}

/// How an instance finds its volumes.
pub(crate) fn mounts(volumes: &[Mount]) -> Vec<EngineMount> {
    let mount = |volume: &Mount| EngineMount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.engine_name.clone()),
        target: Some(volume.path.clone()),
        ..Default::default()
    };
    volumes.iter().map(mount).collect()
}

impl Docker {
    pub(crate) async fn make_volume(&self, spec: VolumeSpec) -> RuntimeResult<()> {
        let what = words(&spec.engine_name);
        if self.volume_is_ours(&what, &spec.engine_name).await?.is_some() {
            return Ok(());
        }
        let request = VolumeCreateRequest {
            name: Some(spec.engine_name.clone()),
            labels: Some(labels::of_volume(self.server(), &spec.app)),
            ..Default::default()
        };
        self.call(&what, MAKE, |api| api.create_volume(request)).await?;
        Ok(())
    }

    /// The engine would make a missing one by itself, without a label: then nobody owned it.
    pub(crate) async fn volumes_are_there(&self, volumes: &[Mount]) -> RuntimeResult<()> {
        for volume in volumes {
            let what = words(&volume.engine_name);
            if self.volume_is_ours(&what, &volume.engine_name).await?.is_none() {
                return Err(RuntimeError::new(
                    RuntimeErrorKind::NotFound,
                    format!("{what} is not there"),
                ));
            }
        }
        Ok(())
    }

    pub(crate) async fn drop_volume(&self, engine_name: String) -> RuntimeResult<()> {
        let what = words(&engine_name);
        if self.volume_is_ours(&what, &engine_name).await?.is_none() {
            return Ok(());
        }
        let removed = self
            .call(&what, MAKE, |api| api.remove_volume(&engine_name, None::<RemoveVolumeOptions>))
            .await;
        match removed {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn our_volumes(&self) -> RuntimeResult<Vec<String>> {
        let filters = labels::filters(self.server(), labels::KIND_VOLUME, &[]);
        let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
        let VolumeListResponse { volumes, .. } =
            self.call("the apps' volumes", LOOK, |api| api.list_volumes(Some(options))).await?;
        Ok(volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// `None` when there is none of that name; `Conflict` when it is somebody else's.
    async fn volume_is_ours(&self, what: &str, engine_name: &str) -> RuntimeResult<Option<()>> {
        match self.call(what, LOOK, |api| api.inspect_volume(engine_name)).await {
            Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(found) if labels::is_ours(&found.labels, self.server(), labels::KIND_VOLUME) => {
                Ok(Some(()))
            }
            Ok(_) => Err(RuntimeError::new(
                RuntimeErrorKind::Conflict,
                format!("{what} is there and belongs to another"),
            )),
        }
    }
}
