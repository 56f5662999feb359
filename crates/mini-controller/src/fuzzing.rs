//! What must hold of an uploaded archive, whatever its bytes: for the fuzzer in `fuzz/` and an
//! ordinary test over seeds and mutations of them.

use std::fs::File;
use std::path::Path;

use mini_core::source::clean_path;
use tar::{Archive, EntryType, Header};

use crate::sources::Sources;

const BLOCK: usize = 512;

/// Takes it into `folder`, as it is and with the checksums of its headers mended, without which
/// few mutations would be read at all. What was taken is clean, and is taken again as the same;
/// of what was not, nothing stays.
pub fn archive(folder: &Path, bytes: &[u8]) {
    take(folder, bytes);
    take(folder, &mended(bytes));
}

fn take(folder: &Path, bytes: &[u8]) {
    let sources = Sources::open(folder.to_owned()).expect("a folder");
    if let Ok(taken) = sources.take(bytes, "fuzz") {
        let path = sources.path(&taken.digest);
        let mut files = 0;
        let clean = File::open(&path).expect("it was taken");
        for entry in Archive::new(&clean).entries().expect("a tar") {
            let entry = entry.expect("an entry");
            let header = entry.header();
            let name = entry.path_bytes().into_owned();
            let plain = clean_path(&name).expect("a path");
            let shown = name.escape_ascii();
            assert_eq!(plain.as_bytes(), name.strip_suffix(b"/").unwrap_or(&name), "{shown}");
            assert_eq!(header.mode().expect("a mode") & 0o7000, 0, "{shown}");
            assert_eq!(header.uid().expect("an owner"), 0, "{shown}");
            match header.entry_type() {
                EntryType::Regular | EntryType::Symlink => files += 1,
                EntryType::Directory => {}
                other => panic!("{shown} is a {other:?}"),
            }
        }
        assert_eq!(files, taken.files);
        let again = sources.take(File::open(&path).expect("it was taken"), "again");
        assert_eq!(again.expect("what is clean is taken").digest, taken.digest);
        sources.remove(&taken.digest).expect("it can go");
    }
    let left = std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!(left, 0, "something stayed");
}

/// The same bytes, in which every block that looks like a header has the right checksum.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if block[257..262] == *b"ustar" {
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_hold() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        mini_core::testing::hostile::run("archive", 1_000, |bytes| archive(folder, bytes));
    }

    /// The names of the seeds say whether they are taken.
    #[test]
    fn the_seeds_are_what_they_say() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources::open(folder.path().to_owned()).unwrap();
        for (name, bytes) in mini_core::testing::hostile::seeds("archive") {
            let taken = sources.take(&bytes[..], "seed").is_ok();
            assert_eq!(taken, name.starts_with("ok-"), "{name}");
        }
    }
}
