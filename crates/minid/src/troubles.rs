//! The last warnings and errors that a process of ours logged, kept in the data folder for
//! `minid status`: two files of bounded size, one JSON document a line.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

const NAME: &str = "troubles.log";
/// Of each of the two files.
const MAX_BYTES: u64 = 64 << 10;
const MAX_TEXT: usize = 1000;

/// One line that was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trouble {
    pub(crate) at: Timestamp,
    /// `controller`, `proxy` or `run`.
    pub(crate) process: String,
    pub(crate) level: String,
    pub(crate) message: String,
    /// The rest of the line: `key=value …`.
    #[serde(default)]
    pub(crate) details: String,
    /// How often it was logged since the one before it in the list.
    #[serde(default = "once")]
    pub(crate) times: u32,
}

fn once() -> u32 {
    1
}

struct Place {
    path: PathBuf,
    process: &'static str,
}

static PLACE: OnceLock<Place> = OnceLock::new();

/// From here on, warnings and errors of this process are kept in the data folder.
pub(crate) fn keep_in(data_dir: &Path, process: &'static str) {
    let _ = PLACE.set(Place { path: data_dir.join(NAME), process });
}

/// The part of the log that keeps them.
pub(crate) struct Keep;

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let Some(place) = PLACE.get() else { return };
        let mut text = Text::default();
        event.record(&mut text);
        let trouble = Trouble {
            at: Timestamp::now(),
            process: place.process.to_owned(),
            level: level.to_string(),
            message: text.message,
            details: text.details,
            times: 1,
        };
        // A disk that takes nothing is a trouble of its own, and is seen by other means.
        let _ = append(&place.path, &trouble);
    }
}

#[derive(Default)]
struct Text {
    message: String,
    details: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let done = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => {
                let space = if self.details.is_empty() { "" } else { " " };
                write!(self.details, "{space}{name}={value:?}")
            }
        };
        debug_assert!(done.is_ok(), "a string takes all");
        cut(&mut self.message);
        cut(&mut self.details);
    }
}

fn cut(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
}

fn append(path: &Path, trouble: &Trouble) -> std::io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() >= MAX_BYTES) {
        std::fs::rename(path, older(path))?;
    }
    let mut line = serde_json::to_vec(trouble)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    // In one piece, since other processes write here too.
    file.write_all(&line)
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A file of the proxy's is another user's: only a plain one is read, and not without end.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(4 * MAX_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

/// The last `n` in these folders (which may be one) that differ in more than their details, oldest first.
pub(crate) fn last(folders: &[&Path], n: usize) -> Vec<Trouble> {
    let mut all: Vec<Trouble> = Vec::new();
    for (at, folder) in folders.iter().enumerate() {
        if folders[..at].contains(folder) {
            continue;
        }
        let path = folder.join(NAME);
        for file in [older(&path), path] {
            let text = read(&file).unwrap_or_default();
            let lines = text.split(|byte| *byte == b'\n');
            all.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()));
        }
    }
    // Stable: what one file says in an order stays in it.
    all.sort_by_key(|trouble| trouble.at);
    let mut kept: VecDeque<Trouble> = VecDeque::new();
    for mut trouble in all {
        let same = |t: &Trouble| (&t.process, &t.message) == (&trouble.process, &trouble.message);
        if let Some(before) = kept.iter().position(same).and_then(|at| kept.remove(at)) {
            trouble.times += before.times;
        }
        kept.push_back(trouble);
    }
    kept.drain(..kept.len().saturating_sub(n));
    kept.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(message: &str) -> Trouble {
        Trouble {
            at: Timestamp::UNIX_EPOCH,
            process: "proxy".into(),
            level: "WARN".into(),
            message: message.into(),
            details: "x=1".into(),
            times: 1,
        }
    }

    #[test]
    fn the_last_ones_are_kept_in_bounded_space_and_told_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last(&[folder.path(), folder.path()], 5), []);
        let path = folder.path().join(NAME);
        for n in 0..3000 {
            append(&path, &trouble(["a", "b", "c"][n % 3])).unwrap();
        }
        append(&path, &trouble("d")).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{half").unwrap();
        let found = last(&[folder.path(), folder.path()], 2);
        assert_eq!(found.iter().map(|t| t.message.as_str()).collect::<Vec<_>>(), ["c", "d"]);
        assert!(found[0].times > 100 && found[1].times == 1, "{found:?}");
        let bytes: u64 = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes < 2 * MAX_BYTES + 4096, "{bytes}");
        let mut long = "é".repeat(1000);
        cut(&mut long);
        assert!(long.len() <= MAX_TEXT + 3);
    }
}
