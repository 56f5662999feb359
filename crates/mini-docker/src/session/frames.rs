//! What the bytes of a process's connection mean.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use mini_core::ports::SessionOutput;

use crate::error;

/// No frame of the engine is longer.
const LONGEST_FRAME: usize = 16 * 1024 * 1024;

/// With a terminal the bytes are the output. Without one they come in frames: one byte that names
/// the stream, three of nothing, and four for the length (Docker Engine API, "Attach").
#[derive(Debug)]
pub(super) enum Frames {
    /// A terminal's output.
    None,
    /// Between two frames.
    Head,
    /// So much of a frame is still to come.
    Within { stderr: bool, left: usize },
}

impl Frames {
    pub(super) fn head() -> Self {
        Self::Head
    }

    /// The next piece of output in the buffer; a long frame comes in several.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> io::Result<Option<SessionOutput>> {
        loop {
            match self {
                Self::None if buffer.is_empty() => return Ok(None),
                Self::None => return Ok(Some(SessionOutput::Stdout(buffer.split().freeze()))),
                Self::Head => {
                    let Some(head) = buffer.first_chunk::<8>() else { return Ok(None) };
                    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
                    let stderr = match head[0] {
                        0 | 1 => false,
                        // 3 is the engine's own word about the stream.
                        2 | 3 => true,
                        other => return Err(odd(format!("a frame of stream {other}"))),
                    };
                    if length > LONGEST_FRAME {
                        return Err(odd(format!("a frame of {length} bytes")));
                    }
                    buffer.advance(8);
                    *self = Self::Within { stderr, left: length };
                }
                Self::Within { left: 0, .. } => *self = Self::Head,
                Self::Within { .. } if buffer.is_empty() => return Ok(None),
                Self::Within { stderr, left } => {
                    let data = buffer.split_to(buffer.len().min(*left)).freeze();
                    *left -= data.len();
                    return Ok(Some(if *stderr {
                        SessionOutput::Stderr(data)
                    } else {
                        SessionOutput::Stdout(data)
                    }));
                }
            }
        }
    }
}

fn odd(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How the engine, and init in its place, begin to say that a command cannot be started.
const REFUSALS: [&[u8]; 2] = [b"OCI runtime exec failed: ", b"[FATAL tini ("];
/// Longer than any of their sentences.
const LONGEST_REFUSAL: usize = 4096;

/// The first words of a session, held back while they may be the engine's and not the command's.
#[derive(Debug, Default)]
pub(super) enum Opening {
    #[default]
    Unheard,
    Held(Vec<u8>, bool),
    Over,
}

impl Opening {
    /// What of the output may be passed on now.
    pub(super) fn hear(&mut self, output: SessionOutput) -> Option<SessionOutput> {
        let (data, stderr) = match &output {
            SessionOutput::Stdout(data) => (data, false),
            SessionOutput::Stderr(data) => (data, true),
            SessionOutput::Exited(_) => return Some(output),
        };
        match self {
            Self::Over => Some(output),
            Self::Unheard if REFUSALS.iter().any(|r| data.starts_with(r)) => {
                *self = Self::Held(data.to_vec(), stderr);
                None
            }
            Self::Unheard => {
                *self = Self::Over;
                Some(output)
            }
            Self::Held(held, kind) => {
                held.extend_from_slice(data);
                if held.len() <= LONGEST_REFUSAL {
                    return None;
                }
                let (all, stderr) = (std::mem::take(held).into(), *kind);
                *self = Self::Over;
                Some(piece(all, stderr))
            }
        }
    }

    /// At the end of the output: what was held, in words if it was a refusal, and the exit code
    /// that shells give it (127 not found, 126 found and not executable).
    pub(super) fn close(&mut self, code: i64, started: bool) -> (Option<SessionOutput>, i64) {
        let Self::Held(held, stderr) = std::mem::replace(self, Self::Over) else {
            return (None, code);
        };
        match refusal(&held).filter(|_| !started || code == 126 || code == 127) {
            Some(words) => {
                let code = if is_not_found(&words) { 127 } else { code };
                (Some(SessionOutput::Stderr(format!("{words}\r\n").into())), code)
            }
            None => (Some(piece(held.into(), stderr)), code),
        }
    }
}

fn piece(data: Bytes, stderr: bool) -> SessionOutput {
    if stderr { SessionOutput::Stderr(data) } else { SessionOutput::Stdout(data) }
}

/// What a refusal says, in our words.
fn refusal(said: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    if let Some(rest) = said.strip_prefix("[FATAL tini (") {
        // `[FATAL tini (7)] exec NAME failed: No such file or directory`
        let (_, rest) = rest.split_once(")] exec ")?;
        let (command, why) = rest.rsplit_once(" failed: ")?;
        return Some(match why {
            "No such file or directory" => {
                format!("the command \"{command}\" was not found in the image")
            }
            "Permission denied" => format!("the command \"{command}\" may not be executed"),
            why => format!("the command \"{command}\" could not be started: {why}"),
        });
    }
    let rest = said.strip_prefix("OCI runtime exec failed: ")?;
    let rest = rest.strip_prefix("exec failed: ").unwrap_or(rest);
    Some(error::from_start("", error::from_answer("", 400, rest)).message.split_off(2))
}

/// Whether words are those of a command that is not in the image.
fn is_not_found(words: &str) -> bool {
    words.contains("was not found in the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(frames: &mut Frames, pieces: &[&[u8]]) -> Vec<SessionOutput> {
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Some(output) = frames.next(&mut buffer).unwrap() {
                out.push(output);
            }
        }
        out
    }

    #[test]
    fn frames_are_told_apart_however_they_are_cut() {
        let bytes = b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x02no";
        let whole = all(&mut Frames::head(), &[bytes]);
        let expected = [SessionOutput::Stdout("one".into()), SessionOutput::Stderr("no".into())];
        assert_eq!(whole, expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        for output in all(&mut Frames::head(), &single) {
            match output {
                SessionOutput::Stdout(data) => stdout.extend_from_slice(&data),
                SessionOutput::Stderr(data) => stderr.extend_from_slice(&data),
                SessionOutput::Exited(_) => unreachable!(),
            }
        }
        assert_eq!((&stdout[..], &stderr[..]), (&b"one"[..], &b"no"[..]));
        assert!(Frames::head().next(&mut b"\x09\0\0\0\0\0\0\x01x"[..].into()).is_err());
        assert!(Frames::head().next(&mut b"\x01\0\0\0\xff\0\0\x01x"[..].into()).is_err());
    }

    #[test]
    fn a_terminals_bytes_are_never_taken_for_a_frame() {
        let bytes = b"\x01\0\0\0\0\0\0\x03one";
        assert_eq!(all(&mut Frames::None, &[bytes]), [SessionOutput::Stdout(bytes[..].into())]);
    }

    #[test]
    fn a_command_that_is_not_there_is_told_in_our_words() {
        let tell = |said: &'static str, code| {
            let mut opening = Opening::default();
            assert_eq!(opening.hear(SessionOutput::Stdout(said.into())), None);
            opening.close(code, false)
        };
        let not_found = |command: &str| {
            let words = format!("the command \"{command}\" was not found in the image\r\n");
            Some(SessionOutput::Stderr(words.into()))
        };
        assert_eq!(
            tell(
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory: unknown\r\n",
                126
            ),
            (not_found("/nope"), 127)
        );
        assert_eq!(
            tell(
                "OCI runtime exec failed: exec failed: container_linux.go:380: starting container process caused: exec: \"x\": executable file not found in $PATH: unknown\r\n",
                126
            ),
            (not_found("x"), 127)
        );
        assert_eq!(
            tell("[FATAL tini (7)] exec a b failed: No such file or directory\n", 127),
            (not_found("a b"), 127)
        );
        let (said, code) = tell(
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/etc\": permission denied: unknown",
            126,
        );
        let words = "the command \"/etc\" may not be executed\r\n";
        assert_eq!((said, code), (Some(SessionOutput::Stderr(words.into())), 126));
    }

    #[test]
    fn a_command_that_talks_like_the_engine_is_let_talk() {
        let said: SessionOutput = SessionOutput::Stderr("[FATAL tini (7)] is what I print".into());
        let mut opening = Opening::default();
        assert_eq!(opening.hear(said.clone()), None);
        assert_eq!(opening.close(0, true), (Some(said), 0));
        let mut opening = Opening::default();
        let first = SessionOutput::Stdout("x".into());
        assert_eq!(opening.hear(first.clone()), Some(first));
        let later = SessionOutput::Stdout("OCI runtime exec failed: ".into());
        assert_eq!(opening.hear(later.clone()), Some(later));
    }
}
