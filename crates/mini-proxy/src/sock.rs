//! The two ends of a connection, and the bytes between them.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::worker::{LARGE, SMALL, Worker};

/// Any other stream: a Unix socket, or what TLS makes of a connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One connection's socket.
pub(crate) enum Sock {
    /// As it was accepted: many a connection comes, is answered and leaves without having had to
    /// wait once, and then the runtime need not know of it.
    Fresh(std::net::TcpStream),
    Tcp(TcpStream),
    Other(Box<dyn Stream>),
    Closed,
}

impl Sock {
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Sock::Fresh(stream) = self {
            match stream.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.register()?,
                done => return Poll::Ready(done),
            }
        }
        let mut buf = ReadBuf::new(bytes);
        match self {
            Sock::Tcp(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buf))?,
            Sock::Other(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buf))?,
            Sock::Fresh(_) | Sock::Closed => return Poll::Ready(Ok(0)),
        }
        Poll::Ready(Ok(buf.filled().len()))
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Sock::Fresh(stream) = self {
            let written = match pieces {
                [one] => stream.write(one),
                _ => stream.write_vectored(pieces),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.register()?,
                done => return Poll::Ready(done),
            }
        }
        match self {
            Sock::Tcp(stream) => match pieces {
                [one] => Pin::new(stream).poll_write(cx, one),
                _ => Pin::new(stream).poll_write_vectored(cx, pieces),
            },
            Sock::Other(stream) if stream.is_write_vectored() => {
                Pin::new(stream).poll_write_vectored(cx, pieces)
            }
            Sock::Other(stream) => {
                let piece = pieces.iter().find(|p| !p.is_empty());
                Pin::new(stream).poll_write(cx, piece.map_or(&[], |p| p))
            }
            Sock::Fresh(_) | Sock::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// What TLS holds back is sent.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Sock::Other(stream) => Pin::new(stream).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Ends our direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Sock::Fresh(stream) => Poll::Ready(stream.shutdown(std::net::Shutdown::Write)),
            Sock::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Sock::Other(stream) => Pin::new(stream).poll_shutdown(cx),
            Sock::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Ends it so that the other side sees that it was broken off, whatever it has got so far.
    pub(crate) fn reset(&mut self) {
        let linger = |socket: std::os::fd::BorrowedFd<'_>| {
            let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        };
        use std::os::fd::AsFd as _;
        match self {
            Sock::Fresh(stream) => linger(stream.as_fd()),
            Sock::Tcp(stream) => linger(stream.as_fd()),
            // TLS that ends without saying so is broken off.
            Sock::Other(_) | Sock::Closed => {}
        }
        *self = Sock::Closed;
    }

    /// Whether an idle connection can be used: nothing came that nobody asked for, not its end
    /// either. `surely` looks at the socket itself, not only at what the runtime has heard.
    pub(crate) fn is_usable(&mut self, surely: bool) -> bool {
        let mut byte = [0];
        match self {
            Sock::Tcp(stream) if surely => {
                let peeked =
                    rustix::net::recv(&*stream, &mut byte[..], rustix::net::RecvFlags::PEEK);
                matches!(peeked, Err(rustix::io::Errno::AGAIN))
            }
            Sock::Tcp(stream) => {
                stream.try_read(&mut byte).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
            }
            Sock::Other(stream) => {
                let mut buf = ReadBuf::new(&mut byte);
                let waker = std::task::Waker::noop();
                Pin::new(stream).poll_read(&mut Context::from_waker(waker), &mut buf).is_pending()
            }
            Sock::Fresh(_) | Sock::Closed => false,
        }
    }

    /// Lets the runtime watch it.
    fn register(&mut self) -> io::Result<()> {
        if let Sock::Fresh(stream) = std::mem::replace(self, Sock::Closed) {
            *self = Sock::Tcp(TcpStream::from_std(stream)?);
        }
        Ok(())
    }
}

impl AsyncRead for Sock {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Sock::poll_read(&mut self, cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sock {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Sock::poll_write(&mut self, cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Sock::poll_write(&mut self, cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Sock::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Sock::poll_shutdown(&mut self, cx)
    }
}

/// What was read from a socket and is not used up. It has memory only while there is something.
#[derive(Debug, Default)]
pub(crate) struct Buf {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buf {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Lets go of the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize, worker: &Worker) {
        self.start += n;
        if self.is_empty() {
            self.release(worker);
        }
    }

    /// Lets go of everything.
    pub(crate) fn release(&mut self, worker: &Worker) {
        if !self.data.is_empty() {
            worker.give_back(std::mem::take(&mut self.data));
        }
        (self.start, self.end) = (0, 0);
    }

    /// Reads more; 0 is the end of the stream. A buffer that has to be taken first is of `size`
    /// bytes; one that is full grows once to [`LARGE`].
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        sock: &mut Sock,
        worker: &Worker,
        size: usize,
    ) -> Poll<io::Result<usize>> {
        if self.is_empty() {
            self.release(worker);
            let mut data = worker.buffer(size);
            let read = sock.poll_read(cx, &mut data);
            match read {
                Poll::Ready(Ok(n)) if n > 0 => (self.data, self.end) = (data, n),
                _ => worker.give_back(data),
            }
            return read;
        }
        self.make_room(worker);
        let read = ready!(sock.poll_read(cx, &mut self.data[self.end..]))?;
        self.end += read;
        Poll::Ready(Ok(read))
    }

    fn make_room(&mut self, worker: &Worker) {
        if self.end < self.data.len() {
            return;
        }
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
        } else {
            let size = if self.data.len() <= SMALL { LARGE } else { self.data.len() * 2 };
            let mut data = if size == LARGE { worker.buffer(LARGE) } else { vec![0; size] };
            data[..self.end].copy_from_slice(&self.data[..self.end]);
            worker.give_back(std::mem::replace(&mut self.data, data));
        }
        (self.start, self.end) = (0, self.end - self.start);
    }
}
