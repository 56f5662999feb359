//! Volumes and images as archives, for backups.
//!
//! The engine reads and fills a volume through a container that has it mounted and is never
//! started (`GET` and `PUT /containers/ID/archive`). Its image is empty and of our own making, so
//! nothing is pulled and nothing runs. Container and image go when it is done; what a killed
//! process left is taken away by the next one, since the names are the same.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use mini_core::ports::{
    Archive, Archives, Fut, Items, RuntimeError, RuntimeErrorKind, RuntimeResult, VolumeSpec,
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::engine::{Docker, MAKE};
use crate::labels;
use crate::raw::{self, Query};

/// What the helper's objects are marked with beside the owner.
const KIND_HELPER: &str = "helper";
/// Where the helper has the volume.
const PLACE: &str = "/volume";
/// An archive without entries (POSIX.1-2017, pax, "ustar Interchange Format": two zero blocks).
const EMPTY_TAR: [u8; 1024] = [0; 1024];
/// How long the engine may think before the first byte of an archive.
const BEGIN: Duration = Duration::from_secs(300);
/// Chunks that lie between the engine and whoever reads.
const AHEAD: usize = 8;

/// A container that has one volume, and its image.
struct Helper {
    docker: Docker,
    container: String,
    image: String,
}

impl Helper {
    async fn make(docker: &Docker, engine_name: &str, writable: bool) -> RuntimeResult<Self> {
        let name = format!("mini-{}-helper-{engine_name}", docker.server().short());
        let repository = format!("{}helper", labels::image_prefix(docker.server()));
        let image = format!("{repository}:{engine_name}");
        let helper = Self { docker: docker.clone(), container: name, image };
        helper.remove().await;
        let (key, value) = mini_core::ports::owner_label(docker.server());
        let what = "the helper of a volume";
        let import = Query::new(&["images", "create"])
            .with("fromSrc", "-")
            .with("repo", &repository)
            .with("tag", engine_name)
            .with("changes", &format!("LABEL {key}={value} {}={KIND_HELPER}", labels::KIND));
        let empty: Items<std::io::Result<Bytes>> =
            Box::pin(stream::iter([Ok(Bytes::from_static(&EMPTY_TAR))]));
        let request = raw::request(Method::POST, import.target(), raw::streamed(empty));
        let answer = docker.inner.raw.send(what, request).await?.checked(what).await?;
        finish(answer.lines(what)).await?;
        let create = Query::new(&["containers", "create"]).with("name", &helper.container);
        let body = json!({
            "Image": helper.image,
            // Never started; the engine wants a command all the same.
            "Cmd": ["/none"],
            "Labels": { &key: &value, labels::KIND: KIND_HELPER },
            "NetworkDisabled": true,
            "HostConfig": { "NetworkMode": "none", "Mounts": [{
                "Type": "volume", "Source": engine_name, "Target": PLACE, "ReadOnly": !writable,
            }]},
        });
        let made = docker
            .inner
            .raw
            .json(what, Method::POST, create.target(), Some(body.to_string()), MAKE)
            .await;
        match made {
            Ok(_) => Ok(helper),
            Err(error) => {
                helper.remove().await;
                Err(error)
            }
        }
    }

    /// Takes both away; what is not there is well.
    async fn remove(&self) {
        let raw = &self.docker.inner.raw;
        let what = "the helper of a volume";
        let container = Query::new(&["containers", &self.container]).with("force", "1");
        let _ = raw.json(what, Method::DELETE, container.target(), None, MAKE).await;
        // A name is a path here: its slash is not encoded.
        let target = format!("/images/{}", self.image);
        let _ = raw.json(what, Method::DELETE, &target, None, MAKE).await;
    }
}

/// Reads progress to its end; an error in it is the call's.
async fn finish(mut lines: raw::Lines) -> RuntimeResult<()> {
    while let Some(line) = lines.next().await? {
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
        if let Some(said) = value.get("error").and_then(|error| error.as_str()) {
            return Err(crate::error::from_answer("the archive", 500, said));
        }
    }
    Ok(())
}

/// What `work` sends, as a stream.
fn channel<F>(work: impl FnOnce(mpsc::Sender<RuntimeResult<Bytes>>) -> F) -> Archive
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(work(sender));
    Box::pin(stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    }))
}

async fn pass_on(
    docker: &Docker,
    what: &str,
    target: &str,
    sender: &mpsc::Sender<RuntimeResult<Bytes>>,
) -> RuntimeResult<()> {
    let mut chunks = docker.inner.raw.get(what, target, BEGIN).await?.chunks(what);
    while let Some(chunk) = chunks.next().await? {
        if sender.send(Ok(chunk)).await.is_err() {
            break;
        }
    }
    Ok(())
}

impl Docker {
    async fn read_into(
        &self,
        engine_name: &str,
        sender: &mpsc::Sender<RuntimeResult<Bytes>>,
    ) -> RuntimeResult<()> {
        let what = format!("the volume {engine_name}");
        if !self.our_volumes().await?.iter().any(|name| name == engine_name) {
            let message = format!("{what} is not there");
            return Err(RuntimeError::new(RuntimeErrorKind::NotFound, message));
        }
        let helper = Helper::make(self, engine_name, false).await?;
        let query = Query::new(&["containers", &helper.container, "archive"]).with("path", PLACE);
        let read = pass_on(self, &what, query.target(), sender).await;
        helper.remove().await;
        read
    }

    async fn fill(
        &self,
        volume: VolumeSpec,
        tar: Items<std::io::Result<Bytes>>,
    ) -> RuntimeResult<()> {
        let name = volume.engine_name.clone();
        let what = format!("the volume {name}");
        if self.our_volumes().await?.contains(&name) {
            let message = format!("{what} is there already");
            return Err(RuntimeError::new(RuntimeErrorKind::Conflict, message));
        }
        self.make_volume(volume).await?;
        let helper = Helper::make(self, &name, true).await?;
        let query = Query::new(&["containers", &helper.container, "archive"]).with("path", "/");
        let request = raw::request(Method::PUT, query.target(), raw::streamed(tar));
        let filled = match self.inner.raw.send(&what, request).await {
            Ok(answer) => answer.checked(&what).await.map(drop),
            Err(error) => Err(error),
        };
        helper.remove().await;
        if filled.is_err() {
            // Half a volume would be taken for a whole one.
            let _ = self.drop_volume(name).await;
        }
        filled
    }

    /// Each image by a tag of ours, which is saved with it, else by its id.
    async fn save_into(
        &self,
        ids: Vec<String>,
        sender: &mpsc::Sender<RuntimeResult<Bytes>>,
    ) -> RuntimeResult<()> {
        let mut query = Query::new(&["images", "get"]);
        for id in ids {
            let tags = self.tags_of_ours(&id).await?;
            for name in if tags.is_empty() { vec![id] } else { tags } {
                query = query.with("names", &name);
            }
        }
        pass_on(self, "the images", query.target(), sender).await
    }
}

impl Archives for Docker {
    fn read_volume(&self, engine_name: String) -> Archive {
        let docker = self.clone();
        channel(|sender| async move {
            if let Err(error) = docker.read_into(&engine_name, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        })
    }

    fn fill_volume(
        &self,
        volume: VolumeSpec,
        tar: Items<std::io::Result<Bytes>>,
    ) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(self.fill(volume, tar))
    }

    fn save_images(&self, ids: Vec<String>) -> Archive {
        let docker = self.clone();
        channel(|sender| async move {
            if let Err(error) = docker.save_into(ids, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        })
    }

    fn load_images(&self, tar: Items<std::io::Result<Bytes>>) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(async move {
            let what = "the images";
            let target = Query::new(&["images", "load"]).with("quiet", "1");
            let mut request = raw::request(Method::POST, target.target(), raw::streamed(tar));
            let kind = http::HeaderValue::from_static("application/x-tar");
            request.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            let answer = self.inner.raw.send(what, request).await?.checked(what).await?;
            finish(answer.lines(what)).await
        })
    }
}
