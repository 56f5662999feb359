//! Which file of the folder a request gets.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::encoding::Coding;
use crate::path::SitePath;
use crate::validator::{Tags, Validators};

/// The folder that is served.
#[derive(Debug)]
pub(crate) struct Site {
    /// Without links in it, so that a file's own path can be compared with it.
    root: PathBuf,
    tags: Tags,
}

/// A file to send.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: File,
    pub(crate) length: u64,
    pub(crate) validators: Validators,
    /// The path of the plain file, whose name decides the media type; not the sibling's.
    pub(crate) path: PathBuf,
    pub(crate) coding: Option<Coding>,
    /// Whether the file has siblings, so that another request may get another one of them.
    pub(crate) varies: bool,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Target {
    File(Found),
    /// A folder was named without its slash; relative links on its page need it.
    Folder,
    Nothing,
}

impl Site {
    /// Fails if `root` is not a readable folder.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(root)?;
        fs::read_dir(&root)?;
        Ok(Self { root, tags: Tags::default() })
    }

    /// Finds what `path` names: the file itself, a folder's `index.html`, or the file with
    /// `.html` appended. Blocks.
    ///
    /// # Errors
    /// What the disk says, except that a file is not there.
    pub(crate) fn find(&self, path: &SitePath, accepted: &[Coding]) -> io::Result<Target> {
        let named = self.root.join(path.segments.iter().collect::<PathBuf>());
        let kind = absent(fs::metadata(&named))?;
        if path.folder {
            return match kind {
                Some(kind) if kind.is_dir() => self.target(&named.join("index.html"), accepted),
                _ => Ok(Target::Nothing),
            };
        }
        match kind {
            Some(kind) if kind.is_file() => self.target(&named, accepted),
            Some(kind) if kind.is_dir() && named.join("index.html").is_file() => {
                // Not for a folder outside the site: that it exists is nobody's business.
                Ok(self.inside(&named)?.map_or(Target::Nothing, |_| Target::Folder))
            }
            _ => self.target(&append(&named, ".html"), accepted),
        }
    }

    /// The site's own page for what is not there, if it has one. Blocks.
    pub(crate) fn not_found_page(&self, accepted: &[Coding]) -> io::Result<Target> {
        self.target(&self.root.join("404.html"), accepted)
    }

    fn target(&self, path: &Path, accepted: &[Coding]) -> io::Result<Target> {
        Ok(self.open_file(path, accepted)?.map_or(Target::Nothing, Target::File))
    }

    fn open_file(&self, path: &Path, accepted: &[Coding]) -> io::Result<Option<Found>> {
        let Some(plain) = self.inside_file(path)? else { return Ok(None) };
        let mut varies = false;
        let mut chosen = None;
        for coding in Coding::ALL {
            varies |= self.inside_file(&append(path, coding.suffix()))?.is_some();
        }
        for coding in accepted {
            if let Some(sibling) = self.inside_file(&append(path, coding.suffix()))? {
                chosen = Some((sibling, *coding));
                break;
            }
        }
        let (real, coding) = match chosen {
            Some((real, coding)) => (real, Some(coding)),
            None => (plain, None),
        };
        let file = File::open(&real)?;
        // Asked of the open file, so that length and content are of the same one.
        let meta = file.metadata()?;
        let validators = self.tags.of(&real, &file, &meta)?;
        Ok(Some(Found {
            length: meta.len(),
            file,
            validators,
            path: path.to_owned(),
            coding,
            varies,
        }))
    }

    /// The real path of a plain file inside the site; none for anything else. Nothing else is
    /// ever opened: opening a named pipe would wait for ever.
    fn inside_file(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        match absent(fs::metadata(path))? {
            Some(meta) if meta.is_file() => self.inside(path),
            _ => Ok(None),
        }
    }

    /// Follows all links; none if they lead out of the site.
    fn inside(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        Ok(absent(fs::canonicalize(path))?.filter(|real| real.starts_with(&self.root)))
    }
}

/// Turns "there is no such file", in its various forms, into `None`.
fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind as Kind;
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            Kind::NotFound | Kind::NotADirectory | Kind::InvalidFilename | Kind::InvalidInput => {
                Ok(None)
            }
            // A link that leads to itself; the error kind for it is not stable yet.
            _ if error.raw_os_error() == Some(40) => Ok(None),
            _ => Err(error),
        },
    }
}

fn append(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or(OsStr::new("")));
    name.push(suffix);
    path.with_file_name(name)
}
