//! Answer bodies: bytes at hand, or a file sent piece by piece.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::JoinHandle;

/// How much of a file is in memory at once, per answer.
pub(crate) const PIECE: usize = 64 * 1024;

/// The body of an answer; its length is always known.
#[derive(Debug)]
pub(crate) struct Body {
    /// What comes next, if it is here already.
    next: Option<Bytes>,
    rest: Rest,
    /// Bytes not yet handed over, `next` included.
    left: u64,
}

#[derive(Debug)]
enum Rest {
    None,
    File(File),
    /// A piece is being read on a thread that may wait for the disk.
    Reading(JoinHandle<io::Result<(File, Bytes)>>),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self { next: None, rest: Rest::None, left: 0 }
    }

    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { left: bytes.len() as u64, next: Some(bytes), rest: Rest::None }
    }

    /// The next `length` bytes of a file from where it stands. The first piece is read at once,
    /// so a small file needs no second trip to the disk. Blocks.
    pub(crate) fn file(file: File, length: u64) -> io::Result<Self> {
        let (file, first) = read_piece(file, length)?;
        let rest = if first.len() as u64 == length { Rest::None } else { Rest::File(file) };
        Ok(Self { next: Some(first), rest, left: length })
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            if let Some(piece) = self.next.take().filter(|piece| !piece.is_empty()) {
                self.left = self.left.saturating_sub(piece.len() as u64);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match std::mem::replace(&mut self.rest, Rest::None) {
                // Fewer bytes than were promised: hyper then closes the connection.
                Rest::None => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                Rest::File(file) => {
                    let left = self.left;
                    self.rest =
                        Rest::Reading(tokio::task::spawn_blocking(move || read_piece(file, left)));
                }
                Rest::Reading(mut reading) => {
                    let Poll::Ready(done) = Pin::new(&mut reading).poll(context) else {
                        self.rest = Rest::Reading(reading);
                        return Poll::Pending;
                    };
                    let (file, piece) = done.map_err(io::Error::other)??;
                    self.rest = Rest::File(file);
                    self.next = Some(piece);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Reads up to one piece, and no more than `left`. An end that comes too early is an error.
fn read_piece(file: File, left: u64) -> io::Result<(File, Bytes)> {
    let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
    let mut piece = Vec::with_capacity(want);
    (&file).take(want as u64).read_to_end(&mut piece)?;
    if piece.len() < want {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
    }
    Ok((file, piece.into()))
}
