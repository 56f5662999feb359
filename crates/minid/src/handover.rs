//! Listening sockets on their way from one process to another: over a Unix socket, with
//! `SCM_RIGHTS` (unix(7)). The receiver finds its end at standard input, and notices the death of
//! the sender by the end of that stream.

use std::io::{self, IoSlice, IoSliceMut, Read};
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

/// Sends listeners; the other end gets its own handles on the same sockets.
pub(crate) fn send(to: &UnixStream, listeners: &[TcpListener]) -> io::Result<()> {
    let handles: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&handles)) {
        return Err(io::Error::other("too many listening sockets"));
    }
    sendmsg(to, &[IoSlice::new(b"L")], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Receives what [`send`] sent.
fn receive(from: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut listeners = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(handles) = message {
            listeners.extend(handles.map(TcpListener::from));
        }
    }
    if listeners.is_empty() {
        Err(io::Error::other("the parent sent no sockets"))
    } else {
        Ok(listeners)
    }
}

/// A child's tie to its parent.
pub(crate) struct Parent(UnixStream);

impl Parent {
    /// The parent's end at standard input.
    pub(crate) fn at_stdin() -> io::Result<Self> {
        let handle: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from(handle)))
    }

    pub(crate) fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        receive(&self.0)
    }

    /// Ends when the parent is gone.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_arrives_and_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, &[listener]).unwrap();
        let received = receive(&there).unwrap();
        assert_eq!(received[0].local_addr().unwrap(), address);
        std::net::TcpStream::connect(address).unwrap();
        received[0].accept().unwrap();
        drop(here);
        assert!(receive(&there).is_err());
    }
}
