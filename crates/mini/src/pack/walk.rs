//! Which entries of a folder are its source.
//!
//! The first of these files that lies in the folder decides what is left out: `.miniignore` (as
//! `.gitignore` is written, in every folder), `.dockerignore`, `.gitignore` (in every folder; not
//! those above, nor the user's own). `.git` never counts, `mini.toml` always does, and hidden
//! files are files like others.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ignore::WalkBuilder;
use mini_core::source::clean_path;

use super::dockerignore::Ignored;
use crate::failure::Failure;
use crate::project;
use crate::system;

/// What the engine's client and the server need whatever `.dockerignore` says; the engine itself
/// leaves the first two out of the image again.
const ALWAYS_WITH_DOCKER: [&str; 4] = ["Dockerfile", ".dockerignore", "Procfile", project::FILE];

/// One entry of a source, before its content was read.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Inside the source, clean.
    pub(crate) path: String,
    pub(crate) full: PathBuf,
    pub(crate) kind: ItemKind,
    /// Seconds since 1970; not part of the digest.
    pub(crate) mtime: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Folder,
    File { executable: bool, size: u64 },
    Link { to: String },
}

/// The entries in path order, and what was passed over.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) items: Vec<Item>,
    /// `"queue" is a FIFO`
    pub(crate) skipped: Vec<String>,
}

impl Listing {
    /// Bytes of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        let size = |i: &Item| if let ItemKind::File { size, .. } = i.kind { size } else { 0 };
        self.items.iter().map(size).sum()
    }

    /// Whether there is nothing besides `mini.toml`.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.iter().all(|i| i.kind == ItemKind::Folder || i.path == project::FILE)
    }
}

/// Lists the source of `folder`. Blocking.
pub(crate) fn walk(folder: &Path) -> Result<Listing, Failure> {
    let mut listing = Listing::default();
    let mut builder = WalkBuilder::new(folder);
    builder.standard_filters(false).require_git(false).follow_links(false);
    builder.sort_by_file_name(std::cmp::Ord::cmp);
    let mut always: &[&str] = &[project::FILE];
    let mut docker: Option<Arc<Ignored>> = None;
    if folder.join(".miniignore").is_file() {
        builder.add_custom_ignore_filename(".miniignore");
    } else if folder.join(".dockerignore").is_file() {
        docker = Some(Arc::new(read_dockerignore(&folder.join(".dockerignore"))?));
        always = &ALWAYS_WITH_DOCKER;
    } else {
        builder.git_ignore(true);
    }
    let (root, rules) = (folder.to_owned(), docker.clone());
    builder.filter_entry(move |entry| {
        if entry.depth() == 0 {
            return true;
        }
        let skip_folder = |rules: &Arc<Ignored>| {
            rules.may_skip_below()
                && entry.file_type().is_some_and(|t| t.is_dir())
                && relative(entry.path(), &root).is_some_and(|path| rules.matches(&path))
        };
        entry.file_name() != ".git" && !rules.as_ref().is_some_and(skip_folder)
    });
    for entry in builder.build() {
        let entry = entry.map_err(|e| Failure::failed(format!("cannot read the folder: {e}")))?;
        let wanted = |rules: &Arc<Ignored>| {
            relative(entry.path(), folder)
                .is_none_or(|path| always.contains(&&*path) || !rules.matches(&path))
        };
        if entry.depth() > 0 && docker.as_ref().is_none_or(wanted) {
            add(&mut listing, entry.path(), folder)?;
        }
    }
    for name in always {
        let full = folder.join(name);
        if full.is_file() && !listing.items.iter().any(|i| i.path == *name) {
            add(&mut listing, &full, folder)?;
        }
    }
    listing.items.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listing)
}

fn read_dockerignore(path: &Path) -> Result<Ignored, Failure> {
    let text =
        fs::read(path).map_err(|e| Failure::io(format!("cannot read {}", path.display()), &e))?;
    Ignored::parse(&String::from_utf8_lossy(&text))
        .map_err(|e| Failure::failed(format!("{}: {e}", path.display())))
}

/// None if the path is not UTF-8, which is refused when it is added.
fn relative<'a>(path: &'a Path, root: &Path) -> Option<Cow<'a, str>> {
    match system::with_slashes(path.strip_prefix(root).ok()?) {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

fn add(listing: &mut Listing, full: &Path, root: &Path) -> Result<(), Failure> {
    let inside = full.strip_prefix(root).unwrap_or(full);
    let path = clean_path(&system::with_slashes(inside)).map_err(|e| {
        Failure::failed(e.to_string()).hint("rename it, or leave it out with a .miniignore")
    })?;
    let unreadable = |e| {
        Failure::io(format!("cannot read {}", full.display()), &e)
            .hint("leave it out with a .miniignore, if it is not needed")
    };
    let meta = match fs::symlink_metadata(full) {
        Ok(meta) => meta,
        // It went while we looked: then it is not part of the source.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unreadable(e)),
    };
    let kind = if meta.is_dir() {
        ItemKind::Folder
    } else if meta.is_file() {
        let executable = system::is_executable(full, &meta).map_err(unreadable)?;
        ItemKind::File { executable, size: meta.len() }
    } else if meta.is_symlink() {
        let to = fs::read_link(full).map_err(unreadable)?;
        let to = to.into_os_string().into_string().map_err(|to| {
            Failure::failed(format!("{path:?} links to {to:?}, which is not UTF-8"))
        })?;
        ItemKind::Link { to: system::link_with_slashes(to) }
    } else {
        listing.skipped.push(format!("{path:?} is a {}", system::special(&meta)));
        return Ok(());
    };
    let since = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mtime = since.map_or(0, |since| since.as_secs());
    listing.items.push(Item { path, full: full.to_owned(), kind, mtime });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let full = folder.path().join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, text).unwrap();
        }
        let listing = walk(folder.path()).unwrap();
        let files = listing.items.into_iter().filter(|i| i.kind != ItemKind::Folder);
        files.map(|i| i.path).collect()
    }

    #[test]
    fn hidden_files_come_along_and_git_does_not() {
        let files =
            [(".env", ""), (".git/config", ""), ("a/.git", ""), ("a/b", ""), ("Procfile", "")];
        assert_eq!(listed(&files), [".env", "Procfile", "a/b"]);
    }

    #[test]
    fn gitignore_counts_in_every_folder_but_not_for_mini_toml() {
        let files = [
            (".gitignore", "*.log\n/dist\nmini.toml\n"),
            ("mini.toml", ""),
            ("a.log", ""),
            ("dist/x", ""),
            ("web/dist/y", ""),
            ("web/.gitignore", "!keep.log\n"),
            ("web/keep.log", ""),
        ];
        let expected = [".gitignore", "mini.toml", "web/.gitignore", "web/dist/y", "web/keep.log"];
        assert_eq!(listed(&files), expected);
    }

    #[test]
    fn dockerignore_replaces_gitignore_and_never_hides_the_recipe() {
        let files = [
            (".gitignore", "dist\n"),
            (".dockerignore", "*\n!dist/keep\n"),
            ("Dockerfile", ""),
            ("Procfile", ""),
            ("dist/keep/x", ""),
            ("dist/other", ""),
            ("secret", ""),
        ];
        assert_eq!(listed(&files), [".dockerignore", "Dockerfile", "Procfile", "dist/keep/x"]);
        let plain = [(".dockerignore", "sub\n"), ("sub/a", ""), ("b", "")];
        assert_eq!(listed(&plain), [".dockerignore", "b"]);
    }

    #[test]
    fn miniignore_replaces_both() {
        let files = [
            (".miniignore", "c\n"),
            (".dockerignore", "b\n"),
            (".gitignore", "a\n"),
            ("a", ""),
            ("b", ""),
            ("c", ""),
        ];
        assert_eq!(listed(&files), [".dockerignore", ".gitignore", ".miniignore", "a", "b"]);
    }

    #[test]
    fn what_cannot_be_sent_is_passed_over_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.path().join("l")).unwrap();
        let listing = walk(folder.path()).unwrap();
        assert_eq!(listing.skipped, ["\"s\" is a socket"]);
        assert_eq!(listing.items[0].kind, ItemKind::Link { to: "/nowhere".into() });
    }
}
