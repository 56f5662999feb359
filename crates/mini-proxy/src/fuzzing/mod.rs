//! What must hold of everything that parses hostile bytes, whatever the bytes. Each function panics
//! where it does not: the fuzzers in `fuzz/` call them, and so do ordinary tests, with the seeds in
//! `fuzz/seeds` and mutations of them.

mod strict;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use mini_core::control::{FromProxy, ToProxy};
use mini_core::name::HostName;
use mini_core::route::{Host, hosts_of, read_host};

use crate::forward::Arrival;
use crate::forward::exchange::whole::Reframed;
use crate::forward::job::{self, About};
use crate::forwarded::way;
use crate::h1::{Body, Finder, Refusal, Request, Response, room, skip_empty_lines};
use crate::limits::Clients;
use crate::proxy_protocol;

/// How far a stream of messages was read.
struct Reading {
    /// What the other side is sent, whole messages only.
    sent: Vec<u8>,
    /// The messages in it, as they were understood.
    messages: Vec<Understood>,
    /// Why it stopped before the end.
    refused: Option<Refusal>,
}

/// One message as the first reader understood it.
#[derive(Debug, PartialEq, Eq)]
struct Understood {
    /// Method and target, or the status.
    start: String,
    /// How many bytes of the stream were this message: also where it ends must not depend on how
    /// the bytes came.
    used: usize,
}

/// Requests of one connection: the same verdict at every split of the bytes, and what is sent on is
/// read by another, strict reader as the same requests.
pub fn requests(input: &[u8]) {
    hold(input, |pieces| read_requests(input, pieces), strict::requests);
}

/// Answers of one upstream connection, to requests with GET or HEAD.
pub fn responses(input: &[u8]) {
    for to_head in [false, true] {
        let strict = |sent: &[u8]| strict::responses(sent, to_head);
        hold(input, |pieces| read_responses(input, pieces, to_head), strict);
    }
}

fn hold(
    input: &[u8],
    read: impl Fn(&[usize]) -> Reading,
    strict: impl Fn(&[u8]) -> Result<Vec<strict::Message>, String>,
) {
    let plain = |reading: &Reading| match strict(&reading.sent) {
        Ok(messages) => messages,
        Err(why) => panic!("{why}, sent on: {}, came: {}", show(&reading.sent), show(input)),
    };
    let whole = read(&[input.len().max(1)]);
    let sent = plain(&whole);
    let starts = |all: &[Understood]| all.iter().map(|m| m.start.clone()).collect::<Vec<_>>();
    let read_again: Vec<String> = sent.iter().map(|m| m.start.clone()).collect();
    assert_eq!(read_again, starts(&whole.messages), "{}", show(input));
    for pieces in splits(input) {
        let again = read(&pieces);
        let as_whole = (&whole.messages, whole.refused, &sent);
        assert_eq!(
            (&again.messages, again.refused, &plain(&again)),
            as_whole,
            "in pieces of {pieces:?}: {}",
            show(input)
        );
    }
}

/// A chunked body: the same data at every split, and the same as a strict reader's.
pub fn chunked(input: &[u8]) {
    let read = |pieces: &[usize]| {
        let mut body = Body::chunked();
        let mut data = Vec::new();
        let done = feed(input, pieces, |buf| {
            let step = body.take(buf)?;
            data.extend_from_slice(&buf[step.start..step.start + step.len]);
            Ok((step.used, body.is_done()))
        });
        (done, data, body.trailers().to_vec())
    };
    let whole = read(&[input.len().max(1)]);
    for pieces in splits(input) {
        let again = read(&pieces);
        assert_eq!(again.0, whole.0, "in pieces of {pieces:?}: {}", show(input));
        // Of a body that is refused less may have been seen before.
        if whole.0.is_ok() {
            assert_eq!(again, whole, "in pieces of {pieces:?}: {}", show(input));
        }
    }
    if let (Ok((used, true)), data, _) = &whole {
        let strict = strict::lenient_chunks(&input[..*used]);
        assert_eq!(strict.as_ref(), Some(data), "{}", show(input));
    }
}

/// A Host header: what it names is in one form only.
pub fn host(input: &[u8]) {
    let domains: [HostName; 2] =
        ["localhost", "apps.example.com"].map(|name| name.parse().expect("a name"));
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(Host::Name(name)) = read_host(text, &domains) {
        assert_eq!(name, name.to_ascii_lowercase());
        assert!(!name.contains(':') && !name.ends_with('.'), "{name}");
        assert_eq!(read_host(&name, &domains), Ok(Host::Name(name.clone())), "{text:?}");
        assert!(name.parse::<IpAddr>().is_err(), "{name}");
        assert!(domains.iter().all(|d| d.as_str() != name), "{name}");
    }
}

/// A header of the PROXY protocol: once it is read or refused, what follows changes nothing.
pub fn proxy_header(input: &[u8]) {
    let mut said = None;
    for end in 0..=input.len() {
        let now = proxy_protocol::read(&input[..end]).transpose();
        if said.is_some() {
            assert_eq!(now, said, "at {end} of {}", show(input));
        }
        if let Some(Ok(header)) = &now {
            assert!(header.len <= end, "at {end} of {}", show(input));
        }
        said = now;
    }
}

/// Documents on the control socket: what is understood can be said again.
pub fn control(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(document) = serde_json::from_str::<ToProxy>(text) {
        let again = serde_json::to_string(&document).expect("it can be said");
        assert!(!again.contains('\n'), "one line: {again}");
        assert_eq!(serde_json::from_str::<ToProxy>(&again).ok(), Some(document.clone()));
        if let ToProxy::App { route, .. } = &document {
            hosts_of(route, &["localhost".parse().expect("a name")]);
        }
    }
    if let Ok(document) = serde_json::from_str::<FromProxy>(text) {
        let again = serde_json::to_string(&document).expect("it can be said");
        assert_eq!(serde_json::from_str::<FromProxy>(&again).ok(), Some(document));
    }
}

/// Ways to cut the input: sizes of pieces, the last of them again and again.
fn splits(input: &[u8]) -> Vec<Vec<usize>> {
    // Somewhere, but the same for the same input.
    let somewhere = input.iter().fold(7, |sum: usize, b| sum.wrapping_mul(31) + usize::from(*b));
    let at = 1 + somewhere % input.len().max(1);
    vec![vec![1], vec![at, input.len().max(1)], vec![2 + somewhere % 13]]
}

/// Gives `input` piece by piece to `take`, which says how much it is done with and whether that is
/// all; answers with how much that was, and whether it was all.
fn feed(
    input: &[u8],
    pieces: &[usize],
    mut take: impl FnMut(&mut [u8]) -> Result<(usize, bool), Refusal>,
) -> Result<(usize, bool), Refusal> {
    let mut buf: Vec<u8> = Vec::new();
    let (mut at, mut n, mut used) = (0, 0, 0);
    while at < input.len() {
        let piece = pieces[n.min(pieces.len() - 1)].max(1).min(input.len() - at);
        buf.extend_from_slice(&input[at..at + piece]);
        (at, n) = (at + piece, n + 1);
        loop {
            let before = used;
            let (taken, done) = take(&mut buf)?;
            buf.drain(..taken);
            used += taken;
            if done {
                return Ok((used, true));
            }
            if used == before {
                break;
            }
        }
    }
    Ok((used, false))
}

const ARRIVAL: Arrival =
    Arrival { client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), port: 80, https: false };

fn read_requests(input: &[u8], pieces: &[usize]) -> Reading {
    // One whose word counts: so its fields pass as far as any do.
    let trusted = vec!["192.0.2.0/24".parse().expect("a network")];
    let clients = Clients { trusted, ..Clients::default() };
    let mut finder = Finder::default();
    let mut body: Option<Reframed> = None;
    // Of the message that is read now.
    let (mut to, mut start, mut length) = (Vec::new(), String::new(), 0);
    let (mut sent, mut messages) = (Vec::new(), Vec::new());
    let fed = feed(input, pieces, |buf| {
        let used = match &mut body {
            Some(reframed) => reframed.take(buf, &mut to)?,
            None => {
                let skip = skip_empty_lines(buf);
                if skip > 0 {
                    return Ok((skip, false));
                }
                if buf.is_empty() {
                    return Ok((0, false));
                }
                let Some(end) = finder.request(buf)? else { return Ok((0, false)) };
                let mut space = room();
                let request = Request::read(&buf[..end], &mut space)?;
                let target = request.target;
                start = format!("{} {}{}", request.method, target.slash, target.rest);
                // Byte for byte, as the second reader reads it.
                start = start.bytes().map(char::from).collect();
                let way = way(ARRIVAL, &clients, request.fields);
                to = job::head(&request, &way, "id").0;
                body = Some(Reframed::request(request.body));
                end
            }
        };
        length += used;
        if body.as_ref().is_some_and(Reframed::is_done) {
            body = None;
            sent.append(&mut to);
            let used = std::mem::take(&mut length);
            messages.push(Understood { start: std::mem::take(&mut start), used });
        }
        Ok((used, false))
    });
    Reading { sent, messages, refused: fed.err() }
}

fn read_responses(input: &[u8], pieces: &[usize], to_head: bool) -> Reading {
    let mut about = About::nothing("id".into());
    (about.is_head, about.keep_alive) = (to_head, true);
    let mut finder = Finder::default();
    let mut body: Option<Reframed> = None;
    let (mut to, mut start, mut length, mut last) = (Vec::new(), String::new(), 0, false);
    let (mut sent, mut messages) = (Vec::new(), Vec::new());
    let fed = feed(input, pieces, |buf| {
        let used = match &mut body {
            Some(reframed) => reframed.take(buf, &mut to)?,
            None if buf.is_empty() => return Ok((0, false)),
            None => {
                let Some(end) = finder.response(buf)? else { return Ok((0, false)) };
                let mut space = room();
                let response = Response::read(&buf[..end], to_head, &mut space)?;
                start = response.status.to_string();
                // Nothing can follow on such a connection.
                last = !response.keep_alive;
                body = Some(match response.status {
                    // Nobody asked for it.
                    101 => return Err(Refusal::NotHttp),
                    100..=199 => Reframed::interim(&response, &mut to),
                    _ => Reframed::answer(response, &about, &mut to),
                });
                end
            }
        };
        length += used;
        let mut done = false;
        if body.as_ref().is_some_and(Reframed::is_done) {
            body = None;
            sent.append(&mut to);
            let used = std::mem::take(&mut length);
            messages.push(Understood { start: std::mem::take(&mut start), used });
            done = last;
        }
        Ok((used, done))
    });
    if let (Ok((_, false)), Some(mut reframed)) = (&fed, body)
        && reframed.closed(&mut to)
    {
        sent.append(&mut to);
        messages.push(Understood { start, used: length });
    }
    Reading { sent, messages, refused: fed.err() }
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
