//! `minid units`: the units of systemd that this version runs under. They come with the program, so
//! that an installation and an upgrade need one file less to be right.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::output::{self, Fault};

macro_rules! unit {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../../packaging/systemd/", $name)))
    };
}

const UNITS: [(&str, &str); 5] = [
    unit!("mini-controller.service"),
    unit!("mini-proxy.service"),
    unit!("mini-proxy.socket"),
    unit!("mini-proxy-https.socket"),
    unit!("mini-recover.service"),
];

#[derive(Args)]
pub(crate) struct Units {
    /// Where they go: /etc/systemd/system
    folder: PathBuf,
}

/// Writes what differs, and prints the name of each that it wrote.
pub(crate) fn run(args: Units) -> Result<ExitCode, Fault> {
    let written = write(&args.folder, UNITS).map_err(|error| {
        Fault::new(format!("{}: {error}", args.folder.display())).hint("do it as root")
    })?;
    written.into_iter().for_each(output::line);
    Ok(ExitCode::SUCCESS)
}

/// Writes those that differ, by name and text, each whole or not at all; the names of these.
pub(crate) fn write<'a>(
    folder: &Path,
    units: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> io::Result<Vec<&'a str>> {
    let mut written = Vec::new();
    for (name, text) in units {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        written.push(name);
    }
    File::open(folder)?.sync_all()?;
    Ok(written)
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
