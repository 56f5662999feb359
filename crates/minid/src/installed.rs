//! The settings of an installed server, for who types `minid status` on it: the file that the units
//! read too. A process that was told where its data lies, by flag or environment, goes by that.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

/// What the installer writes.
const FILE: &str = "/etc/mini/minid.env";
const DATA_DIR: &str = "MINID_DATA_DIR";
/// These run under a service manager, which gives them what it wants to.
const SERVICES: [&str; 3] = ["run", "controller", "proxy"];

/// Starts this program anew, in this process, with the installed settings; returns if there are none
/// that it should have. (An environment cannot be changed safely in any other way.)
pub(crate) fn take_settings() {
    let arguments: Vec<String> =
        std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let told = arguments.iter().any(|a| a == "--data-dir" || a.starts_with("--data-dir="));
    let service = arguments.get(1).is_none_or(|verb| SERVICES.contains(&verb.as_str()));
    if told || service || std::env::var_os(DATA_DIR).is_some() {
        return;
    }
    let Ok(text) = std::fs::read_to_string(FILE) else { return };
    let settings = read(&text);
    if !settings.contains_key(DATA_DIR) {
        return;
    }
    let fresh = settings.into_iter().filter(|(name, _)| std::env::var_os(name).is_none());
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = Command::new(program);
    if let Some(name) = std::env::args_os().next() {
        again.arg0(name);
    }
    let error = again.args(std::env::args_os().skip(1)).envs(fresh).exec();
    tracing::warn!(%error, "{FILE} could not be used");
}

/// Where the data of an installed server lies.
pub(crate) fn data_dir() -> Option<PathBuf> {
    let text = std::fs::read_to_string(FILE).ok()?;
    read(&text).remove(DATA_DIR).map(PathBuf::from)
}

/// `NAME=value` a line, as systemd reads an EnvironmentFile: quotes around a whole value, and lines
/// that begin with `#` or `;`, mean nothing.
fn read(text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';'])) {
        let Some((name, value)) = line.split_once('=') else { continue };
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        all.insert(name.trim().to_owned(), quoted.unwrap_or(value).to_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_the_service_manager_reads_it() {
        let all = read("# a\n; b\nMINID_DOMAIN=a.test\n\nMINID_X = \"two words\"\nno\nY='='\n");
        let all: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(all, [("MINID_DOMAIN", "a.test"), ("MINID_X", "two words"), ("Y", "=")]);
    }
}
