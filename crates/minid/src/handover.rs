//! Listening sockets on their way from one process to another: over a Unix socket, with
//! `SCM_RIGHTS` (unix(7)). The receiver finds its end, its *tie*, at standard input. Over it the
//! receiver says that it serves; a child also notices the death of its parent by the end of it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The kernel passes no more at once (`SCM_MAX_FD`).
const MAX_LISTENERS: usize = 250;
/// What a process says over its tie when it serves.
pub(crate) const READY: u8 = b'R';

/// Listening sockets, by what is spoken on them.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) http: Vec<TcpListener>,
    pub(crate) https: Vec<TcpListener>,
}

/// What the message says of each socket, one byte each, in the order of the handles.
const HTTP: u8 = b'h';
const HTTPS: u8 = b's';

impl Listeners {
    pub(crate) fn is_empty(&self) -> bool {
        self.http.is_empty() && self.https.is_empty()
    }

    /// Other handles on the same sockets.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let clone = |all: &[TcpListener]| {
            all.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>()
        };
        Ok(Self { http: clone(&self.http)?, https: clone(&self.https)? })
    }
}

/// Sends listeners; the other end gets its own handles on the same sockets.
pub(crate) fn send(to: &UnixStream, listeners: &Listeners) -> io::Result<()> {
    let handles: Vec<_> = listeners.http.iter().chain(&listeners.https).map(AsFd::as_fd).collect();
    let mut kinds = vec![HTTP; listeners.http.len()];
    kinds.resize(handles.len(), HTTPS);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::Error::other("too many listening sockets"));
    }
    sendmsg(to, &[IoSlice::new(&kinds)], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives what [`send`] sent.
fn receive(from: &UnixStream) -> io::Result<Listeners> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut kinds = [0; MAX_LISTENERS];
    recvmsg(from, &mut [IoSliceMut::new(&mut kinds)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut listeners = Listeners::default();
    let handles = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(handles) => Some(handles),
        _ => None,
    });
    for (handle, kind) in handles.flatten().zip(kinds) {
        let listener = TcpListener::from(handle);
        if kind == HTTPS { listeners.https.push(listener) } else { listeners.http.push(listener) }
    }
    if listeners.is_empty() { Err(io::Error::other("no sockets were sent")) } else { Ok(listeners) }
}

/// A process's end of the tie to the one that started it.
pub(crate) struct Tie(UnixStream);

impl Tie {
    /// It is found at standard input.
    pub(crate) fn at_stdin() -> io::Result<Self> {
        let handle: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from(handle)))
    }

    pub(crate) fn listeners(&self) -> io::Result<Listeners> {
        receive(&self.0)
    }

    /// A handle to say over that this process serves.
    pub(crate) fn teller(&self) -> io::Result<Teller> {
        self.0.try_clone().map(Teller)
    }

    /// Ends when the other process is gone.
    pub(crate) async fn gone(mut self) {
        let waited = tokio::task::spawn_blocking(move || {
            let mut byte = [0];
            while matches!(self.0.read(&mut byte), Ok(1)) {}
        });
        if waited.await.is_err() {
            std::future::pending().await
        }
    }
}

pub(crate) struct Teller(UnixStream);

impl Teller {
    pub(crate) fn serves(mut self) {
        if let Err(error) = self.0.write_all(&[READY]) {
            tracing::warn!(%error, "the process that started this one cannot be told that it serves");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_arrive_as_what_they_are_and_listen() {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let sent = Listeners { http: vec![bind(), bind()], https: vec![bind()] };
        let addresses =
            |all: &[TcpListener]| Vec::from_iter(all.iter().map(|l| l.local_addr().unwrap()));
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, &sent).unwrap();
        let received = receive(&there).unwrap();
        assert_eq!(addresses(&received.http), addresses(&sent.http));
        assert_eq!(addresses(&received.https), addresses(&sent.https));
        let address = addresses(&sent.https)[0];
        drop(sent);
        std::net::TcpStream::connect(address).unwrap();
        received.https[0].accept().unwrap();
        drop(here);
        assert!(receive(&there).is_err());
    }
}
