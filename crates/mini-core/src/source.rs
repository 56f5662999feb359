//! What a user's source is: which entries an archive may hold, and the digest of a tree.
//!
//! CLI and controller compute the same digest, the one from the folder and the other from the
//! archive that it got, so that an unchanged tree is neither sent nor built again.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest source by default, in bytes and entries (CONTRACTS, "Limits").
pub const MAX_BYTES: u64 = 2 << 30;
pub const MAX_ENTRIES: usize = 200_000;
/// The most that the names of a source may take together, paths and link targets, in bytes: they
/// are held in memory. 200,000 paths of a usual length take a third of it.
pub const MAX_NAME_BYTES: usize = 48 << 20;
/// The longest path or link target, in bytes (Linux: `PATH_MAX`).
pub const MAX_PATH: usize = 4096;

/// The digest of a tree: BLAKE3 over its sorted entries, in hex (64 characters).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceDigest(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a source digest: 64 hex digits in lower case")]
pub struct BadDigest(pub String);

impl SourceDigest {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands in lists and logs.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for SourceDigest {
    type Error = BadDigest;
    fn try_from(text: String) -> Result<Self, BadDigest> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) {
            Ok(Self(text))
        } else {
            Err(BadDigest(text))
        }
    }
}

impl std::str::FromStr for SourceDigest {
    type Err = BadDigest;
    fn from_str(text: &str) -> Result<Self, BadDigest> {
        text.to_owned().try_into()
    }
}

impl From<SourceDigest> for String {
    fn from(digest: SourceDigest) -> String {
        digest.0
    }
}

impl fmt::Display for SourceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One entry of a tree. Owners, times and all mode bits but "may be executed" are not part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Folder,
    File { executable: bool, size: u64, hash: [u8; 32] },
    Link { to: String },
}

/// Why a source was refused. `Display` names the entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0:?} is an absolute path")]
    Absolute(String),
    #[error("{0:?} climbs out of the source folder")]
    ClimbsOut(String),
    #[error("{0:?} is not a path: empty, not UTF-8, or with a control character")]
    NotAPath(String),
    #[error("{0:?} passes through the link {1:?}")]
    ThroughLink(String, String),
    #[error("{0:?} lies below {1:?}, which is a file")]
    BelowFile(String, String),
    #[error("{0:?} appears twice")]
    Twice(String),
    #[error("{0:?} is a {1}; a source holds files, folders and symbolic links")]
    Kind(String, &'static str),
    #[error("the source has more than {0} entries")]
    TooMany(usize),
    #[error("the source is larger than {0} bytes")]
    TooLarge(u64),
    #[error("the names of the source's entries take more than {0} bytes together")]
    LongNames(usize),
}

/// A path inside a source: relative, `/`-separated, no `.`, `..` or empty part.
pub fn clean_path(raw: &[u8]) -> Result<String, Refused> {
    let shown = || String::from_utf8_lossy(raw).into_owned();
    let text = std::str::from_utf8(raw).map_err(|_| Refused::NotAPath(shown()))?;
    if text.chars().any(char::is_control) || text.len() > MAX_PATH {
        return Err(Refused::NotAPath(shown()));
    }
    if text.starts_with('/') {
        return Err(Refused::Absolute(shown()));
    }
    let parts: Vec<&str> = text.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return Err(Refused::ClimbsOut(shown()));
    }
    Ok(parts.join("/"))
}

/// The entries of one source, checked as they come.
pub struct Tree {
    entries: BTreeMap<String, Entry>,
    bytes: u64,
    /// What the names take.
    names: usize,
    max_bytes: u64,
    max_entries: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new(MAX_BYTES, MAX_ENTRIES)
    }
}

impl Tree {
    pub fn new(max_bytes: u64, max_entries: usize) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, names: 0, max_bytes, max_entries }
    }

    /// Whether an entry may be added at `path` (cleaned), before its content is read.
    ///
    /// `size` is what the archive says it holds. A folder may come again; nothing else may.
    pub fn may_add(&self, path: &str, is_folder: bool, size: u64) -> Result<(), Refused> {
        match self.entries.get(path) {
            Some(Entry::Folder) if is_folder => return Ok(()),
            Some(_) => return Err(Refused::Twice(path.to_owned())),
            None => {}
        }
        for (at, _) in path.match_indices('/') {
            match self.entries.get(&path[..at]) {
                Some(Entry::Link { .. }) => {
                    return Err(Refused::ThroughLink(path.to_owned(), path[..at].to_owned()));
                }
                Some(Entry::File { .. }) => {
                    return Err(Refused::BelowFile(path.to_owned(), path[..at].to_owned()));
                }
                Some(Entry::Folder) | None => {}
            }
        }
        if self.entries.len() >= self.max_entries {
            return Err(Refused::TooMany(self.max_entries));
        }
        if self.bytes.saturating_add(size) > self.max_bytes {
            return Err(Refused::TooLarge(self.max_bytes));
        }
        Ok(())
    }

    /// Adds an entry that [`Tree::may_add`] let through, and the folders above it.
    pub fn add(&mut self, path: &str, entry: Entry) -> Result<(), Refused> {
        let size = if let Entry::File { size, .. } = entry { size } else { 0 };
        self.may_add(path, entry == Entry::Folder, size)?;
        let target = if let Entry::Link { to } = &entry { to.len() } else { 0 };
        let above = path.match_indices('/').map(|(at, _)| at);
        let new = above.clone().filter(|at| !self.entries.contains_key(&path[..*at]));
        self.names += new.sum::<usize>() + path.len() + target;
        if self.names > MAX_NAME_BYTES {
            return Err(Refused::LongNames(MAX_NAME_BYTES));
        }
        for at in above {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
        self.bytes += size;
        Ok(())
    }

    pub fn contains_file(&self, path: &str) -> bool {
        matches!(self.entries.get(path), Some(Entry::File { .. }))
    }

    /// Files and links, not folders: what users count.
    pub fn files(&self) -> u64 {
        self.entries.values().filter(|e| **e != Entry::Folder).count() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn paths(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// The digest: for each entry in path order its kind, path and content, each with its length
    /// in front, so that no two trees write the same bytes.
    pub fn digest(&self) -> SourceDigest {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(b"mini source 1");
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder => field(b"d"),
                Entry::File { executable: true, .. } => field(b"x"),
                Entry::File { executable: false, .. } => field(b"f"),
                Entry::Link { .. } => field(b"l"),
            }
            field(path.as_bytes());
            match entry {
                Entry::Folder => {}
                Entry::File { hash, .. } => field(hash),
                Entry::Link { to } => field(to.as_bytes()),
            }
        }
        SourceDigest(hasher.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Entry {
        Entry::File {
            executable: false,
            size: text.len() as u64,
            hash: *blake3::hash(text.as_bytes()).as_bytes(),
        }
    }

    #[test]
    fn paths_are_cleaned_or_refused() {
        assert_eq!(clean_path(b"./a//b/./c").unwrap(), "a/b/c");
        assert_eq!(clean_path(b"./").unwrap(), "");
        assert!(matches!(clean_path(b"/etc/passwd"), Err(Refused::Absolute(_))));
        assert!(matches!(clean_path(b"a/../../b"), Err(Refused::ClimbsOut(_))));
        assert!(matches!(clean_path(b"a\0b"), Err(Refused::NotAPath(_))));
        assert!(matches!(clean_path(b"\xff"), Err(Refused::NotAPath(_))));
    }

    #[test]
    fn hostile_entries_are_refused_by_name() {
        let mut tree = Tree::new(10, 6);
        tree.add("a", Entry::Link { to: "/etc".into() }).unwrap();
        tree.add("f", file("x")).unwrap();
        tree.add("d/e", file("y")).unwrap();
        assert_eq!(tree.add("a/b", file("")), Err(Refused::ThroughLink("a/b".into(), "a".into())));
        assert_eq!(tree.add("f/b", file("")), Err(Refused::BelowFile("f/b".into(), "f".into())));
        assert_eq!(tree.add("f", file("z")), Err(Refused::Twice("f".into())));
        assert_eq!(tree.add("d", file("z")), Err(Refused::Twice("d".into())));
        assert_eq!(tree.add("d", Entry::Folder), Ok(()));
        assert_eq!(tree.add("g", file("123456789")), Err(Refused::TooLarge(10)));
        tree.add("g", file("1")).unwrap();
        tree.add("h", file("1")).unwrap();
        assert_eq!(tree.add("i", file("1")), Err(Refused::TooMany(6)));
    }

    #[test]
    fn the_names_of_a_tree_fit_into_memory() {
        let mut tree = Tree::default();
        let deep = "a/".repeat(2000);
        let refused = (0..100_000).find_map(|n| {
            let path = format!("{n}/{deep}f");
            tree.add(&path, file("")).err()
        });
        assert_eq!(refused, Some(Refused::LongNames(MAX_NAME_BYTES)));
        assert!(tree.paths().map(|(path, _)| path.len()).sum::<usize>() <= MAX_NAME_BYTES);
    }

    #[test]
    fn the_digest_knows_order_no_more_but_content_mode_and_links() {
        let digest = |entries: &[(&str, Entry)]| {
            let mut tree = Tree::default();
            for (path, entry) in entries {
                tree.add(path, entry.clone()).unwrap();
            }
            tree.digest()
        };
        let a = digest(&[("a", file("1")), ("b/c", file("2"))]);
        assert_eq!(a, digest(&[("b", Entry::Folder), ("b/c", file("2")), ("a", file("1"))]));
        assert_ne!(a, digest(&[("a", file("1")), ("b/c", file("3"))]));
        assert_ne!(a, digest(&[("a", file("1")), ("b/d", file("2"))]));
        assert_ne!(a, digest(&[("a", file("1")), ("b/c", file("2")), ("e", Entry::Folder)]));
        assert_ne!(
            digest(&[("a", Entry::Link { to: "b".into() })]),
            digest(&[("a", Entry::Link { to: "c".into() })])
        );
    }
}
