//! A folder as a source: which entries ([`walk`]), their hashes, and the archive ([`archive`]).

pub(crate) mod archive;
pub(crate) mod dockerignore;
pub(crate) mod walk;

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use mini_core::source::{Entry, SourceDigest, Tree};

use crate::failure::Failure;
use walk::{Item, ItemKind, Listing};

const BUFFER: usize = 256 << 10;

/// A listing with its files hashed.
#[derive(Debug)]
pub(crate) struct Packed {
    items: Vec<Item>,
    /// Of files; beside `items`.
    hashes: Vec<Option<[u8; 32]>>,
    pub(crate) digest: SourceDigest,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Packed {
    fn entries(&self) -> impl Iterator<Item = (&Item, Option<&[u8; 32]>)> {
        self.items.iter().zip(self.hashes.iter().map(Option::as_ref))
    }
}

/// Reads and hashes every file, on a few threads. Blocking; `done` counts bytes.
pub(crate) fn hash(listing: Listing, done: &AtomicU64) -> Result<Packed, Failure> {
    let mut items = listing.items;
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; BUFFER];
                let mut mine = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    if let ItemKind::File { .. } = item.kind {
                        let result = hash_file(item, &mut buffer, done);
                        stop.fetch_or(result.is_err(), Ordering::Relaxed);
                        mine.push((index, result));
                    }
                }
                results.lock().unwrap_or_else(PoisonError::into_inner).extend(mine);
            });
        }
    });
    let mut hashes = vec![None; items.len()];
    for (index, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (hash, read) = result.map_err(|e| {
            Failure::io(format!("cannot read {:?}", items[index].path), &e)
                .hint("leave it out with a .miniignore, if it is not needed")
        })?;
        hashes[index] = Some(hash);
        if let ItemKind::File { size, .. } = &mut items[index].kind {
            *size = read;
        }
    }
    let tree = tree(&items, &hashes)?;
    Ok(Packed { digest: tree.digest(), files: tree.files(), bytes: tree.bytes(), items, hashes })
}

/// The limits are the server's to judge: they are configured there.
fn tree(items: &[Item], hashes: &[Option<[u8; 32]>]) -> Result<Tree, Failure> {
    let mut tree = Tree::new(u64::MAX, usize::MAX);
    for (item, hash) in items.iter().zip(hashes) {
        let entry = match &item.kind {
            ItemKind::Folder => Entry::Folder,
            ItemKind::Link { to } => Entry::Link { to: to.clone() },
            ItemKind::File { executable, size } => {
                let hash = hash.unwrap_or_default();
                Entry::File { executable: *executable, size: *size, hash }
            }
        };
        tree.add(&item.path, entry).map_err(|e| Failure::failed(e.to_string()))?;
    }
    Ok(tree)
}

fn hash_file(item: &Item, buffer: &mut [u8], done: &AtomicU64) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(&item.full)?;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((*hasher.finalize().as_bytes(), size)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
                done.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use mini_core::source::clean_path;

    use super::*;

    fn packed(folder: &Path) -> Packed {
        hash(walk::walk(folder).unwrap(), &AtomicU64::new(0)).unwrap()
    }

    /// The digest as the server computes it: from the archive alone.
    fn digest_of(archive: &[u8]) -> SourceDigest {
        let mut tree = Tree::default();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = clean_path(&entry.path_bytes()).unwrap();
            let kind = entry.header().entry_type();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let executable = entry.header().mode().unwrap() & 0o111 != 0;
            let entry = if kind.is_dir() {
                Entry::Folder
            } else if kind.is_symlink() {
                let to = entry.link_name_bytes().unwrap().into_owned();
                Entry::Link { to: String::from_utf8(to).unwrap() }
            } else {
                let hash = *blake3::hash(&content).as_bytes();
                Entry::File { executable, size: content.len() as u64, hash }
            };
            tree.add(&path, entry).unwrap();
        }
        tree.digest()
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir_all(path.join("empty/folder")).unwrap();
        fs::create_dir_all(path.join("d".repeat(90)).join("e".repeat(90))).unwrap();
        fs::write(path.join("d".repeat(90)).join("e".repeat(90)).join("long"), "x").unwrap();
        fs::write(path.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(path.join("run.sh"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::write(path.join("ünïcode"), vec![7; 300_000]).unwrap();
        fs::write(path.join("empty-file"), "").unwrap();
        symlink("./a//b/../c/", path.join("untidy")).unwrap();
        symlink(format!("/{}", "t".repeat(300)), path.join("long-link")).unwrap();
        folder
    }

    #[test]
    fn the_digest_of_a_folder_is_the_digest_of_its_archive() {
        let folder = folder();
        let packed = packed(folder.path());
        let archive = archive::write(&packed, Vec::new(), &AtomicU64::new(0)).unwrap();
        assert_eq!(digest_of(&archive), packed.digest);
        assert_eq!(packed.files, 6);
    }

    #[test]
    fn the_digest_knows_content_and_mode_but_no_times() {
        let folder = folder();
        let before = packed(folder.path()).digest;
        fs::write(folder.path().join("run.sh"), "#!/bin/sh\n").unwrap();
        assert_eq!(packed(folder.path()).digest, before);
        fs::set_permissions(folder.path().join("run.sh"), fs::Permissions::from_mode(0o644))
            .unwrap();
        let plain = packed(folder.path()).digest;
        assert_ne!(plain, before);
        fs::write(folder.path().join("run.sh"), "#!/bin/sh\n\n").unwrap();
        assert_ne!(packed(folder.path()).digest, plain);
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_told_by_name() {
        for new in ["#!/bin/sh", "#!/bin/sh\n\n", "#!/bin/zz\n"] {
            let folder = folder();
            let packed = packed(folder.path());
            fs::write(folder.path().join("run.sh"), new).unwrap();
            let error = archive::write(&packed, Vec::new(), &AtomicU64::new(0)).unwrap_err();
            assert_eq!(error.to_string(), "\"run.sh\" changed while it was packed");
            assert!(error.get_ref().unwrap().is::<archive::Changed>());
        }
    }
}
