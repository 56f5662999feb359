//! What the engine is given to build from: always a tar that we wrote.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use mini_core::ports::Items;
use tar::{Archive, Builder, EntryType, Header};
use tokio::sync::mpsc;

const PIECE: usize = 128 << 10;
/// Where the generated Dockerfile of a static site lies in its context.
pub(super) const DOCKERFILE: &str = "Dockerfile.mini";
/// The image of a static site: the server, and the files. It needs no base image.
const STATIC_DOCKERFILE: &str = "FROM scratch\n\
    COPY mini-static /mini-static\n\
    COPY site /site\n\
    EXPOSE 8080\n\
    CMD [\"/mini-static\"]\n";

/// Files that say an app is not just files, and of which language it is.
const LANGUAGES: [&str; 14] = [
    "package.json",
    "requirements.txt",
    "pyproject.toml",
    "Pipfile",
    "go.mod",
    "Cargo.toml",
    "Gemfile",
    "composer.json",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
    "mix.exs",
    "deno.json",
    "Procfile",
];

/// How a source is built.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dockerfile,
    /// A folder of files only.
    Static {
        pages: usize,
    },
    /// An app in some language that says how to build it nowhere.
    Language {
        file: &'static str,
    },
    Nothing,
}

/// What a look into a source found.
pub(super) struct Looked {
    pub(super) kind: Kind,
    /// The texts of the files at its root that say how the app is run.
    pub(super) procfile: Option<String>,
    pub(super) manifest: Option<String>,
}

/// Nobody writes a longer one.
const MAX_TEXT: u64 = 64 << 10;

/// Looks at the entries of a clean tar. Blocking.
pub(super) fn look(tar: &Path) -> io::Result<Looked> {
    let mut archive = Archive::new(File::open(tar)?);
    let (mut dockerfile, mut index, mut pages) = (false, false, 0);
    let (mut language, mut procfile, mut manifest) = (None, None, None);
    for entry in archive.entries_with_seek()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let kept = match path.as_str() {
            "Procfile" => Some(&mut procfile),
            "mini.toml" => Some(&mut manifest),
            _ => None,
        };
        if let Some(kept) = kept.filter(|_| entry.header().entry_type().is_file()) {
            let mut text = Vec::new();
            entry.by_ref().take(MAX_TEXT).read_to_end(&mut text)?;
            *kept = Some(String::from_utf8_lossy(&text).into_owned());
        }
        dockerfile |= path == "Dockerfile";
        index |= path == "index.html";
        pages += usize::from(path.ends_with(".html"));
        language = language.or(LANGUAGES.into_iter().find(|file| *file == path));
    }
    let kind = match language {
        _ if dockerfile => Kind::Dockerfile,
        // A site may bring a package.json along for its tools; one that has a page to begin with
        // and nothing that says how to run it is a site.
        Some(file) if !index || file == "Procfile" => Kind::Language { file },
        _ if index => Kind::Static { pages },
        _ => Kind::Nothing,
    };
    Ok(Looked { kind, procfile, manifest })
}

/// The clean tar itself.
pub(super) fn as_it_is(tar: PathBuf) -> Items<io::Result<Bytes>> {
    stream(move |out| io::copy(&mut File::open(tar)?, out).map(drop))
}

/// A static site: the server, the files below `site/`, a Dockerfile.
pub(super) fn with_static_server(tar: PathBuf, server: PathBuf) -> Items<io::Result<Bytes>> {
    stream(move |out| {
        let mut context = Builder::new(out);
        let text = STATIC_DOCKERFILE.as_bytes();
        context.append_data(&mut header(0o644, text.len() as u64), DOCKERFILE, text)?;
        let server = File::open(server)?;
        let size = server.metadata()?.len();
        context.append_data(&mut header(0o755, size), "mini-static", server)?;
        let mut folder = header(0o755, 0);
        folder.set_entry_type(EntryType::Directory);
        context.append_data(&mut folder, "site", io::empty())?;
        let mut archive = Archive::new(File::open(tar)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            if path == Path::new("mini.toml") {
                continue;
            }
            let path = Path::new("site").join(path);
            let mut header = entry.header().clone();
            match entry.link_name()? {
                Some(to) => context.append_link(&mut header, &path, to)?,
                None => context.append_data(&mut header, &path, &mut entry)?,
            }
        }
        context.into_inner().map(drop)
    })
}

fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

/// Runs a blocking writer; what it writes comes as pieces, as fast as they are taken.
fn stream(
    write: impl FnOnce(&mut Pieces) -> io::Result<()> + Send + 'static,
) -> Items<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces { sender, waiting: Vec::with_capacity(PIECE) };
        let written = write(&mut pieces).and_then(|()| pieces.flush());
        if let Err(error) = written {
            // The reader is told, unless it has gone.
            let _ = pieces.sender.blocking_send(Err(error));
        }
    });
    Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    waiting: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE - self.waiting.len();
        let taken = bytes.len().min(room);
        self.waiting.extend_from_slice(&bytes[..taken]);
        if self.waiting.len() == PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the build is over");
        self.sender.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn tar_of(folder: &Path, files: &[&str]) -> PathBuf {
        let path = folder.join("s.tar");
        let mut tar = Builder::new(File::create(&path).unwrap());
        for file in files {
            tar.append_data(&mut header(0o644, 2), file, &b"hi"[..]).unwrap();
        }
        tar.into_inner().unwrap();
        path
    }

    #[test]
    fn sources_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let kind = |files: &[&str]| look(&tar_of(folder.path(), files)).unwrap().kind;
        assert_eq!(kind(&["index.html", "Dockerfile"]), Kind::Dockerfile);
        assert_eq!(kind(&["a/b.html", "index.html", "a.css"]), Kind::Static { pages: 2 });
        assert_eq!(kind(&["index.html", "package.json"]), Kind::Static { pages: 1 });
        assert_eq!(kind(&["server.js", "package.json"]), Kind::Language { file: "package.json" });
        assert_eq!(kind(&["notes.txt"]), Kind::Nothing);
    }

    #[tokio::test]
    async fn a_static_context_holds_the_server_and_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let tar = tar_of(folder.path(), &["index.html", "mini.toml", "a/b.txt"]);
        let server = folder.path().join("server");
        std::fs::write(&server, vec![7; 300_000]).unwrap();
        let pieces: Vec<_> = with_static_server(tar, server).collect().await;
        let bytes: Vec<u8> = pieces.into_iter().flat_map(|p| p.unwrap().to_vec()).collect();
        let mut archive = Archive::new(&bytes[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(
            names,
            ["Dockerfile.mini", "mini-static", "site", "site/index.html", "site/a/b.txt"]
        );
    }
}
