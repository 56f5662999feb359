use std::io::{Read, Write};
use std::sync::Mutex;

use futures_util::{StreamExt, stream};
use mini_core::ports::{
    Archive, Archives, Fut, Items, RuntimeError, RuntimeErrorKind, RuntimeResult, VolumeSpec,
};

use super::*;
use crate::DataFolder;
use crate::store;

/// An engine with one volume, of more than one part.
#[derive(Default)]
struct OneVolume(Mutex<Vec<u8>>);

const VOLUME: &str = "mini-blue-data";

impl Archives for OneVolume {
    fn read_volume(&self, engine_name: String) -> Archive {
        if engine_name != VOLUME {
            let gone = RuntimeError::new(RuntimeErrorKind::NotFound, "it is not there");
            return Box::pin(stream::iter([Err(gone)]));
        }
        let chunk = |n: u8| Ok(bytes::Bytes::from(vec![n; 1 << 20]));
        Box::pin(stream::iter((0..10).map(chunk)))
    }

    fn fill_volume(
        &self,
        _: VolumeSpec,
        mut tar: Items<io::Result<bytes::Bytes>>,
    ) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(async move {
            while let Some(Ok(chunk)) = tar.next().await {
                self.0.lock().unwrap().extend_from_slice(&chunk);
            }
            Ok(())
        })
    }

    fn save_images(&self, _: Vec<String>) -> Archive {
        Box::pin(stream::empty())
    }

    fn load_images(&self, _: Items<io::Result<bytes::Bytes>>) -> Fut<'_, RuntimeResult<()>> {
        Box::pin(async { Ok(()) })
    }
}

const ALL: Options = Options { logs: true, images: true, volumes: true };

struct Stage {
    place: tempfile::TempDir,
}

impl Stage {
    /// A data folder with two volumes in its store, of which one was never made.
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let stage = Self { place };
        drop(DataFolder::open(&stage.data()).await.unwrap());
        stage.sql(
            "INSERT INTO volumes (engine_name, app, name, created_at)
             VALUES ('mini-blue-data', 'blue', 'data', 1), ('mini-blue-more', 'blue', 'more', 1)",
        );
        stage
    }

    fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("all.tar.gz")
    }

    fn sql(&self, sql: &str) {
        let c = store::open_to_restore(&self.data().join(DATABASE)).unwrap();
        c.execute_batch(sql).unwrap();
    }

    async fn backup(&self) -> Result<Manifest, BackupError> {
        Self::backup_of(&self.data(), self.file()).await
    }

    async fn backup_of(data: &Path, file: PathBuf) -> Result<Manifest, BackupError> {
        let lock = BackupLock::take(data)?.expect("nobody else makes one");
        let engine = Arc::new(OneVolume::default());
        backup(data.into(), data.join("tls"), file, ALL, engine, "1.2.3".into(), lock).await
    }

    async fn verify(&self) -> Result<Manifest, BackupError> {
        verify(self.file(), self.place.path().to_owned()).await
    }

    /// Writes the backup anew, with its entries as `change` makes them.
    fn rewrite(&self, mut change: impl FnMut(&str, Vec<u8>) -> Option<Vec<u8>>) {
        let file = std::fs::File::open(self.file()).unwrap();
        let mut old = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut new = tar::Builder::new(gzip);
        for entry in old.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let Some(content) = change(&path, content) else { continue };
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            new.append_data(&mut header, &path, content.as_slice()).unwrap();
        }
        let mut out = std::fs::File::create(self.file()).unwrap();
        out.write_all(&new.into_inner().unwrap().finish().unwrap()).unwrap();
    }
}

use std::sync::Arc;

#[tokio::test]
async fn what_was_written_is_verified_and_nothing_is_left_beside_it() {
    let stage = Stage::new().await;
    let made = stage.backup().await.unwrap();
    assert_eq!(stage.verify().await.unwrap(), made);
    assert_eq!(made.volumes.len(), 1, "the one that was never made is left out");
    let parts: Vec<u64> =
        made.entries.iter().filter(|e| e.path.starts_with("volumes/")).map(|e| e.bytes).collect();
    assert_eq!(parts, [4 << 20, 4 << 20, 2 << 20]);
    let mut left: Vec<_> =
        std::fs::read_dir(stage.place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["all.tar.gz", "data"]);
}

#[tokio::test]
async fn every_cut_is_noticed() {
    let stage = Stage::new().await;
    stage.backup().await.unwrap();
    let whole = std::fs::read(stage.file()).unwrap();
    for kept in [0, 1, 20, whole.len() / 3, whole.len() - 300, whole.len() - 1] {
        std::fs::write(stage.file(), &whole[..kept]).unwrap();
        let error = stage.verify().await.unwrap_err();
        assert!(matches!(error, BackupError::Damaged(_)), "{kept}: {error}");
    }
}

#[tokio::test]
async fn an_entry_that_is_changed_missing_or_climbs_out_is_refused() {
    let stage = Stage::new().await;
    stage.backup().await.unwrap();
    let whole = std::fs::read(stage.file()).unwrap();
    let part = format!("volumes/{VOLUME}/000001");
    stage.rewrite(|path, mut content| {
        if path == part {
            content[7] ^= 1;
        }
        Some(content)
    });
    let error = stage.verify().await.unwrap_err().to_string();
    assert!(error.contains(&part), "{error}");
    std::fs::write(stage.file(), &whole).unwrap();
    stage.rewrite(|path, content| (path != part).then_some(content));
    assert!(matches!(stage.verify().await, Err(BackupError::Damaged(_))));
    std::fs::write(stage.file(), &whole).unwrap();
    stage.rewrite(|path, content| (path != MANIFEST).then_some(content));
    let error = stage.verify().await.unwrap_err().to_string();
    assert!(error.contains("its manifest is missing"), "{error}");
}

#[tokio::test]
async fn what_a_newer_minid_made_is_refused_by_its_version() {
    for (field, value, what) in
        [("format", 2, "its format is 2"), ("schema", 999, "its schema is 999")]
    {
        let stage = Stage::new().await;
        stage.backup().await.unwrap();
        stage.rewrite(|path, content| {
            if path != FORMAT_FILE {
                return Some(content);
            }
            let mut json: serde_json::Value = serde_json::from_slice(&content).unwrap();
            json[field] = value.into();
            Some(json.to_string().into_bytes())
        });
        let error = stage.verify().await.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("made by a newer minid (1.2.3)") && said.contains(what), "{said}");
        assert!(error.hint().unwrap().contains("minid 1.2.3 or newer"));
    }
}

#[tokio::test]
async fn what_would_not_come_back_is_named() {
    // Sealed by another key.
    let stage = Stage::new().await;
    stage.sql(
        "INSERT INTO apps (id, name, created_at, desired, subnet)
         VALUES (7, 'blue', 1, 'run', '10.9.0.0/26');
         INSERT INTO env (app_id, name, value) VALUES (7, 'SECRET', x'00')",
    );
    stage.backup().await.unwrap();
    let error = stage.verify().await.unwrap_err().to_string();
    assert_eq!(error, "env/7/SECRET cannot be opened with this data folder's key");
}

#[tokio::test]
async fn no_server_and_no_place_are_said() {
    let stage = Stage::new().await;
    let none = stage.place.path().join("none");
    let is_none = |made| matches!(made, Err(BackupError::NoServer(path)) if path == none);
    assert!(is_none(Stage::backup_of(&none, stage.file()).await));
    std::fs::create_dir(&none).unwrap();
    assert!(is_none(Stage::backup_of(&none, stage.file()).await));
    let nowhere = stage.place.path().join("no/such/folder");
    let made = Stage::backup_of(&stage.data(), nowhere).await;
    assert!(matches!(made, Err(BackupError::File { .. })));
}

#[tokio::test]
async fn there_is_one_backup_of_a_server_at_a_time() {
    let stage = Stage::new().await;
    let lock = BackupLock::take(&stage.data()).unwrap();
    assert!(lock.is_some());
    assert!(BackupLock::take(&stage.data()).unwrap().is_none());
    drop(lock);
    stage.backup().await.unwrap();
    assert!(BackupLock::take(&stage.data()).unwrap().is_some(), "it is free after one");
    let nowhere = BackupLock::take(&stage.place.path().join("none"));
    assert!(matches!(nowhere, Err(BackupError::NoServer(_))), "{nowhere:?}");
}
