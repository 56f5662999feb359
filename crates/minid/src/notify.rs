//! Telling the service manager what happens: sd_notify(3), one datagram to `NOTIFY_SOCKET`.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub(crate) const SOCKET: &str = "NOTIFY_SOCKET";

/// It serves.
pub(crate) fn ready() {
    tell("READY=1");
}

/// It is about to end.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

/// A reload begins; [`reloaded`] ends it. The time is what `Type=notify-reload` asks for.
pub(crate) fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// It serves again; `main_pid` is the service's process from here on, if that has changed.
pub(crate) fn reloaded(main_pid: Option<u32>) {
    match main_pid {
        Some(pid) => tell(&format!("MAINPID={pid}\nREADY=1")),
        None => ready(),
    }
}

fn tell(state: &str) {
    let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else { return };
    if let Err(error) = send(name.as_bytes(), state) {
        tracing::warn!(%error, state, "the service manager cannot be told");
    }
}

/// `@` begins a name in the abstract namespace (unix(7)).
fn send(name: &[u8], state: &str) -> io::Result<()> {
    let address = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_names_are_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let mut buf = [0; 64];
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_bytes(), "READY=1").unwrap();
        assert_eq!(by_path.recv(&mut buf).unwrap(), 7);
        let name = format!("mini-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        send(format!("@{name}").as_bytes(), "STOPPING=1").unwrap();
        let n = by_name.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"STOPPING=1");
    }
}
