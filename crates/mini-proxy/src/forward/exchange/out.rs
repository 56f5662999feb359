//! What is written next on a connection, from a head and one buffer.

use std::borrow::Cow;
use std::io::{self, IoSlice, Write as _};
use std::task::{Context, Poll, ready};

use crate::h1::{Body, Refusal, Step};
use crate::sock::{Buf, Sock};

/// What is to be written next: head, the size line of a chunk, data out of a buffer, an end.
#[derive(Default)]
pub(super) struct Out {
    pub(super) prefix: Vec<u8>,
    /// Where in the buffer the data lies.
    pub(super) data: (usize, usize),
    pub(super) suffix: Cow<'static, [u8]>,
    /// What of the buffer is done with when all is written.
    pub(super) used: usize,
    /// Bytes of head, prefix, data and suffix that are written.
    pub(super) at: usize,
    pub(super) pending: bool,
}

impl Out {
    /// Writes on. `moved` counts the bytes.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sock: &mut Sock,
        head: &[u8],
        buf: &Buf,
        moved: &mut u64,
    ) -> Poll<io::Result<()>> {
        let (start, len) = self.data;
        loop {
            let data = if len > 0 { &buf.bytes()[start..start + len] } else { &[] };
            let mut pieces = [IoSlice::new(&[]); 4];
            let (mut count, mut skip) = (0, self.at);
            for piece in [head, &self.prefix, data, &self.suffix] {
                if skip >= piece.len() {
                    skip -= piece.len();
                } else {
                    pieces[count] = IoSlice::new(&piece[skip..]);
                    (count, skip) = (count + 1, 0);
                }
            }
            if count == 0 {
                ready!(sock.poll_flush(cx))?;
                return Poll::Ready(Ok(()));
            }
            match ready!(sock.poll_write(cx, &pieces[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    self.at += n;
                    *moved += n as u64;
                }
            }
        }
    }

    /// Makes what `bytes` has of a body ready to be written.
    pub(super) fn take(
        &mut self,
        body: &mut Body,
        bytes: &mut [u8],
        chunked: bool,
    ) -> Result<Step, Refusal> {
        let step = body.take(bytes)?;
        let end = if chunked && body.is_done() { last_chunk(body) } else { Cow::default() };
        self.set(chunked, (step.start, step.len), step.used, end);
        Ok(step)
    }

    /// Data as one chunk, or as it is; `end` is what follows.
    pub(super) fn set(
        &mut self,
        chunked: bool,
        data: (usize, usize),
        used: usize,
        end: Cow<'static, [u8]>,
    ) {
        self.prefix.clear();
        self.suffix = end;
        if chunked && data.1 > 0 {
            let _ = write!(self.prefix, "{:x}\r\n", data.1);
            let mut suffix = b"\r\n".to_vec();
            if self.suffix.is_empty() {
                self.suffix = Cow::Borrowed(b"\r\n");
            } else {
                suffix.extend_from_slice(&self.suffix);
                self.suffix = Cow::Owned(suffix);
            }
        }
        (self.data, self.used, self.at, self.pending) = (data, used, 0, true);
    }
}

/// The end of a chunked body.
fn last_chunk(body: &Body) -> Cow<'static, [u8]> {
    if body.trailers().is_empty() {
        return Cow::Borrowed(b"0\r\n\r\n");
    }
    Cow::Owned([b"0\r\n", body.trailers(), b"\r\n"].concat())
}
