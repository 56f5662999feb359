//! Windows.

use std::borrow::Cow;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crossterm::terminal;
use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close};

use crate::settings::Vars;

/// What has to be set for [`config_folder`] to be known.
pub(crate) const HOME: &str = "APPDATA";

/// `%APPDATA%`: the user's settings, that go along with a roaming profile.
pub(crate) fn config_folder(vars: &Vars) -> Option<PathBuf> {
    vars.get(HOME).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// What is below a user's profile is that user's already, by inheritance.
pub(crate) fn create_private_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    File::create(path)
}

/// There are no modes to tell by.
pub(crate) fn is_open_to_others(_: &Path) -> bool {
    false
}

/// No server runs here.
pub(crate) fn may_connect(_: &Path) -> bool {
    false
}

/// A path inside a source, its parts divided by `/`.
pub(crate) fn with_slashes(inside: &Path) -> Cow<'_, [u8]> {
    let parts: Vec<&[u8]> =
        inside.components().map(|part| part.as_os_str().as_encoded_bytes()).collect();
    Cow::Owned(parts.join(&b'/'))
}

/// Where a link leads, its parts divided by `/`.
pub(crate) fn link_with_slashes(to: String) -> String {
    to.replace('\\', "/")
}

/// Files have no such mode here: what Linux would run is one, a script or an ELF file.
pub(crate) fn is_executable(path: &Path, _: &Metadata) -> io::Result<bool> {
    let mut start = Vec::with_capacity(4);
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start.starts_with(b"#!") || start == b"\x7fELF")
}

pub(crate) fn special(_: &Metadata) -> &'static str {
    "device"
}

/// The console is as it always is before.
pub(crate) struct Before(());

/// Every key comes through at once, unseen, Ctrl-C among them.
pub(crate) fn silence_terminal() -> io::Result<Before> {
    terminal::enable_raw_mode()?;
    Ok(Before(()))
}

/// How it is now, and how it would be raw.
pub(crate) fn raw_terminal() -> io::Result<(Before, impl FnOnce() -> io::Result<()>)> {
    Ok((Before(()), terminal::enable_raw_mode))
}

impl Before {
    pub(crate) fn restore(&self) -> io::Result<()> {
        terminal::disable_raw_mode()
    }
}

/// Rows and columns; none from a terminal that does not know.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let (columns, rows) = terminal::size().ok()?;
    (rows > 0 && columns > 0).then_some((rows, columns))
}

/// Tells when the terminal's size changes. Nothing here says so: it is looked at.
pub(crate) struct Resizes(Option<(u16, u16)>);

impl Resizes {
    const EVERY: Duration = Duration::from_millis(500);

    pub(crate) fn of_terminal() -> Self {
        Self(terminal_size())
    }

    pub(crate) async fn next(&mut self) {
        loop {
            tokio::time::sleep(Self::EVERY).await;
            let size = terminal_size();
            if size != self.0 {
                self.0 = size;
                return;
            }
        }
    }
}

/// Waits for what asks this process to end; the number of the signal that does so elsewhere.
pub(crate) async fn end_signal() -> u8 {
    macro_rules! wait {
        ($listen:ident) => {
            async {
                match $listen() {
                    Ok(mut signal) => drop(signal.recv().await),
                    Err(_) => std::future::pending().await,
                }
            }
        };
    }
    tokio::select! {
        () = wait!(ctrl_c) => 2,
        () = wait!(ctrl_break) => 3,
        () = wait!(ctrl_close) => 1,
    }
}

/// What opens an address in the user's browser.
pub(crate) fn browser(_: &Vars, url: &str) -> Option<Command> {
    let mut command = Command::new("rundll32.exe");
    command.args(["url.dll,FileProtocolHandler", url]);
    Some(command)
}
