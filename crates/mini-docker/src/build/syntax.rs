//! The line `# syntax=IMAGE` at the top of a Dockerfile.
//!
//! BuildKit then reads the Dockerfile with a program out of that image, and fails where it cannot
//! be had, offline most of all, although nearly every such Dockerfile can be read by the engine's
//! own builder. So the line is looked for in the tar as it passes, and if its image is neither on
//! the engine nor in reach, its word is overwritten by another that means nothing. No length
//! changes, so the rest of the tar passes as it is.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use mini_core::ports::{Fut, Items};

const BLOCK: usize = 512;
/// Longer Dockerfiles pass unread.
const LONGEST: u64 = 1 << 20;
const WORD: &[u8] = b"syntax";
const OTHER_WORD: &[u8] = b"unused";

/// Passes a tar on. `to_be_had` is asked about the image of a syntax line in `dockerfile`.
pub(crate) fn without_absent_frontend(
    tar: Items<std::io::Result<Bytes>>,
    dockerfile: &str,
    to_be_had: impl Fn(String) -> Fut<'static, bool> + Send + 'static,
) -> Items<std::io::Result<Bytes>> {
    let walk = Walk {
        dockerfile: plain(dockerfile).to_owned(),
        buffer: BytesMut::new(),
        place: Place::Header,
    };
    let state = (tar, walk, VecDeque::new(), to_be_had);
    Box::pin(stream::unfold(state, |(mut tar, mut walk, mut ready, to_be_had)| async move {
        loop {
            if let Some(piece) = ready.pop_front() {
                return Some((Ok(piece), (tar, walk, ready, to_be_had)));
            }
            match walk.next() {
                Some(Piece::Pass(bytes)) => ready.push_back(bytes),
                Some(Piece::Dockerfile(mut text)) => {
                    if let Some((word, image)) = syntax_line(&text)
                        && !to_be_had(image).await
                    {
                        text[word].copy_from_slice(OTHER_WORD);
                    }
                    ready.push_back(text.freeze());
                }
                None => match tar.next().await {
                    Some(Ok(bytes)) => walk.buffer.extend_from_slice(&bytes),
                    Some(Err(error)) => return Some((Err(error), (tar, walk, ready, to_be_had))),
                    None if walk.buffer.is_empty() => return None,
                    None => ready.push_back(walk.buffer.split().freeze()),
                },
            }
        }
    }))
}

/// Where in the tar (POSIX.1-1988 ustar: blocks of 512 bytes) the next byte lies.
enum Place {
    Header,
    /// In what passes unread: so many bytes more.
    Passing(u64),
    /// In the Dockerfile.
    Dockerfile(usize),
}

enum Piece {
    Pass(Bytes),
    Dockerfile(BytesMut),
}

struct Walk {
    dockerfile: String,
    buffer: BytesMut,
    place: Place,
}

impl Walk {
    /// The next piece of what has arrived; `None` if more must come first.
    fn next(&mut self) -> Option<Piece> {
        match self.place {
            Place::Header => {
                if self.buffer.len() < BLOCK {
                    return None;
                }
                let header = self.buffer.split_to(BLOCK).freeze();
                let (size, ours) = match size(&header) {
                    Some(size) => (size, name(&header) == self.dockerfile && is_file(&header)),
                    // Not a header that is understood here: nothing after it is looked at.
                    None => (u64::MAX, false),
                };
                self.place = match (ours, size) {
                    (_, 0) => Place::Header,
                    (true, 1..=LONGEST) => Place::Dockerfile(size as usize),
                    _ => Place::Passing(size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64)),
                };
                Some(Piece::Pass(header))
            }
            Place::Passing(left) => {
                if self.buffer.is_empty() {
                    return None;
                }
                let now = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - now as u64;
                self.place = if left == 0 { Place::Header } else { Place::Passing(left) };
                Some(Piece::Pass(self.buffer.split_to(now).freeze()))
            }
            Place::Dockerfile(size) => {
                if self.buffer.len() < size {
                    return None;
                }
                let padding = size.next_multiple_of(BLOCK) - size;
                self.place =
                    if padding == 0 { Place::Header } else { Place::Passing(padding as u64) };
                Some(Piece::Dockerfile(self.buffer.split_to(size)))
            }
        }
    }
}

/// The size field: octal digits, ended by a space or a NUL.
fn size(header: &[u8]) -> Option<u64> {
    let field = text(header.get(124..136)?);
    if field.is_empty() { Some(0) } else { u64::from_str_radix(field, 8).ok() }
}

fn name(header: &[u8]) -> &str {
    header.get(..100).map_or("", |field| plain(text(field)))
}

/// Type `0` or NUL.
fn is_file(header: &[u8]) -> bool {
    matches!(header.get(156), Some(b'0' | 0))
}

fn text(field: &[u8]) -> &str {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(&field[..end]).unwrap_or("").trim()
}

fn plain(path: &str) -> &str {
    path.strip_prefix("./").unwrap_or(path)
}

/// The word `syntax` and the image of a Dockerfile's syntax line. It must stand among the
/// directives (`# NAME=VALUE`) that the file begins with.
fn syntax_line(dockerfile: &[u8]) -> Option<(Range<usize>, String)> {
    let mut start = 0;
    for line in dockerfile.split_inclusive(|byte| *byte == b'\n') {
        let line_text = std::str::from_utf8(line).ok()?;
        let (name, value) = line_text.strip_prefix('#')?.split_once('=')?;
        if name.trim().as_bytes().eq_ignore_ascii_case(WORD) {
            let word = start + 1 + (name.len() - name.trim_start().len());
            let image = value.split_whitespace().next()?.to_owned();
            return Some((word..word + WORD.len(), image));
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, text: &[u8]) -> Vec<u8> {
        let mut header = [0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
        header[156] = b'0';
        let mut entry = [&header[..], text].concat();
        entry.resize(entry.len().next_multiple_of(BLOCK), 0);
        entry
    }

    async fn passed(tar: &[u8], piece: usize, to_be_had: bool) -> Vec<u8> {
        let pieces: Vec<_> = tar.chunks(piece).map(|b| Ok(Bytes::copy_from_slice(b))).collect();
        let answer = move |image: String| -> Fut<'static, bool> {
            assert_eq!(image, "docker/dockerfile:1");
            Box::pin(std::future::ready(to_be_had))
        };
        let tar: Items<_> = Box::pin(stream::iter(pieces));
        let passed = without_absent_frontend(tar, "Dockerfile", answer);
        passed.map(Result::unwrap).collect::<Vec<Bytes>>().await.concat()
    }

    #[tokio::test]
    async fn only_the_word_of_an_absent_frontend_is_overwritten() {
        let line = b"# check=skip=all\n# syntax=docker/dockerfile:1\nFROM scratch\n";
        let tar = |line: &[u8]| {
            let other = entry("a/Dockerfile", b"# syntax=other:1\n");
            [other, entry("./Dockerfile", line), entry("z", &[b'z'; 2000]), vec![0; 1024]].concat()
        };
        let without = b"# check=skip=all\n# unused=docker/dockerfile:1\nFROM scratch\n";
        for piece in [1, 511, 100_000] {
            assert_eq!(passed(&tar(line), piece, true).await, tar(line));
            assert!(passed(&tar(line), piece, false).await == tar(without), "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn what_is_no_tar_passes_as_it_is() {
        let junk = vec![b'x'; 5000];
        assert_eq!(passed(&junk, 700, false).await, junk);
        assert_eq!(passed(b"short", 2, false).await, b"short");
    }

    #[test]
    fn the_line_is_one_only_among_the_directives_at_the_top() {
        let image = |text: &str| syntax_line(text.as_bytes()).map(|(_, image)| image);
        assert_eq!(image("#syntax = a/b:1 x\nFROM y").as_deref(), Some("a/b:1"));
        assert_eq!(image("# escape=`\n# SYNTAX=a\n").as_deref(), Some("a"));
        for none in ["FROM x\n# syntax=a\n", "# a comment\n# syntax=a\n", "\n# syntax=a\n", ""] {
            assert_eq!(image(none), None, "{none:?}");
        }
    }
}
