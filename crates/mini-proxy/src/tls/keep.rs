//! The folder of certificates: `tls/` in the data folder, 0700, files 0600.
//!
//! One file for each, named after its digest. A file is PEM, as other tools read it, below two
//! lines of ours, which they pass over: `mini-certificate 1 BLAKE3-OF-THE-REST`, and the names. So
//! damage to one file costs one certificate, and a change of one writes one.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use mini_core::control::{Certificate, SecretPem};

use super::certs::Held;

const MAGIC: &str = "mini-certificate 1";
const ENDING: &str = "pem";
/// Where the chain ends and the key begins.
const KEY: &str = "private key\n";

/// Every certificate of the folder but the proxy's own; what is damaged is said and passed over.
pub(super) fn read_all(folder: &Path) -> Vec<Arc<Held>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let path = folder.display();
            tracing::error!(%error, %path, "the certificates cannot be read");
            return Vec::new();
        }
    };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == ENDING))
        .filter(|path| path.file_name() != Some(super::door::FILE.as_ref()))
        .collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        match read(&path).and_then(|c| Held::read(&c).map_err(io::Error::other)) {
            Ok(held) => all.push(Arc::new(held)),
            Err(error) => {
                let path = path.display();
                tracing::error!(%error, %path, "a certificate on disk is passed over");
            }
        }
    }
    all
}

/// Makes the folder hold these, beside the proxy's own. Those that cannot be used are left out.
pub(super) fn write_all(folder: &Path, certificates: &[Certificate]) -> io::Result<()> {
    let there: HashSet<String> = read_all(folder).iter().map(|held| name_of(held)).collect();
    let mut wanted = HashSet::new();
    for certificate in certificates {
        let Ok(held) = Held::read(certificate) else { continue };
        let name = name_of(&held);
        if !there.contains(&name) {
            write(folder, &name, certificate)?;
        }
        wanted.insert(name);
    }
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != super::door::FILE && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

fn name_of(held: &Held) -> String {
    format!("{}.{ENDING}", &held.digest.to_hex()[..32])
}

/// Reads one file.
pub(super) fn read(path: &Path) -> io::Result<Certificate> {
    let text = fs::read_to_string(path)?;
    let damaged = || io::Error::other("it is damaged");
    let (first, rest) = text.split_once('\n').ok_or_else(damaged)?;
    let sum = first.strip_prefix(MAGIC).ok_or_else(damaged)?.trim();
    if sum != blake3::hash(rest.as_bytes()).to_hex().as_str() {
        return Err(damaged());
    }
    let (names, rest) = rest.split_once('\n').ok_or_else(damaged)?;
    let (chain, key) = rest.split_once(KEY).ok_or_else(damaged)?;
    Ok(Certificate {
        names: names.split(' ').filter(|n| !n.is_empty()).map(str::to_owned).collect(),
        chain: chain.to_owned(),
        key: SecretPem(key.to_owned()),
    })
}

/// Writes one file; once this returns it survives a power cut.
pub(super) fn write(folder: &Path, name: &str, certificate: &Certificate) -> io::Result<()> {
    make_private(folder)?;
    let Certificate { names, chain, key } = certificate;
    let (names, key) = (names.join(" "), &key.0);
    // Each part ends its line.
    let line_end = |text: &str| if text.ends_with('\n') { "" } else { "\n" };
    let rest = format!("{names}\n{chain}{}{KEY}{key}{}", line_end(chain), line_end(key));
    let path = folder.join(name);
    let temporary = path.with_extension("tmp");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{MAGIC} {}", blake3::hash(rest.as_bytes()).to_hex())?;
    file.write_all(rest.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(folder)?.sync_all()
}

fn make_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut mode = fs::metadata(folder)?.permissions();
    if mode.mode() & 0o077 != 0 {
        mode.set_mode(0o700);
        fs::set_permissions(folder, mode)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::certs::tests::made;
    use super::*;

    fn names(folder: &Path) -> Vec<Certificate> {
        let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        files.map(|path| read(&path).unwrap()).collect()
    }

    #[test]
    fn what_was_written_is_read_and_what_is_gone_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("tls");
        assert!(read_all(&folder).is_empty());
        let (a, b) = (made(&["a.test", "*.a.test"]), made(&["b.test"]));
        write_all(&folder, &[a.clone(), b.clone()]).unwrap();
        assert_eq!(read_all(&folder).len(), 2);
        write_all(&folder, std::slice::from_ref(&a)).unwrap();
        let there = names(&folder);
        assert_eq!(there.len(), 1);
        assert_eq!(there[0].names, a.names);
        let [again, first] = [&there[0], &a].map(|c| Held::read(c).unwrap().digest);
        assert_eq!(again, first);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn a_damaged_file_is_passed_over_and_mended_by_the_next_write() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        let (a, b) = (made(&["a.test"]), made(&["b.test"]));
        write_all(folder, &[a.clone(), b.clone()]).unwrap();
        let path = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(read_all(folder).len(), 1, "byte {at} was flipped unseen");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(read_all(folder).len(), 1, "cut at {at} unseen");
        }
        write_all(folder, &[a, b]).unwrap();
        assert_eq!(read_all(folder).len(), 2);
    }
}
