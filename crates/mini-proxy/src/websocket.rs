//! Just enough of WebSocket (RFC 6455) to say goodbye: where one frame ends and the next may begin.

/// A close frame of a server, with code 1001: it is going away (section 7.4.1), and whoever wants
/// to go on may connect again.
pub(crate) const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

const CLOSE: u8 = 8;

/// Follows the frames that one side sends. Pure.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The part of a frame's head that came so far: 2 bytes, length, mask.
    head: Vec<u8>,
    /// Bytes of the payload that are to come.
    payload: u64,
    closed: bool,
}

impl Frames {
    /// Takes in what was sent.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let passed = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.head.push(*first);
            bytes = rest;
            if let Some(length) = whole(&self.head) {
                self.closed |= self.head[0] & 0x0f == CLOSE;
                self.payload = length;
                self.head.clear();
            }
        }
    }

    /// Whether a frame of ours may follow: nothing is half sent, and no close frame was sent.
    pub(crate) fn may_follow(&self) -> bool {
        self.head.is_empty() && self.payload == 0 && !self.closed
    }
}

/// The length of the payload, if the head is whole (section 5.2).
fn whole(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    if head.len() < 2 + extended + mask {
        return None;
    }
    let length =
        head[2..2 + extended].iter().fold(0, |sum: u64, byte| (sum << 8) | u64::from(*byte));
    Some(if extended == 0 { u64::from(second & 0x7f) } else { length })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame follows after each of these, and within none of them, however they are cut.
    #[test]
    fn a_frame_may_follow_between_two_and_nowhere_else() {
        let mut medium = vec![0x82, 126, 0x01, 0x00];
        medium.extend([0x88; 256]);
        let mut long = vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0];
        long.extend([0x88; 65536]);
        let masked = vec![0x81, 0x82, 1, 2, 3, 4, b'h', b'i'];
        for frame in [vec![0x81, 2, b'h', b'i'], vec![0x89, 0], masked, medium, long] {
            let mut frames = Frames::default();
            for (at, byte) in frame.iter().enumerate() {
                assert_eq!(frames.may_follow(), at == 0, "{at} of {}", frame.len());
                frames.push(&[*byte]);
            }
            assert!(frames.may_follow());
            let mut frames = Frames::default();
            frames.push(&[&frame[..], &frame, &frame[..1]].concat());
            assert!(!frames.may_follow());
            frames.push(&frame[1..]);
            assert!(frames.may_follow());
        }
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        let mut frames = Frames::default();
        frames.push(&[0x81, 1, 8]);
        assert!(frames.may_follow());
        frames.push(&GOING_AWAY);
        assert!(!frames.may_follow());
    }
}
