//! The fake as a [`Builder`], and its pulls.

use futures_util::{StreamExt, stream};

use super::{Built, Call, FakeRuntime};
use crate::ports::{
    BuildSpec, Builder, Fut, ImageInfo, Items, LimitFound, Progress, RuntimeError,
    RuntimeErrorKind, RuntimeResult,
};

impl Builder for FakeRuntime {
    fn build(&self, spec: BuildSpec) -> Items<RuntimeResult<Progress>> {
        let fake = self.clone();
        one_after_the_other(async move {
            let mut running = Running::begin(&fake, &spec);
            let BuildSpec { app, deployment, mut context, .. } = spec;
            while let Some(piece) = context.next().await {
                match piece {
                    Ok(bytes) => running.read(bytes.len() as u64),
                    Err(error) => {
                        running.ended = true;
                        let message = format!("the source of the build could not be read: {error}");
                        return Err(RuntimeError::new(RuntimeErrorKind::Other, message));
                    }
                }
            }
            let steps = fake
                .call(Call::Build, |state| {
                    let mut image = ImageInfo { built: true, ..state.build_image.clone() };
                    image.id = format!("sha256:{}", blake3::hash(deployment.as_str().as_bytes()));
                    let mut steps: Vec<Progress> =
                        state.build_lines.iter().cloned().map(Progress::Line).collect();
                    steps.push(Progress::Image(image.id.clone()));
                    state.add_image(&format!("mini-fake/{app}:{deployment}"), image, true);
                    Ok(steps)
                })
                .await;
            running.ended = true;
            steps
        })
    }

    fn keep_limit(&self) -> Fut<'_, Result<LimitFound, String>> {
        Box::pin(std::future::ready(Ok(LimitFound::NoLimit)))
    }
}

pub(super) fn pull(fake: FakeRuntime, reference: String) -> Items<RuntimeResult<Progress>> {
    one_after_the_other(async move {
        fake.call(Call::Pull, |state| {
            let Some(image) = state.registry.get(&reference).cloned() else {
                let message = format!("the registry has no image {reference}");
                return Err(RuntimeError::new(RuntimeErrorKind::NotFound, message));
            };
            let id = image.id.clone();
            state.add_image(&reference, image, false);
            Ok(vec![Progress::Line(format!("Pulling {reference}")), Progress::Image(id)])
        })
        .await
    })
}

/// A stream of what `steps` comes to.
fn one_after_the_other(
    steps: impl Future<Output = RuntimeResult<Vec<Progress>>> + Send + 'static,
) -> Items<RuntimeResult<Progress>> {
    let items = stream::once(steps).flat_map(|outcome| match outcome {
        Ok(steps) => stream::iter(steps).map(Ok).left_stream(),
        Err(error) => stream::once(std::future::ready(Err(error))).right_stream(),
    });
    Box::pin(items)
}

/// Notes a build, and that it was cancelled if it is dropped before its end.
struct Running {
    fake: FakeRuntime,
    place: usize,
    ended: bool,
}

impl Running {
    fn begin(fake: &FakeRuntime, spec: &BuildSpec) -> Self {
        let mut state = fake.lock();
        state.builds.push(Built {
            app: spec.app.clone(),
            deployment: spec.deployment.clone(),
            dockerfile: spec.dockerfile.clone(),
            use_cache: spec.use_cache,
            context_bytes: 0,
            cancelled: false,
        });
        Self { fake: fake.clone(), place: state.builds.len() - 1, ended: false }
    }

    fn read(&mut self, bytes: u64) {
        if let Some(built) = self.fake.lock().builds.get_mut(self.place) {
            built.context_bytes += bytes;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended
            && let Some(built) = self.fake.lock().builds.get_mut(self.place)
        {
            built.cancelled = true;
        }
    }
}
