//! An instance's output: the engine's frames, put together again into lines.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::stream;
use mini_core::id::InstanceId;
use mini_core::ports::{
    Items, Output, OutputStream, RuntimeError, RuntimeErrorKind, RuntimeResult,
};

use crate::engine::Docker;
use crate::labels;
use crate::raw::{Chunks, Query};

/// The longest line that is passed on (CONTRACTS, "Logs").
const LINE_BYTES: usize = 10_000;
/// The engine cuts a line into frames of this size, and only the last one ends in a line end.
const FRAME_BYTES: usize = 16 * 1024;
/// No frame of the engine is longer, whatever its driver did to the bytes.
const LONGEST_FRAME: usize = 1024 * 1024;
/// The engine may have to open large files first.
const OPEN: Duration = Duration::from_secs(30);

enum State {
    Closed { id: InstanceId, since_nanos: Option<i64>, follow: bool },
    Open { chunks: Chunks, reader: Reader },
    Done,
}

pub(crate) fn logs(
    docker: Docker,
    id: InstanceId,
    since_nanos: Option<i64>,
    follow: bool,
) -> Items<RuntimeResult<Output>> {
    let first = State::Closed { id, since_nanos, follow };
    Box::pin(stream::unfold((docker, first), |(docker, mut state)| async move {
        loop {
            state = match state {
                State::Closed { id, since_nanos, follow } => {
                    match open(&docker, &id, since_nanos, follow).await {
                        Ok(chunks) => State::Open { chunks, reader: Reader::default() },
                        Err(error) => return Some((Err(error), (docker, State::Done))),
                    }
                }
                State::Open { mut chunks, mut reader } => {
                    if let Some(output) = reader.ready.pop_front() {
                        return Some((Ok(output), (docker, State::Open { chunks, reader })));
                    }
                    match chunks.next().await {
                        Ok(Some(data)) => match reader.feed(&data) {
                            Ok(()) => State::Open { chunks, reader },
                            Err(error) => return Some((Err(error), (docker, State::Done))),
                        },
                        Ok(None) if reader.finish() => State::Open { chunks, reader },
                        Ok(None) => State::Done,
                        Err(error) => return Some((Err(error), (docker, State::Done))),
                    }
                }
                State::Done => return None,
            }
        }
    }))
}

async fn open(
    docker: &Docker,
    id: &InstanceId,
    since_nanos: Option<i64>,
    follow: bool,
) -> RuntimeResult<Chunks> {
    let what = format!("the log of {}", labels::instance_words(id));
    let what = what.as_str();
    let opened = docker.on_container(id, |container| async move {
        let mut query = Query::new(&["containers", &container, "logs"])
            .with("stdout", "1")
            .with("stderr", "1")
            .with("timestamps", "1")
            .with("follow", if follow { "1" } else { "0" });
        if let Some(nanos) = since_nanos {
            let (seconds, rest) = (nanos.max(0) / 1_000_000_000, nanos.max(0) % 1_000_000_000);
            query = query.with("since", &format!("{seconds}.{rest:09}"));
        }
        docker.inner.raw.get(what, query.target(), OPEN).await
    });
    match opened.await? {
        Some(answer) => Ok(answer.chunks(what)),
        None => Err(RuntimeError::new(
            RuntimeErrorKind::NotFound,
            format!("{what}: the instance is not there"),
        )),
    }
}

/// Frames in, lines out.
#[derive(Default)]
struct Reader {
    buffer: BytesMut,
    /// The line that each stream has begun.
    begun: [Begun; 2],
    ready: VecDeque<Output>,
}

#[derive(Default)]
struct Begun {
    text: Vec<u8>,
    at_nanos: i64,
    /// Whether a part of this line was passed on already.
    split: bool,
}

impl Reader {
    /// Takes what arrived. A frame is 1 byte of stream, 3 of nothing, 4 of length (big-endian),
    /// then a timestamp, a space, and the bytes of the app.
    fn feed(&mut self, data: &[u8]) -> RuntimeResult<()> {
        self.buffer.extend_from_slice(data);
        while let Some(header) = self.buffer.first_chunk::<8>() {
            let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let stream = match header[0] {
                1 => OutputStream::Stdout,
                2 => OutputStream::Stderr,
                _ => return Err(unreadable("a frame of an unknown stream")),
            };
            if length > LONGEST_FRAME {
                return Err(unreadable("a frame that is too long"));
            }
            if self.buffer.len() < 8 + length {
                break;
            }
            self.buffer.advance(8);
            let frame = self.buffer.split_to(length).freeze();
            self.frame(stream, &frame)?;
        }
        Ok(())
    }

    fn frame(&mut self, stream: OutputStream, frame: &[u8]) -> RuntimeResult<()> {
        let space = frame.iter().position(|byte| *byte == b' ');
        let (time, text) = match space {
            Some(at) => (&frame[..at], &frame[at + 1..]),
            // An empty line may come without the space.
            None => (frame.strip_suffix(b"\n").unwrap_or(frame), &frame[frame.len()..]),
        };
        let at_nanos = nanos(time).ok_or_else(|| unreadable("a frame without a timestamp"))?;
        let (text, ended) = match text.strip_suffix(b"\n") {
            Some(text) => (text, true),
            // Only a full frame is continued; a short one was the last thing its process wrote.
            None => (text, text.len() < FRAME_BYTES),
        };
        self.add(stream, at_nanos, text);
        if ended {
            self.end_line(stream);
        }
        Ok(())
    }

    fn add(&mut self, stream: OutputStream, at_nanos: i64, mut text: &[u8]) {
        let begun = &mut self.begun[index(stream)];
        if begun.text.is_empty() {
            begun.at_nanos = at_nanos;
        }
        // A line that is exactly full waits: it is split only if more comes.
        while begun.text.len() + text.len() > LINE_BYTES {
            let (now, later) = text.split_at(LINE_BYTES - begun.text.len());
            begun.text.extend_from_slice(now);
            let full = std::mem::take(&mut begun.text);
            self.ready.push_back(Output { at_nanos: begun.at_nanos, stream, text: full });
            begun.split = true;
            begun.at_nanos = at_nanos;
            text = later;
        }
        begun.text.extend_from_slice(text);
    }

    fn end_line(&mut self, stream: OutputStream) {
        let begun = std::mem::take(&mut self.begun[index(stream)]);
        if !(begun.split && begun.text.is_empty()) {
            let (at_nanos, text) = (begun.at_nanos, begun.text);
            self.ready.push_back(Output { at_nanos, stream, text });
        }
    }

    /// The stream ended: passes on lines that were never ended. False if there are none.
    fn finish(&mut self) -> bool {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if !self.begun[index(stream)].text.is_empty() {
                self.end_line(stream);
            }
        }
        !self.ready.is_empty()
    }
}

fn index(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

/// The engine's RFC 3339 time in nanoseconds since the Unix epoch.
fn nanos(text: &[u8]) -> Option<i64> {
    let time: jiff::Timestamp = std::str::from_utf8(text).ok()?.parse().ok()?;
    time.as_nanosecond().try_into().ok()
}

fn unreadable(why: &str) -> RuntimeError {
    RuntimeError::new(RuntimeErrorKind::Other, format!("the engine's log cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, second: u8, text: &[u8]) -> Vec<u8> {
        let body = [format!("2026-11-23T00:00:{second:02}.000000005Z ").as_bytes(), text].concat();
        [&[stream, 0, 0, 0][..], &(body.len() as u32).to_be_bytes(), &body].concat()
    }

    fn read(pieces: &[Vec<u8>]) -> Vec<Output> {
        let mut reader = Reader::default();
        for piece in pieces {
            reader.feed(piece).unwrap();
        }
        reader.finish();
        reader.ready.into()
    }

    fn texts(outputs: &[Output]) -> Vec<&[u8]> {
        outputs.iter().map(|output| output.text.as_slice()).collect()
    }

    #[test]
    fn lines_keep_their_stream_and_time_however_the_bytes_arrive() {
        let bytes = [frame(1, 1, b"one\n"), frame(2, 2, b"two\n"), frame(1, 3, b"\n")].concat();
        let whole = read(std::slice::from_ref(&bytes));
        let single: Vec<Vec<u8>> = bytes.iter().map(|byte| vec![*byte]).collect();
        assert_eq!(read(&single), whole);
        assert_eq!(texts(&whole), [&b"one"[..], b"two", b""]);
        assert_eq!(whole[1].stream, OutputStream::Stderr);
        assert_eq!(whole[1].at_nanos - whole[0].at_nanos, 1_000_000_000);
        assert_eq!(whole[0].at_nanos % 1_000_000_000, 5);
    }

    #[test]
    fn a_long_line_is_put_together_and_split_at_ten_thousand_bytes() {
        let long = vec![b'x'; FRAME_BYTES];
        let found = read(&[
            frame(1, 1, &long),
            frame(2, 1, b"between\n"),
            frame(1, 2, b"end\n"),
            frame(1, 3, b"next\n"),
        ]);
        let lengths: Vec<usize> = found.iter().map(|output| output.text.len()).collect();
        assert_eq!(lengths, [10_000, 7, FRAME_BYTES - 10_000 + 3, 4]);
        assert!(found[2].text.ends_with(b"xend"));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_line() {
        let found = read(&[frame(1, 1, &[vec![b'x'; LINE_BYTES], b"\n".to_vec()].concat())]);
        assert_eq!(texts(&found), [vec![b'x'; LINE_BYTES]]);
    }

    #[test]
    fn a_last_line_without_an_end_is_kept_apart_from_the_next_run() {
        let found = read(&[frame(1, 1, b"prompt> "), frame(1, 2, b"again\n")]);
        assert_eq!(texts(&found), [&b"prompt> "[..], b"again"]);
    }

    #[test]
    fn bytes_that_are_not_text_pass_unchanged() {
        let found = read(&[frame(2, 1, b"\xff\x00 \xfe\n")]);
        assert_eq!(texts(&found), [b"\xff\x00 \xfe"]);
    }

    #[test]
    fn what_is_not_a_frame_is_an_error_and_no_panic() {
        assert!(Reader::default().feed(b"hello, I am not a frame").is_err());
        assert!(Reader::default().feed(&[1, 0, 0, 0, 255, 255, 255, 255]).is_err());
        assert!(Reader::default().feed(&[1, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']).is_err());
    }
}
