//! The table on disk, so that the proxy starts alone.
//!
//! One file. First the whole table as it once was: a line `mini-proxy-snapshot 2 HASH` (BLAKE3 of the next
//! line) and one JSON document on a line of its own. Then what has changed since, a line each: `HASH JSON`,
//! where the hash is that of the line before's hash and the document, so that a line counts only behind all
//! those that it was written behind. A line that is torn, and all after it, is passed over: it was never
//! said to be durable.
//!
//! Writing is in [`keep`].

mod keep;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use blake3::{Hash, Hasher};
use mini_core::name::AppName;
use mini_core::route::AppRoute;
use serde::{Deserialize, Serialize};

pub(crate) use self::keep::{Changed, Unsaved, keep};

const MAGIC: &str = "mini-proxy-snapshot 2";

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image<R = AppRoute> {
    pub(crate) generation: u64,
    /// The kernel's boot id at the time of writing, to know a reboot by.
    pub(crate) boot_id: String,
    pub(crate) apps: Vec<R>,
}

/// One change of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Edit<R = AppRoute> {
    pub(crate) generation: u64,
    #[serde(flatten)]
    pub(crate) what: What<R>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What<R = AppRoute> {
    App(R),
    Forget(AppName),
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    #[error("its first line is not that of a snapshot")]
    NotASnapshot,
    #[error("its checksum does not match")]
    Checksum,
    #[error("it is not what this version writes")]
    Json(#[source] serde_json::Error),
}

/// Reads the snapshot; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Image>, Unusable> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Unusable::Io(e)),
    };
    // Whole lines only: what follows the last end of a line is torn.
    let mut lines = bytes.split_inclusive(|b| *b == b'\n').filter_map(|l| l.strip_suffix(b"\n"));
    let first = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let sum = first.and_then(|line| line.strip_prefix(MAGIC)).ok_or(Unusable::NotASnapshot)?.trim();
    let body = lines.next().ok_or(Unusable::Checksum)?;
    let mut hash = blake3::hash(body);
    if sum != hash.to_hex().as_str() {
        return Err(Unusable::Checksum);
    }
    let mut image: Image = serde_json::from_slice(body).map_err(Unusable::Json)?;
    let mut apps: BTreeMap<AppName, AppRoute> =
        image.apps.drain(..).map(|route| (route.app.clone(), route)).collect();
    for line in lines {
        let Some((sum, body)) = line.split_at_checked(2 * blake3::OUT_LEN) else { break };
        let body = body.strip_prefix(b" ").unwrap_or_default();
        hash = chained(hash, body);
        if sum != hash.to_hex().as_bytes() {
            break;
        }
        let edit: Edit = serde_json::from_slice(body).map_err(Unusable::Json)?;
        image.generation = edit.generation;
        match edit.what {
            What::App(route) => drop(apps.insert(route.app.clone(), route)),
            What::Forget(app) => drop(apps.remove(&app)),
        }
    }
    image.apps.extend(apps.into_values());
    Ok(Some(image))
}

fn chained(before: Hash, body: &[u8]) -> Hash {
    Hasher::new().update(before.as_bytes()).update(body).finalize()
}

/// The file that was written last, open at its end.
pub(crate) struct Snapshot {
    file: File,
    hash: Hash,
    /// Bytes of the whole table, and of the changes behind it.
    pub(crate) whole: usize,
    pub(crate) behind: usize,
}

impl Snapshot {
    /// Writes the whole table to a new file in place of the old one: temporary file, fsync, rename, fsync of
    /// the folder. Once this returns it survives a power cut.
    pub(crate) fn write<R: Serialize>(path: &Path, image: &Image<R>) -> io::Result<Self> {
        let mut body = serde_json::to_vec(image).map_err(io::Error::other)?;
        let hash = blake3::hash(&body);
        body.push(b'\n');
        let temporary = path.with_extension("tmp");
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{MAGIC} {}", hash.to_hex())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(Self { file, hash, whole: body.len(), behind: 0 })
    }

    /// Adds what has changed. Once this returns it survives a power cut; after an error the file has to be
    /// written anew.
    pub(crate) fn append<R: Serialize>(&mut self, edits: &[Edit<R>]) -> io::Result<()> {
        let mut lines = Vec::new();
        for edit in edits {
            let body = serde_json::to_vec(edit).map_err(io::Error::other)?;
            self.hash = chained(self.hash, &body);
            lines.extend_from_slice(self.hash.to_hex().as_bytes());
            lines.push(b' ');
            lines.extend_from_slice(&body);
            lines.push(b'\n');
        }
        self.file.write_all(&lines)?;
        self.behind += lines.len();
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use mini_core::route::WebState;

    use super::*;

    fn route(name: &str, web: WebState) -> AppRoute {
        AppRoute {
            app: name.parse().unwrap(),
            hosts: Vec::new(),
            web,
            targets: Vec::new(),
            health: Default::default(),
            rules: Box::default(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_damage_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.snapshot");
        assert!(read(&path).unwrap().is_none());
        let image: Image = Image { generation: 7, boot_id: "b".into(), apps: Vec::new() };
        Snapshot::write(&path, &image).unwrap();
        assert_eq!(read(&path).unwrap(), Some(image));

        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "byte {at} was flipped unseen");
            fs::write(&path, &good[..at]).unwrap();
            assert!(read(&path).is_err(), "cut at {at} unseen");
        }
    }

    #[test]
    fn changes_are_read_behind_the_table_up_to_the_first_that_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.snapshot");
        let (blue, red) = ("blue", "red");
        let image = Image {
            generation: 1,
            boot_id: "b".into(),
            apps: vec![route(blue, WebState::Booting), route(red, WebState::Stopped)],
        };
        let mut snapshot = Snapshot::write(&path, &image).unwrap();
        let edits = [
            Edit { generation: 2, what: What::App(route(blue, WebState::Serving)) },
            Edit { generation: 3, what: What::Forget(red.parse().unwrap()) },
            Edit { generation: 5, what: What::App(route("green", WebState::Crashed)) },
        ];
        let mut ends = vec![fs::read(&path).unwrap().len()];
        // One by one, and more than one at once.
        snapshot.append(&edits[..1]).unwrap();
        ends.push(fs::read(&path).unwrap().len());
        snapshot.append(&edits[1..]).unwrap();
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len(), ends[0] + snapshot.behind);
        ends.push(ends[1] + good[ends[1]..].iter().position(|b| *b == b'\n').unwrap() + 1);
        ends.push(good.len());

        let after = |n: usize| {
            let apps = match n {
                0 => image.apps.clone(),
                1 => vec![route(blue, WebState::Serving), route(red, WebState::Stopped)],
                2 => vec![route(blue, WebState::Serving)],
                _ => vec![route(blue, WebState::Serving), route("green", WebState::Crashed)],
            };
            let generation = [1, 2, 3, 5][n];
            Some(Image { generation, boot_id: "b".into(), apps })
        };
        assert_eq!(read(&path).unwrap(), after(3));
        for at in ends[0]..good.len() {
            // Of the changes, those that end before the damage.
            let whole = ends.iter().filter(|end| **end <= at).count() - 1;
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(read(&path).unwrap(), after(whole), "byte {at} was flipped");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(read(&path).unwrap(), after(whole), "cut at {at}");
        }
        // A line in another's place is no line.
        let mut spliced = good[..ends[0]].to_vec();
        spliced.extend_from_slice(&good[ends[1]..]);
        fs::write(&path, &spliced).unwrap();
        assert_eq!(read(&path).unwrap(), after(0));
    }
}
