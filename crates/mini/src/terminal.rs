//! The user's terminal while a remote command has it: raw, its size, and itself again at the end.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use crate::system::{self, Before};

/// How it was before; while this is there, it is raw.
static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

/// Whether both ends are a terminal.
pub(crate) fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Rows and columns.
pub(crate) fn size() -> (u16, u16) {
    // Of one that does not know: the size of a VT100.
    system::terminal_size().unwrap_or((24, 80))
}

/// Raw until it is dropped.
pub(crate) struct Raw(());

impl Raw {
    /// From here on every key goes to the remote command, Ctrl-C among them.
    pub(crate) fn begin() -> io::Result<Self> {
        let (before, set) = system::raw_terminal()?;
        // A panic may end the process without unwinding.
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            told(panic);
        }));
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Self(());
        set()?;
        Ok(guard)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was; does nothing the second time.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Nothing can be done about a terminal that is gone.
        let _ = before.restore();
    }
}
