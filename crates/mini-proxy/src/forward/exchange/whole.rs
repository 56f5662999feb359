//! What a message becomes on the other side, without connections: for tests and fuzzing. It goes
//! through the same functions as on a connection.

use super::{Asked, Download, Framing, Out};
use crate::forward::job::About;
use crate::h1::{Body, Refusal, Response};

/// A body on its way to the other side.
pub(crate) struct Reframed {
    out: Out,
    body: Body,
    chunked: bool,
    until_close: bool,
}

impl Reframed {
    /// A request's.
    pub(crate) fn request(body: Body) -> Self {
        let chunked = matches!(body, Body::Chunked(_));
        Self { out: Out::default(), body, chunked, until_close: false }
    }

    /// An answer's, after its head, which is the first thing that `to` gets.
    pub(crate) fn answer(response: Response<'_, '_>, about: &About, to: &mut Vec<u8>) -> Self {
        let mut download = Download::new();
        let asked = Asked { about, upgrade: None, extra: "" };
        download.last(response, &asked, true);
        to.extend_from_slice(&download.head);
        let chunked = download.framing == Framing::Chunked;
        let body = download.body.unwrap_or(Body::None);
        let until_close = matches!(body, Body::UntilClose);
        Self { out: download.out, body, chunked, until_close }
    }

    /// An interim answer: a head and nothing else.
    pub(crate) fn interim(response: &Response<'_, '_>, to: &mut Vec<u8>) -> Self {
        let mut download = Download::new();
        download.pass_on(response);
        to.extend_from_slice(&download.head);
        Self { out: Out::default(), body: Body::None, chunked: false, until_close: false }
    }

    /// Takes what `bytes` has of it, and adds to `to` what is passed on; answers with how many of
    /// the bytes are done with.
    pub(crate) fn take(&mut self, bytes: &mut [u8], to: &mut Vec<u8>) -> Result<usize, Refusal> {
        let used = self.out.take(&mut self.body, bytes, self.chunked)?.used;
        let (start, len) = self.out.data;
        for piece in [&self.out.prefix[..], &bytes[start..start + len], &self.out.suffix] {
            to.extend_from_slice(piece);
        }
        Ok(used)
    }

    /// The connection has ended: whether that was the end of the body.
    pub(crate) fn closed(&mut self, to: &mut Vec<u8>) -> bool {
        if self.until_close && self.chunked {
            to.extend_from_slice(b"0\r\n\r\n");
        }
        self.until_close
    }

    pub(crate) fn is_done(&self) -> bool {
        self.body.is_done()
    }
}
