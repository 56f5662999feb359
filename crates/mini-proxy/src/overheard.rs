//! Tokens that came over http to a door that answers over https only, where they could be read on the
//! way. Such a request is not sent on, but its token is: at [`OVERHEARD`] the controller writes down
//! that it was seen, and refuses.
//!
//! So many in a minute, in all and of one client, since nobody may keep the controller busy with what
//! is refused. What is more than that, or brings no token, is answered here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mini_core::control::OVERHEARD;

use crate::h1::{Known, Request, known};
use crate::limits::Key;
use crate::shared::lock;

/// In a minute, of everybody; and of one client, as many as may fail to say who they are.
const OF_ALL: u32 = 300;
const OF_ONE: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// A token's secret has 93 characters.
const LONGEST: usize = 200;

#[derive(Default)]
pub(crate) struct Overheard(Mutex<Minute>);

/// What came in the minute that began with the first of them.
#[derive(Default)]
struct Minute {
    since: Option<Instant>,
    all: u32,
    /// No more keys than [`OF_ALL`].
    each: HashMap<Key, u32>,
}

impl Overheard {
    /// Whether the controller is told.
    pub(crate) fn passes(&self, request: &Request<'_, '_>, client: IpAddr) -> bool {
        brings_a_token(request) && self.count(client, Instant::now())
    }

    fn count(&self, client: IpAddr, now: Instant) -> bool {
        let mut minute = lock(&self.0);
        if minute.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            *minute = Minute { since: Some(now), ..Minute::default() };
        }
        if minute.all >= OF_ALL {
            return false;
        }
        let count = minute.each.entry(Key::of(client)).or_default();
        if *count >= OF_ONE {
            return false;
        }
        *count += 1;
        minute.all += 1;
        true
    }
}

/// Whether it has one `Authorization`, and that reads like a token of ours.
fn brings_a_token(request: &Request<'_, '_>) -> bool {
    let mut values = request.fields.iter().filter(|f| known(f.name) == Known::Authorization);
    let one = values.next().filter(|_| values.next().is_none());
    one.is_some_and(|field| {
        let value = field.value;
        value.len() <= LONGEST
            && value
                .split_at_checked(12)
                .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer mini_"))
    })
}

/// The same request at the place where nothing is done but that.
pub(crate) fn aside<'b, 'r>(request: Request<'b, 'r>) -> Request<'b, 'r> {
    request.to(OVERHEARD.strip_prefix('/').unwrap_or(OVERHEARD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::room;

    fn reads(authorization: &str) -> bool {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{authorization}\r\n");
        let mut space = room();
        brings_a_token(&Request::read(head.as_bytes(), &mut space).ok().unwrap())
    }

    #[test]
    fn what_reads_like_a_token_is_known() {
        assert!(reads("Authorization: Bearer mini_abc\r\n"));
        assert!(reads("authorization: bearer mini_abc\r\n"));
        assert!(!reads("") && !reads("Authorization: Basic bWluaV8=\r\n"));
        assert!(!reads("Authorization: Bearer other_abcdef\r\n"));
        assert!(!reads("Authorization: Bearer mini_a\r\nAuthorization: Bearer mini_b\r\n"));
        assert!(!reads(&format!("Authorization: Bearer mini_{}\r\n", "a".repeat(300))));
    }

    #[test]
    fn so_many_in_a_minute_of_one_client_and_of_all() {
        let overheard = Overheard::default();
        let now = Instant::now();
        let from = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n));
        let passed = (0..30).filter(|_| overheard.count(from(0), now)).count();
        assert_eq!(passed, OF_ONE as usize);
        assert!(overheard.count(from(1), now), "others are not slowed");
        let passed = (2..1000).filter(|n| overheard.count(from(*n), now)).count();
        assert_eq!(passed, (OF_ALL - OF_ONE - 1) as usize);
        assert!(lock(&overheard.0).each.len() <= OF_ALL as usize);
        assert!(!overheard.count(from(1), now + MINUTE / 2));
        assert!(overheard.count(from(0), now + MINUTE), "a new minute");
    }
}
