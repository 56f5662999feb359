//! What is asked of a release while nothing has changed: its version, its units, and whether it opens this
//! server's database; and, once it runs, what it says of the apps.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::output::Fault;
use crate::settings::Settings;

/// A program that says nothing within this does not run here.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// A copy of the database is brought to the release's schema.
const OPENS_WITHIN: Duration = Duration::from_secs(120);
/// How clap ends a program that was asked for a verb which it does not know.
const UNKNOWN_VERB: i32 = 2;

/// Units of systemd, by name.
pub(super) type Units = BTreeMap<String, String>;

/// A folder (0700) that goes when this does.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn make(path: PathBuf) -> io::Result<Self> {
        let this = Self(path);
        this.remove()?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&this.0)?;
        Ok(this)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// What the programs in `release` say they are; they run on this machine if they say it.
pub(super) async fn version(release: &Path) -> Result<String, Fault> {
    let said = ask(release, ["--version"], &[], ANSWERS_WITHIN).await;
    said.and_then(good).map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).map_err(
        |why| {
            Fault::new(format!("the new minid does not run on this machine: {why}"))
                .hint("nothing was changed; is it for another kind of processor?")
        },
    )
}

/// The units that a release runs under, written into `scratch`; none if it is too old to say.
pub(super) async fn units(release: &Path, scratch: &Scratch) -> Result<Option<Units>, String> {
    let words = [OsStr::new("units"), scratch.path().as_os_str()];
    let said = ask(release, words, &[], ANSWERS_WITHIN).await?;
    if said.status.code() == Some(UNKNOWN_VERB) {
        return Ok(None);
    }
    good(said)?;
    let read = || {
        let mut units = Units::new();
        for entry in fs::read_dir(scratch.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            units.insert(name, fs::read_to_string(entry.path())?);
        }
        io::Result::Ok(units)
    };
    read().map(Some).map_err(|error| error.to_string())
}

/// Lets a release open the data folder `copy`, which holds a copy of the database, as its controller
/// would open the real one; or says why it does not. No controller runs on the folder, so it opens it
/// to list its tokens.
pub(super) async fn opens(release: &Path, copy: &Path) -> Result<(), String> {
    let environment = [("MINID_DATA_DIR", copy.as_os_str())];
    ask(release, ["token", "list"], &environment, OPENS_WITHIN).await.and_then(good).map(drop)
}

/// The apps of which nothing serves, and why, as a release that runs sees it; none if it cannot tell.
pub(super) async fn apps_down(
    release: &Path,
    settings: &Settings,
) -> Option<Vec<(String, String)>> {
    let environment = settings.as_environment();
    let environment: Vec<_> =
        environment.iter().map(|(n, value)| (*n, value.as_os_str())).collect();
    // It ends with 1 if anything is wrong.
    let said = ask(release, ["status", "--json"], &environment, ANSWERS_WITHIN).await.ok()?;
    read_status(&said.stdout)
}

fn read_status(json: &[u8]) -> Option<Vec<(String, String)>> {
    let status: serde_json::Value = serde_json::from_slice(json).ok()?;
    if status.pointer("/store/readable")?.as_bool() != Some(true) {
        return None;
    }
    let down = status.pointer("/apps/down")?.as_array()?.iter();
    let word = |app: &serde_json::Value, name| Some(app.get(name)?.as_str()?.to_owned());
    down.map(|app| Some((word(app, "app")?, word(app, "why")?))).collect()
}

async fn ask(
    release: &Path,
    words: impl IntoIterator<Item = impl AsRef<OsStr>>,
    environment: &[(&str, &OsStr)],
    within: Duration,
) -> Result<Output, String> {
    let mut command = Command::new(release.join("minid"));
    command.args(words).envs(environment.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let said = tokio::time::timeout(within, command.output()).await;
    said.map_err(|_| "it does not end".to_owned())?.map_err(|error| error.to_string())
}

/// What a program said that ended with 0; else why it did not.
fn good(said: Output) -> Result<Output, String> {
    if said.status.success() {
        return Ok(said);
    }
    let words = String::from_utf8_lossy(&said.stderr);
    let error = words.lines().find_map(|line| line.strip_prefix("error: "));
    let last = || words.lines().rev().find(|line| !line.trim().is_empty());
    Err(error.or_else(last).map_or_else(|| said.status.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A release whose `minid` is this script.
    fn release(script: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (text, program) = (folder.path().join("script"), folder.path().join("minid"));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // By another process: a file that this one has open to write, if only in a child of another
        // test's, could not be executed.
        let mut install = std::process::Command::new("install");
        assert!(install.arg("-m755").args([&text, &program]).status().unwrap().success());
        folder
    }

    fn scratch(place: &tempfile::TempDir) -> Scratch {
        Scratch::make(place.path().join("scratch")).unwrap()
    }

    #[tokio::test]
    async fn what_a_release_writes_are_its_units_and_one_without_the_verb_has_none() {
        let new = release("[ $1 = units ] && echo '[Unit]' >\"$2/a.service\" && echo a.service");
        let found = units(new.path(), &scratch(&new)).await.unwrap().unwrap();
        assert_eq!(found, Units::from([("a.service".into(), "[Unit]\n".into())]));
        assert!(!new.path().join("scratch").exists(), "it is gone with its value");
        let old = release("echo \"error: unrecognized subcommand 'units'\" >&2; exit 2");
        assert_eq!(units(old.path(), &scratch(&old)).await, Ok(None));
        let broken = release("echo 'INFO a line'; echo 'error: no room' >&2; exit 1");
        assert_eq!(units(broken.path(), &scratch(&broken)).await, Err("no room".into()));
    }

    #[tokio::test]
    async fn why_a_release_does_not_run_or_open_the_database_is_said() {
        let good = release("[ \"$1\" = --version ] && echo 'minid 1.2.3'");
        assert_eq!(version(good.path()).await.unwrap(), "minid 1.2.3");
        let other = release("exit 3");
        let said = version(other.path()).await.unwrap_err().words();
        assert!(said.contains("does not run on this machine: exit status: 3"), "{said}");
        let none = tempfile::tempdir().unwrap();
        assert!(version(none.path()).await.is_err());
        let newer = release(
            "[ \"$MINID_DATA_DIR\" = /copy ] && echo 'error: of a newer version' >&2; exit 1",
        );
        let said = opens(newer.path(), Path::new("/copy")).await;
        assert_eq!(said, Err("of a newer version".into()));
    }

    #[test]
    fn apps_that_are_down_are_read_from_a_status_that_can_tell() {
        let text = |readable| {
            format!(
                r#"{{"well": false, "store": {{"readable": {readable}, "more": 1}},
                    "apps": {{"all": 2, "down": [{{"app": "blue", "why": "it exited"}}]}}}}"#
            )
        };
        let down = vec![("blue".to_owned(), "it exited".to_owned())];
        assert_eq!(read_status(text(true).as_bytes()), Some(down));
        assert_eq!(read_status(text(false).as_bytes()), None);
        assert_eq!(read_status(b"error"), None);
    }
}
