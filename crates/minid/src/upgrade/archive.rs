//! Archives of a release: a gzipped tar with `mini`, `minid` and `mini-static`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::output::Fault;

/// What a release consists of.
pub(crate) const PROGRAMS: [&str; 3] = ["mini", "minid", "mini-static"];
const ARCHIVE: &str = "archive.tar.gz";
const SIGNATURE: &str = "archive.tar.gz.minisig";
/// In bytes, each program. They are some ten megabytes.
const MAX_PROGRAM: u64 = 512 << 20;
const MAX_ARCHIVE: u64 = 1 << 30;
/// Whatever else an archive holds is read over.
const MAX_ENTRIES: usize = 1000;
const DOWNLOAD: Duration = Duration::from_secs(600);

/// An archive in a folder of our own, so that what was checked is what is installed.
pub(crate) struct Staged {
    pub(crate) archive: PathBuf,
    pub(crate) signature: PathBuf,
    /// SHA-256 in hex.
    pub(crate) digest: String,
}

/// Brings FILE or URL, and the signature beside it if there is one, into `folder`.
pub(crate) async fn stage(source: &str, folder: &Path) -> Result<Staged, Fault> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Fault::new(format!("{}: {error}", folder.display())))?;
    let (archive, signature) = (folder.join(ARCHIVE), folder.join(SIGNATURE));
    let of_signature = format!("{source}.minisig");
    if source.starts_with("https://") {
        download(source, &archive).await?;
        // Whether one is needed is not known here; the check says that it is not there.
        let _ = download(&of_signature, &signature).await;
    } else if source.contains("://") {
        return Err(Fault::new(format!("{source}: upgrades come from a file or over https")));
    } else {
        copy(Path::new(source), &archive)?;
        if Path::new(&of_signature).exists() {
            copy(Path::new(&of_signature), &signature)?;
        }
    }
    let digest = digest(&archive)?;
    Ok(Staged { archive, signature, digest })
}

/// With curl, which knows of proxies, redirects and the system's authorities.
async fn download(url: &str, to: &Path) -> Result<(), Fault> {
    let mut command = Command::new("curl");
    command
        .args(["--fail", "--location", "--silent", "--show-error", "--proto", "=https"])
        .args(["--max-filesize", &MAX_ARCHIVE.to_string()])
        .args(["--max-time", &DOWNLOAD.as_secs().to_string(), "--output"])
        .arg(to)
        .args(["--", url])
        .kill_on_drop(true);
    let said = command.output().await.map_err(|error| {
        Fault::new(format!("curl cannot be started: {error}"))
            .hint("install curl, or fetch the archive yourself and name the file")
    })?;
    if said.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&said.stderr);
    Err(Fault::new(format!("{url} cannot be fetched: {}", why.trim())).hint("nothing was changed"))
}

fn copy(from: &Path, to: &Path) -> Result<(), Fault> {
    let copied = File::open(from).and_then(|file| {
        let mut to = OpenOptions::new().write(true).create(true).truncate(true).open(to)?;
        io::copy(&mut file.take(MAX_ARCHIVE), &mut to)
    });
    copied.map(drop).map_err(|error| Fault::new(format!("{}: {error}", from.display())))
}

fn digest(path: &Path) -> Result<String, Fault> {
    let mut hash = Sha256::new();
    let read = File::open(path).and_then(|mut file| io::copy(&mut file, &mut Hashing(&mut hash)));
    read.map_err(|error| Fault::new(format!("{}: {error}", path.display())))?;
    Ok(hex::encode(hash.finalize()))
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks the programs into `folder`, which is made, and sees to it that they are on the disk and
/// that everybody may start them: the proxy's user is not root, whatever root's umask is.
pub(crate) fn unpack(archive: &Path, folder: &Path) -> Result<(), Fault> {
    let broken = |why: String| {
        Fault::new(format!("the archive cannot be used: {why}")).hint("nothing was changed")
    };
    let io = |error: io::Error| broken(error.to_string());
    let everybody = || fs::Permissions::from_mode(0o755);
    let made = fs::create_dir(folder).and_then(|()| fs::set_permissions(folder, everybody()));
    made.map_err(|error| Fault::new(format!("{} cannot be made: {error}", folder.display())))?;
    let file = File::open(archive).map_err(io)?;
    let mut tar = tar::Archive::new(GzDecoder::new(file));
    let mut found = Vec::new();
    for (number, entry) in tar.entries().map_err(io)?.enumerate() {
        let mut entry = entry.map_err(io)?;
        if number >= MAX_ENTRIES {
            return Err(broken(format!("it has more than {MAX_ENTRIES} entries")));
        }
        let path = entry.path().map_err(io)?.into_owned();
        // At the top, or in the one folder that archives of releases have.
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = PROGRAMS.into_iter().find(|program| Some(*program) == name) else {
            continue;
        };
        if !entry.header().entry_type().is_file() || path.components().count() > 3 {
            continue;
        }
        if found.contains(&name) {
            return Err(broken(format!("it has {name} twice")));
        }
        if entry.size() > MAX_PROGRAM {
            return Err(broken(format!("its {name} has {} bytes", entry.size())));
        }
        let made =
            OpenOptions::new().write(true).create_new(true).open(folder.join(name)).and_then(
                |mut file| {
                    io::copy(&mut entry, &mut file)?;
                    file.set_permissions(everybody())?;
                    file.sync_all()
                },
            );
        made.map_err(|error| broken(format!("{name}: {error}")))?;
        found.push(name);
    }
    match PROGRAMS.into_iter().find(|program| !found.contains(program)) {
        None => Ok(()),
        Some(missing) => Err(broken(format!("it has no {missing}"))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// An archive of files by path and content.
    pub(in crate::upgrade) fn pack(to: &Path, files: &[(&str, &[u8])]) {
        let encoder = GzEncoder::new(File::create(to).unwrap(), Compression::fast());
        let mut tar = tar::Builder::new(encoder);
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
    }

    fn said(fault: Fault) -> String {
        format!("{fault:?}")
    }

    #[test]
    fn the_three_programs_are_unpacked_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar.gz");
        let all: [(&str, &[u8]); 5] = [
            ("mini-1/README.md", b"read"),
            ("mini-1/mini", b"1"),
            ("mini-1/minid", b"2"),
            ("mini-1/a/b/minid", b"not this"),
            ("mini-1/mini-static", b"3"),
        ];
        pack(&archive, &all);
        let to = folder.path().join("new");
        unpack(&archive, &to).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["mini", "mini-static", "minid"]);
        assert_eq!(fs::read(to.join("minid")).unwrap(), b"2");
        for path in [to.clone(), to.join("minid")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o755);
        }
    }

    #[test]
    fn broken_archives_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("a.tar.gz");
        let unpacked =
            |number: &str| said(unpack(&archive, &folder.path().join(number)).unwrap_err());
        pack(&archive, &[("mini", b"1"), ("minid", b"2")]);
        assert!(unpacked("1").contains("it has no mini-static"));
        pack(&archive, &[("mini", b"1"), ("./mini", b"2")]);
        assert!(unpacked("2").contains("it has mini twice"));
        fs::write(&archive, b"no archive").unwrap();
        assert!(unpacked("3").contains("the archive cannot be used"));
        pack(&archive, &[("mini", &[7; 100_000]), ("minid", b"2"), ("mini-static", b"3")]);
        let whole = fs::read(&archive).unwrap();
        fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
        assert!(unpacked("4").contains("the archive cannot be used"));
    }

    #[tokio::test]
    async fn a_staged_file_has_its_digest_and_its_signature_if_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar.gz");
        fs::write(&file, b"abc").unwrap();
        let to = folder.path().join("staged");
        let staged = stage(file.to_str().unwrap(), &to).await.unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            staged.digest,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(!staged.signature.exists());
        fs::write(folder.path().join("a.tar.gz.minisig"), b"sig").unwrap();
        let staged = stage(file.to_str().unwrap(), &to).await.unwrap();
        assert_eq!(fs::read(staged.signature).unwrap(), b"sig");
        assert!(said(stage("http://x/y", &to).await.err().unwrap()).contains("over https"));
        assert!(stage("/no/such/file", &to).await.is_err());
    }
}
