//! Restoring a backup onto an empty machine.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use mini_core::name::AppName;
use mini_core::ports::{Archives, Items, Runtime, RuntimeResult, VolumeSpec};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{BackupError, DATABASE, Manifest, RESTORED, blocking, check, read};
use crate::clock;
use crate::store;

/// What is handed to the engine at a time.
const CHUNK: usize = 256 << 10;

/// What was put in place.
#[derive(Debug)]
pub struct Restored {
    pub manifest: Manifest,
}

/// An engine of this server's, for a restore.
pub trait Engine: Runtime + Archives {}
impl<T: Runtime + Archives> Engine for T {}

/// Puts a backup in place: the data folder, which must be empty, the volumes and the images. The
/// controller that is started on it makes the images that are missing, and starts every app.
///
/// All is checked before anything is touched. The folder becomes a server's by its last step: a
/// restore that failed before can be done again, `force` then removes the volumes it made.
///
/// # Errors
/// If the folder holds data, the backup is not good, or the engine has instances or volumes of
/// this server and `force` is not set.
pub async fn restore<E: Engine>(
    data_dir: PathBuf,
    file: PathBuf,
    force: bool,
    connect: impl FnOnce(mini_core::id::ServerId) -> RuntimeResult<Arc<E>> + Send + 'static,
) -> Result<Restored, BackupError> {
    let handle = Handle::current();
    blocking(move || {
        make_empty(&data_dir)?;
        let scratch = read::Scratch::make(&data_dir.join(SCRATCH))?;
        let manifest = read::unpack(&file, scratch.path())?;
        check::folder(scratch.path(), &manifest)?;
        let server = manifest
            .origin
            .server
            .parse()
            .map_err(|e| BackupError::Damaged(format!("the server's id: {e}")))?;
        let engine = connect(server)?;
        handle.block_on(make_room(&*engine, &manifest, force))?;
        fill(&file, &manifest, &engine, &handle)?;
        {
            let c = store::open_to_restore(&scratch.path().join(DATABASE))?;
            store::set_meta(&c, RESTORED, &clock::now().0.to_string())?;
        }
        put_in_place(scratch.path(), &data_dir)?;
        Ok(Restored { manifest })
    })
    .await
}

/// Inside the data folder, which may be a mount of its own: from there a rename is one step.
const SCRATCH: &str = ".restoring";

/// The folder is there and has nothing in it but what an interrupted restore left.
fn make_empty(folder: &Path) -> Result<(), BackupError> {
    let failed = |e| BackupError::file(folder, e);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != SCRATCH && name != "lost+found" {
            return Err(BackupError::NotEmpty(folder.to_owned()));
        }
    }
    Ok(())
}

/// Nothing of this server may be on the engine: two controllers would fight over it.
async fn make_room<E: Engine>(
    engine: &E,
    manifest: &Manifest,
    force: bool,
) -> Result<(), BackupError> {
    let there = engine.observe().await?;
    let running = there.iter().filter(|i| i.state.is_running()).count();
    if running > 0 && !force {
        return Err(BackupError::Alive(running));
    }
    let volumes = engine.volumes().await?;
    let ours = manifest.volumes.iter().find(|v| volumes.contains(&v.engine_name));
    if let Some(volume) = ours.filter(|_| !force) {
        return Err(BackupError::VolumeThere(volume.engine_name.clone()));
    }
    if force {
        for instance in there {
            engine.remove(instance.id).await?;
        }
        for volume in &manifest.volumes {
            engine.remove_volume(volume.engine_name.clone()).await?;
        }
    }
    Ok(())
}

/// One archive on its way to the engine.
struct Filling {
    folder: String,
    sender: mpsc::Sender<io::Result<Bytes>>,
    task: JoinHandle<RuntimeResult<()>>,
}

impl Filling {
    fn begin<E: Engine>(
        folder: &str,
        manifest: &Manifest,
        engine: &Arc<E>,
        handle: &Handle,
    ) -> Result<Self, BackupError> {
        let (sender, receiver) = mpsc::channel(8);
        let tar: Items<io::Result<Bytes>> =
            Box::pin(stream::unfold(receiver, |mut r| async move {
                let item: io::Result<Bytes> = r.recv().await?;
                Some((item, r))
            }));
        let engine = engine.clone();
        let task = match folder.strip_prefix("volumes/") {
            None => handle.spawn(async move { engine.load_images(tar).await }),
            Some(name) => {
                let volume = manifest.volumes.iter().find(|v| v.engine_name == name);
                let volume = volume.ok_or_else(|| {
                    BackupError::Damaged(format!("its manifest does not know the volume {name}"))
                })?;
                let app: AppName = volume.app.parse().map_err(|e| {
                    BackupError::Damaged(format!("the app of the volume {name}: {e}"))
                })?;
                let spec = VolumeSpec { app, engine_name: name.to_owned() };
                handle.spawn(async move { engine.fill_volume(spec, tar).await })
            }
        };
        Ok(Self { folder: folder.to_owned(), sender, task })
    }

    /// Everything was given: waits until the engine has taken it.
    fn end(self, handle: &Handle) -> Result<(), BackupError> {
        drop(self.sender);
        match handle.block_on(self.task) {
            Ok(done) => Ok(done?),
            Err(error) => Err(BackupError::Damaged(error.to_string())),
        }
    }
}

/// Reads the backup again, and gives the engine what is the engine's.
fn fill<E: Engine>(
    file: &Path,
    manifest: &Manifest,
    engine: &Arc<E>,
    handle: &Handle,
) -> Result<(), BackupError> {
    let mut filling: Option<Filling> = None;
    read::each(file, &mut |name, content| {
        let folder = match name.rsplit_once('/') {
            Some((folder, _)) if folder == "images" || folder.starts_with("volumes/") => folder,
            _ => return Ok(()),
        };
        if filling.as_ref().is_some_and(|f| f.folder != folder)
            && let Some(done) = filling.take()
        {
            done.end(handle)?;
        }
        let now = match &filling {
            Some(now) => now,
            None => filling.insert(Filling::begin(folder, manifest, engine, handle)?),
        };
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = content.read(&mut buffer);
            let read = read.map_err(|e| BackupError::Damaged(e.to_string()))?;
            if read == 0 {
                return Ok(());
            }
            let chunk = Bytes::copy_from_slice(&buffer[..read]);
            if now.sender.blocking_send(Ok(chunk)).is_err() {
                // The engine took no more; its answer says why, or that it had enough.
                return Ok(());
            }
        }
    })?;
    filling.map_or(Ok(()), |last| last.end(handle))
}

/// The database comes last: without it the folder is no server's.
fn put_in_place(scratch: &Path, folder: &Path) -> Result<(), BackupError> {
    let failed = |e| BackupError::file(folder, e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(scratch).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name());
    }
    names.sort_by_key(|name| name == DATABASE);
    for name in names {
        std::fs::rename(scratch.join(&name), folder.join(&name)).map_err(failed)?;
    }
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(failed)
}
