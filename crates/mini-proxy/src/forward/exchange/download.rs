//! The answer's direction: what the client is told of it, and how it learns where it ends.

use std::borrow::Cow;
use std::io::Write as _;

use super::Asked;
use super::out::Out;
use crate::h1::{Body, Finder, Response};

/// How the client learns where the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    AsItIs,
    Chunked,
    Close,
}

/// The answer on its way.
pub(super) struct Download {
    pub(super) finder: Finder,
    pub(super) head: Vec<u8>,
    pub(super) out: Out,
    /// `None` until the final head came.
    pub(super) body: Option<Body>,
    pub(super) framing: Framing,
    pub(super) interim: u32,
    pub(super) keep_upstream: bool,
    pub(super) keep_client: bool,
    pub(super) switched: bool,
}

impl Download {
    pub(super) fn new() -> Self {
        Self {
            finder: Finder::default(),
            head: Vec::new(),
            out: Out::default(),
            body: None,
            framing: Framing::AsItIs,
            interim: 0,
            keep_upstream: false,
            keep_client: false,
            switched: false,
        }
    }

    /// Adds an interim answer to what the client is sent next.
    pub(super) fn interim(&mut self, head: &[u8]) {
        self.head.extend_from_slice(head);
        if !self.out.pending {
            self.out.set(false, (0, 0), 0, Cow::default());
        }
    }

    /// The same for one of the upstream.
    pub(super) fn pass_on(&mut self, response: &Response<'_, '_>) {
        let mut head = Vec::new();
        write_start(&mut head, response);
        write_fields(&mut head, response);
        head.extend_from_slice(b"\r\n");
        self.interim(&head);
    }

    /// The head of a 101.
    pub(super) fn switch(&mut self, response: &Response<'_, '_>) {
        let head = &mut self.head;
        write_start(head, response);
        write_fields(head, response);
        head.extend_from_slice(b"Connection: upgrade\r\n");
        if let Some(protocol) = response.upgrade {
            head.extend_from_slice(b"Upgrade: ");
            head.extend_from_slice(protocol);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Via: 1.1 mini\r\n\r\n");
        self.switched = true;
    }

    /// The head of the final answer.
    pub(super) fn last(&mut self, response: Response<'_, '_>, job: &Asked<'_>, may_keep: bool) {
        let about = job.about;
        self.framing = match &response.body {
            Body::Chunked(_) | Body::UntilClose if about.http_10 => Framing::Close,
            Body::Chunked(_) | Body::UntilClose => Framing::Chunked,
            Body::Length(_) | Body::None => Framing::AsItIs,
        };
        self.keep_client = about.keep_alive && may_keep && self.framing != Framing::Close;
        self.keep_upstream = response.keep_alive;
        let head = &mut self.head;
        write_start(head, &response);
        write_fields(head, &response);
        match self.framing {
            Framing::AsItIs => {
                if let Some(length) = response.length.filter(|_| response.status != 204) {
                    let _ = write!(head, "Content-Length: {length}\r\n");
                }
            }
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if !self.keep_client {
            head.extend_from_slice(b"Connection: close\r\n");
        } else if about.http_10 {
            head.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        head.extend_from_slice(job.extra.as_bytes());
        head.extend_from_slice(b"Via: 1.1 mini\r\n\r\n");
        self.body = Some(response.body);
    }
}

fn write_start(head: &mut Vec<u8>, response: &Response<'_, '_>) {
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", response.status, response.reason);
}

fn write_fields(head: &mut Vec<u8>, response: &Response<'_, '_>) {
    for field in response.fields {
        if response.passes(field.name) {
            head.extend_from_slice(field.name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(field.value);
            head.extend_from_slice(b"\r\n");
        }
    }
}
