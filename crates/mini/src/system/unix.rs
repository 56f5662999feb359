//! Linux and macOS.

use std::borrow::Cow;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::settings::Vars;

/// What has to be set for [`config_folder`] to be known.
pub(crate) const HOME: &str = "HOME";

/// `$XDG_CONFIG_HOME`, or `~/.config` (XDG Base Directory Specification).
pub(crate) fn config_folder(vars: &Vars) -> Option<PathBuf> {
    // "All paths must be absolute. If a relative path is encountered, … ignore it."
    let xdg = vars.get("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    xdg.or_else(|| vars.get(HOME).map(|home| Path::new(home).join(".config")))
}

/// A folder for its owner alone, and those above it.
pub(crate) fn create_private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// An empty file for its owner alone.
pub(crate) fn create_private_file(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Whether others than its owner may do something with it.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
}

/// Whether a socket is there that this user may connect to.
pub(crate) fn may_connect(socket: &Path) -> bool {
    rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok()
}

/// A path inside a source, its parts divided by `/`.
pub(crate) fn with_slashes(inside: &Path) -> Cow<'_, [u8]> {
    Cow::Borrowed(inside.as_os_str().as_encoded_bytes())
}

/// Where a link leads, its parts divided by `/`.
pub(crate) fn link_with_slashes(to: String) -> String {
    to
}

pub(crate) fn is_executable(_: &Path, meta: &Metadata) -> io::Result<bool> {
    Ok(meta.permissions().mode() & 0o111 != 0)
}

/// What that is neither file, folder nor link.
pub(crate) fn special(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "FIFO"
    } else {
        "device"
    }
}

/// How a terminal was before.
pub(crate) struct Before(Termios);

/// Every key comes through at once, unseen, Ctrl-C among them; output is as it was.
pub(crate) fn silence_terminal() -> io::Result<Before> {
    let before = termios::tcgetattr(io::stdin())?;
    let mut silent = before.clone();
    silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    // Without a flush: what was typed ahead is not lost.
    termios::tcsetattr(io::stdin(), OptionalActions::Now, &silent)?;
    Ok(Before(before))
}

/// How it is now, and how it would be raw.
pub(crate) fn raw_terminal() -> io::Result<(Before, impl FnOnce() -> io::Result<()>)> {
    let before = termios::tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    raw.make_raw();
    let set = move || Ok(termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?);
    Ok((Before(before), set))
}

impl Before {
    pub(crate) fn restore(&self) -> io::Result<()> {
        Ok(termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0)?)
    }
}

/// Rows and columns; none from a terminal that does not know.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Tells when the terminal's size changes.
pub(crate) struct Resizes(Option<Signal>);

impl Resizes {
    pub(crate) fn of_terminal() -> Self {
        Self(signal(SignalKind::window_change()).ok())
    }

    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Waits for what asks this process to end; its number (signal(7)).
pub(crate) async fn end_signal() -> u8 {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => 2,
        () = wait(SignalKind::terminate()) => 15,
        () = wait(SignalKind::hangup()) => 1,
        () = wait(SignalKind::quit()) => 3,
    }
}

/// What opens an address in the user's browser; none without a desktop.
pub(crate) fn browser(vars: &Vars, url: &str) -> Option<Command> {
    let desktop = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| vars.get(v).is_some());
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if desktop {
        "xdg-open"
    } else {
        return None;
    };
    let mut command = Command::new(program);
    command.arg(url);
    Some(command)
}
