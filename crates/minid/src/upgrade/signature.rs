//! Who made an archive: signatures as minisign makes them (<https://jedisct1.github.io/minisign/>).

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use minisign_verify::{PublicKey, Signature};

use crate::output::Fault;

const PIECE: usize = 1 << 16;
/// A signature file has four lines.
const MAX_SIGNATURE: u64 = 16 << 10;

/// Where the operator's public key lies, unless another is named.
pub(crate) const KEY_FILE: &str = "/etc/mini/upgrade.pub";

/// What an archive is believed by.
#[derive(Debug)]
pub(crate) enum Trust {
    /// A signature of this key, in the file beside the archive.
    Key(Box<PublicKey>, PathBuf),
    /// Its SHA-256 in hex, which the operator has named.
    Digest(String),
}

impl Trust {
    /// A key that is there is asked for even where a digest was named.
    pub(crate) fn of(key: Option<&Path>, digest: Option<String>) -> Result<Self, Fault> {
        let path = key.unwrap_or(Path::new(KEY_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && key.is_none() => {
                let digest = digest.ok_or_else(|| {
                    Fault::new(format!("nothing says whose upgrades to trust: there is no {}", path.display()))
                        .hint("put the public key of those who build mini there (minisign's), or \
                               pass --sha256 with the archive's digest from a source that you trust")
                })?;
                return sha256(&digest).map(Self::Digest);
            }
            Err(error) => return Err(Fault::new(format!("{}: {error}", path.display()))),
        };
        // minisign's own key files have a comment before the key.
        let key = PublicKey::decode(text.trim()).or_else(|_| PublicKey::from_base64(text.trim()));
        let key = key.map_err(|error| {
            Fault::new(format!("{} is no public key of minisign: {error}", path.display()))
                .hint("`minisign -G` makes a pair of keys; minisign.pub is the public one")
        })?;
        Ok(Self::Key(Box::new(key), path.to_owned()))
    }

    /// Reads the archive to its end; it is what was signed or named.
    pub(crate) fn check(
        &self,
        archive: &Path,
        signature: &Path,
        digest: &str,
    ) -> Result<(), Fault> {
        match self {
            Self::Digest(named) if named == digest => Ok(()),
            Self::Digest(named) => Err(Fault::new(format!(
                "the archive's SHA-256 is {digest}, and not {named}: it is broken, or not what you meant"
            ))
            .hint("get it again; nothing was changed")),
            Self::Key(key, path) => verify(key, path, archive, signature),
        }
    }
}

fn verify(key: &PublicKey, from: &Path, archive: &Path, at: &Path) -> Result<(), Fault> {
    let wrong = |why: String| {
        Fault::new(why).hint(format!(
            "only what is signed by the key in {} is installed; nothing was changed",
            from.display()
        ))
    };
    let mut text = String::new();
    let read = File::open(at).and_then(|file| file.take(MAX_SIGNATURE).read_to_string(&mut text));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong(
            "there is no signature beside the archive: a file of its name with .minisig at the end"
                .to_owned(),
        ),
        _ => wrong(format!("the archive's signature cannot be read: {error}")),
    })?;
    let no_signature =
        |error| wrong(format!("what is beside the archive is no signature: {error}"));
    let signature = Signature::decode(&text).map_err(no_signature)?;
    let mut verifier = key.verify_stream(&signature).map_err(no_signature)?;
    let cannot = |error: io::Error| wrong(format!("the archive cannot be read: {error}"));
    let mut archive = File::open(archive).map_err(cannot)?;
    let mut piece = vec![0; PIECE];
    loop {
        match archive.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => verifier.update(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
    }
    verifier
        .finalize()
        .map_err(|error| wrong(format!("the archive is not signed by that key ({error})")))
}

fn sha256(text: &str) -> Result<String, Fault> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text)
    } else {
        Err(Fault::new("--sha256: a digest has 64 hexadecimal digits")
            .hint("`sha256sum FILE` prints one"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    // Made with minisign 0.11.
    const KEY: &str = "untrusted comment: minisign public key 307F6D73AB39D072
RWRy0Dmrc21/MHtMNdDOlaQG+L/s3ypY9lpU0FJ0QPQcJ2kxjWsm1OgL
";
    const SIGNED: &str = "an archive\n";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RURy0Dmrc21/MG4JfyGGexh3bugHN75J+Uh0lrN4NyxsLO6PrzP4Oh+04nr/uwJvcCYWdN7oIkU981AQ9bJr/8DvEZg9JdLmdwE=
trusted comment: mini test
o+FmXYB5RiwdqxH82blRFyc1CSWzZuF0iN74R9UtSFnIe77veuCEqSLkzpIoK0OWeqO6ZnbgBJwB8JEk/FexDw==
";
    /// Of the same key, over the archive itself and not its hash.
    const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWRy0Dmrc21/MD0XFtyQ8bgfneko8UB07GF8qr51TKWfZJe+yof6HYC0n9PtJfHGcJ0V1RgjwNsCWeLaOvwxPF4flQU87ZANowY=
trusted comment: legacy
bSZomKjnHPR7fWDFV1FV5pAOzrnXTgneqhBcPMO3fYYh8Hrs1Yh4/jhaQWFZfgsE/oSvQQLlNSs8yvOphLkIAQ==
";

    struct Case {
        folder: tempfile::TempDir,
    }

    impl Case {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }

        fn check(&self, signed: &str, signature: &str) -> Result<(), String> {
            let key = self.file("key", KEY);
            let (archive, at) = (self.file("a", signed), self.file("a.minisig", signature));
            let trust = Trust::of(Some(&key), None).unwrap();
            trust.check(&archive, &at, "").map_err(|fault| fault.words())
        }
    }

    #[test]
    fn only_what_the_key_signed_is_believed() {
        let case = Case::new();
        assert_eq!(case.check(SIGNED, SIGNATURE), Ok(()));
        let wrong = case.check("an archivE\n", SIGNATURE).unwrap_err();
        assert!(wrong.contains("not signed by that key"), "{wrong}");
        assert!(case.check(SIGNED, LEGACY).is_err());
        assert!(case.check(SIGNED, "").is_err());
        // The trusted comment is signed as well.
        assert!(case.check(SIGNED, &SIGNATURE.replace("mini test", "mini best")).is_err());
    }

    #[test]
    fn a_signature_that_is_missing_is_said() {
        let case = Case::new();
        let key = case.file("key", "RWRy0Dmrc21/MHtMNdDOlaQG+L/s3ypY9lpU0FJ0QPQcJ2kxjWsm1OgL\n");
        let archive = case.file("a", SIGNED);
        let trust = Trust::of(Some(&key), Some("00".repeat(32))).unwrap();
        assert!(matches!(trust, Trust::Key(..)), "a key that is there is asked for");
        let missing = case.folder.path().join("a.minisig");
        let said = trust.check(&archive, &missing, &"00".repeat(32)).unwrap_err().words();
        assert!(said.contains("there is no signature beside the archive"), "{said}");
    }

    #[test]
    fn without_a_key_the_digest_must_be_named() {
        let trust = Trust::Digest("ab".repeat(32));
        assert!(trust.check(Path::new("/a"), Path::new("/s"), &"ab".repeat(32)).is_ok());
        let said = trust.check(Path::new("/a"), Path::new("/s"), &"cd".repeat(32)).unwrap_err();
        assert!(said.words().contains("it is broken, or not what you meant"), "{}", said.words());
        assert!(sha256("abc").is_err());
        assert!(sha256(&"AB".repeat(32)).is_ok());
        let case = Case::new();
        let broken = case.file("key", "no key");
        assert!(Trust::of(Some(&broken), None).is_err());
        assert!(Trust::of(Some(&case.folder.path().join("none")), None).is_err());
    }
}
