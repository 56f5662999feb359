//! `minid units`: the units of systemd that this version runs under. They come with the program, so
//! that an installation and an upgrade need one file less to be right.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::output::{self, Fault};

macro_rules! unit {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../packaging/systemd/", $name)))
    };
}

const UNITS: [(&str, &str); 4] = [
    unit!("mini-controller.service"),
    unit!("mini-proxy.service"),
    unit!("mini-proxy.socket"),
    unit!("mini-proxy-https.socket"),
];

#[derive(Args)]
pub(crate) struct Units {
    /// Where they go: /etc/systemd/system
    folder: PathBuf,
}

/// Writes what differs, and prints the name of each that it wrote.
pub(crate) fn run(args: Units) -> Result<ExitCode, Fault> {
    for (name, text) in UNITS {
        let path = args.folder.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        put(&path, text).map_err(|error| {
            Fault::new(format!("{}: {error}", path.display())).hint("do it as root")
        })?;
        output::line(name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Whole or not at all.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let args = || Units { folder: folder.path().to_owned() };
        run(args()).unwrap();
        let path = folder.path().join("mini-proxy.socket");
        let written = || std::fs::metadata(&path).unwrap().modified().unwrap();
        let first = written();
        run(args()).unwrap();
        assert_eq!(written(), first);
        std::fs::write(&path, "changed").unwrap();
        run(args()).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("ListenStream=80"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), UNITS.len());
    }
}
