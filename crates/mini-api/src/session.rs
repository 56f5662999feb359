//! Sessions: commands that somebody is attached to (`mini run`, `mini exec`).
//!
//! A request with `Upgrade: mini-session` is answered 101, or refused like any other. From then on
//! both sides send frames: one byte for the kind, four for the length (big-endian), the payload.
//! Small enough not to need WebSocket, and it half-closes.
//!
//! Flow: the client sends at most [`WINDOW`] bytes of input that the server has not said were
//! [`Frame::Taken`], so that the server always reads, and hears of a resize or of a client that is
//! gone also while a command does not take its input. Output is held back by the connection alone.
//! Each side sends a [`Frame::Ping`] every [`PING_SECONDS`], and takes the other for gone after
//! [`SILENCE_SECONDS`] without a frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ErrorBody;

/// The protocol's name in `Upgrade`.
pub const UPGRADE: &str = "mini-session";
/// Names the instance (`run.1`) on the 101.
pub const INSTANCE_HEADER: &str = "mini-instance";
/// Bytes of input that may be on their way.
pub const WINDOW: usize = 256 * 1024;
/// The most that one frame carries.
pub const MAX_PAYLOAD: usize = 64 * 1024;
pub const PING_SECONDS: u64 = 15;
/// Two pings and some patience.
pub const SILENCE_SECONDS: u64 = 40;

/// `POST /v1/apps/{app}/exec`: a command in an instance that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewExec {
    /// `web.1`
    pub instance: String,
    pub command: Vec<String>,
    /// Left out: no terminal.
    #[serde(default)]
    pub terminal: Option<Terminal>,
}

/// `POST /v1/apps/{app}/runs`: a one-off command with the live release's image and config vars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewRun {
    pub command: Vec<String>,
    /// Left out: no terminal.
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// Nobody is attached: its output goes to the app's log, and the answer is a [`Run`].
    #[serde(default)]
    pub detach: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Terminal {
    pub rows: u16,
    pub columns: u16,
    /// The client's `TERM`.
    #[serde(default)]
    pub name: Option<String>,
}

/// A detached one-off that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Run {
    /// `run.3`
    pub name: String,
    /// `v12`
    pub release: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Client: input.
    Input(Bytes),
    /// Client: the input ends here.
    End,
    /// Client: the terminal has this size now.
    Resize {
        rows: u16,
        columns: u16,
    },
    /// Both: still there.
    Ping,
    /// Server: output; with a terminal, all of it.
    Stdout(Bytes),
    Stderr(Bytes),
    /// Server: so many bytes of input were taken since the last time.
    Taken(u32),
    /// Server, the last frame: the command's exit code.
    Exited(i64),
    /// Server, the last frame: why it came to no exit.
    Failed(ErrorBody),
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum BadFrame {
    #[error("a frame of kind {0}")]
    Kind(u8),
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("a frame of kind {0} whose payload cannot be read")]
    Payload(u8),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Input(_) => 0,
            Self::End => 1,
            Self::Resize { .. } => 2,
            Self::Ping => 3,
            Self::Stdout(_) => 16,
            Self::Stderr(_) => 17,
            Self::Taken(_) => 18,
            Self::Exited(_) => 19,
            Self::Failed(_) => 20,
        }
    }

    /// Writes the frame. Data longer than [`MAX_PAYLOAD`] becomes several.
    pub fn write(&self, out: &mut BytesMut) {
        let mut put = |payload: &[u8]| {
            out.put_u8(self.kind());
            // At most MAX_PAYLOAD.
            out.put_u32(payload.len() as u32);
            out.put_slice(payload);
        };
        match self {
            Self::Input(data) | Self::Stdout(data) | Self::Stderr(data) => {
                data.chunks(MAX_PAYLOAD).for_each(put);
            }
            Self::End | Self::Ping => put(&[]),
            Self::Resize { rows, columns } => {
                put(&[rows.to_be_bytes(), columns.to_be_bytes()].concat());
            }
            Self::Taken(bytes) => put(&bytes.to_be_bytes()),
            Self::Exited(code) => put(&code.to_be_bytes()),
            // A wire type that cannot be written would be a fault in its definition.
            Self::Failed(body) => put(&serde_json::to_vec(body).unwrap_or_default()),
        }
    }

    /// Takes the next whole frame off the buffer.
    pub fn read(buffer: &mut BytesMut) -> Result<Option<Self>, BadFrame> {
        let Some(head) = buffer.first_chunk::<5>() else { return Ok(None) };
        let kind = head[0];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(BadFrame::Length(length));
        }
        if buffer.len() < 5 + length {
            buffer.reserve(5 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(5);
        let payload = buffer.split_to(length).freeze();
        let bad = || BadFrame::Payload(kind);
        let four = || <[u8; 4]>::try_from(&payload[..]).map_err(|_| bad());
        Ok(Some(match kind {
            0 => Self::Input(payload),
            1 => Self::End,
            2 => {
                let [a, b, c, d] = four()?;
                let (rows, columns) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Self::Resize { rows, columns }
            }
            3 => Self::Ping,
            16 => Self::Stdout(payload),
            17 => Self::Stderr(payload),
            18 => Self::Taken(u32::from_be_bytes(four()?)),
            19 => Self::Exited(i64::from_be_bytes(payload[..].try_into().map_err(|_| bad())?)),
            20 => Self::Failed(serde_json::from_slice(&payload).map_err(|_| bad())?),
            other => return Err(BadFrame::Kind(other)),
        }))
    }
}

/// [`Frame`] as a codec of tokio's.
#[cfg(feature = "sessions")]
#[derive(Debug, Default, Clone, Copy)]
pub struct Frames;

#[cfg(feature = "sessions")]
impl tokio_util::codec::Decoder for Frames {
    type Item = Frame;
    type Error = BadFrame;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, BadFrame> {
        Frame::read(buffer)
    }
}

#[cfg(feature = "sessions")]
impl tokio_util::codec::Encoder<Frame> for Frames {
    type Error = BadFrame;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), BadFrame> {
        frame.write(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_went_however_they_are_cut() {
        let body = ErrorBody {
            code: crate::ErrorCode::Conflict,
            message: "no".into(),
            hint: None,
            request_id: None,
        };
        let frames = [
            Frame::Input(Bytes::from_static(b"\x00\xff\x03")),
            Frame::End,
            Frame::Resize { rows: 41, columns: 133 },
            Frame::Ping,
            Frame::Stdout(Bytes::new()),
            Frame::Stderr("no".into()),
            Frame::Taken(70_000),
            Frame::Exited(-1),
            Frame::Failed(body),
        ];
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes));
        // An empty piece of output is no frame at all.
        let expected: Vec<&Frame> =
            frames.iter().filter(|f| **f != Frame::Stdout(Bytes::new())).collect();
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        for byte in bytes {
            buffer.put_u8(byte);
            while let Some(frame) = Frame::read(&mut buffer).unwrap() {
                read.push(frame);
            }
        }
        assert_eq!(read.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_long_piece_becomes_several_frames() {
        let mut bytes = BytesMut::new();
        Frame::Stdout(vec![7; MAX_PAYLOAD * 2 + 1].into()).write(&mut bytes);
        let mut lengths = Vec::new();
        while let Some(Frame::Stdout(data)) = Frame::read(&mut bytes).unwrap() {
            lengths.push(data.len());
        }
        assert_eq!(lengths, [MAX_PAYLOAD, MAX_PAYLOAD, 1]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for bad in [
            &b"\x09\0\0\0\0"[..],
            b"\x00\0\x01\0\x01",
            b"\x02\0\0\0\x01x",
            b"\x13\0\0\0\x01x",
            b"\x14\0\0\0\x01x",
        ] {
            assert!(Frame::read(&mut bad.into()).is_err(), "{bad:?}");
        }
        assert!(Frame::read(&mut b"\x00\0\0\0\x02x"[..].into()).unwrap().is_none(), "not whole");
    }
}
