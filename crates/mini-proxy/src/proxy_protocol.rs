//! The PROXY protocol, versions 1 and 2: how a load balancer that passes bytes on says whose they
//! are (haproxy.org/download/3.0/doc/proxy-protocol.txt). The reading is pure; what comes after the
//! header stays in the socket, be it HTTP or TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// How long the header may take: whoever sends it does so at once (section 2 has 3 s).
const WITHIN: Duration = Duration::from_secs(5);
/// Section 2.2: what begins every header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Section 2.1: the longest line of version 1, with its CRLF.
const MAX_LINE: usize = 107;
/// The longest header of version 2: addresses and what else is said about the connection. Larger
/// ones are allowed and nobody sends them.
const MAX_BINARY: usize = 4096;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// In bytes.
    pub(crate) len: usize,
    /// The client; `None` if the sender speaks for itself, or does not know.
    pub(crate) source: Option<SocketAddr>,
}

/// Why bytes are no header; the text ends a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad(pub(crate) &'static str);

/// Reads a header; `None` if it goes on behind these bytes.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Header>, Bad> {
    let begins = |with: &[u8]| {
        let same = bytes.len().min(with.len());
        bytes[..same] == with[..same]
    };
    if begins(SIGNATURE) {
        binary(bytes)
    } else if begins(b"PROXY ") {
        line(bytes)
    } else {
        Err(Bad("it does not begin with a header of the PROXY protocol"))
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`, CRLF.
fn line(bytes: &[u8]) -> Result<Option<Header>, Bad> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = seen.windows(2).position(|two| two == b"\r\n") else {
        let long = seen.len() == MAX_LINE;
        return if long { Err(Bad("its line has no end")) } else { Ok(None) };
    };
    let bad = Bad("its line is not as the PROXY protocol has it");
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| bad)?;
    let words: Vec<&str> = text.split(' ').collect();
    let source = match words[..] {
        // Whatever follows is to be ignored.
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, from, to] => {
            let pair = match family {
                "TCP4" => address::<Ipv4Addr>(source).zip(address::<Ipv4Addr>(destination)),
                "TCP6" => address::<Ipv6Addr>(source).zip(address::<Ipv6Addr>(destination)),
                _ => None,
            };
            let (source, _) = pair.ok_or(bad)?;
            let (from, _) = port(from).zip(port(to)).ok_or(bad)?;
            Some(SocketAddr::new(source, from))
        }
        _ => return Err(bad),
    };
    Ok(Some(Header { len: end + 2, source }))
}

fn address<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<A>().ok().map(Into::into)
}

/// Decimal, without a sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Version 2: signature, version and command, family, length; addresses; the rest is skipped.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Bad> {
    // What is certainly wrong is refused before all of it has come.
    let command = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(_) => return Err(Bad("its version or command is not known")),
    };
    let Some([family, high, low]) = bytes.get(13..16) else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_BINARY {
        return Err(Bad("its header is too long"));
    }
    let Some(addresses) = bytes.get(16..16 + len) else { return Ok(None) };
    let source = match (command, family) {
        (Command::Local, _) => None,
        // TCP over IPv4: two addresses, two ports.
        (Command::Proxy, 0x11) => {
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses else { return Err(SHORT) };
            let port = u16::from_be_bytes([high, low]);
            check(addresses, 12)?;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
        }
        // TCP over IPv6.
        (Command::Proxy, 0x21) => {
            check(addresses, 36)?;
            let ip = <[u8; 16]>::try_from(&addresses[..16]).map_err(|_| SHORT)?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Some(SocketAddr::new(Ipv6Addr::from(ip).into(), port))
        }
        // Unix sockets, or what the sender does not know: to be taken as it is.
        (Command::Proxy, _) => None,
    };
    Ok(Some(Header { len: 16 + len, source }))
}

#[derive(Clone, Copy)]
enum Command {
    Local,
    Proxy,
}

const SHORT: Bad = Bad("its header has no room for its addresses");

fn check(addresses: &[u8], needed: usize) -> Result<(), Bad> {
    if addresses.len() < needed { Err(SHORT) } else { Ok(()) }
}

/// Takes the header off a connection; what follows it is not read.
///
/// Fails with `InvalidData` if there is none, with `TimedOut` if it does not come.
pub(crate) async fn take(stream: &mut TcpStream) -> io::Result<Header> {
    let taking = async {
        let mut buf = [0; MAX_BINARY + 16];
        let mut have = 0;
        loop {
            let seen = stream.peek(&mut buf[have..]).await?;
            if seen == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let header = read(&buf[..have + seen])
                .map_err(|Bad(why)| io::Error::new(io::ErrorKind::InvalidData, why))?;
            // Without an end all that there is belongs to it, and is taken, so that the next look
            // waits for more.
            let until = header.map_or(have + seen, |header| header.len);
            stream.read_exact(&mut buf[have..until]).await?;
            have = until;
            if let Some(header) = header {
                return Ok(header);
            }
        }
    };
    tokio::time::timeout(WITHIN, taking)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        bytes.extend(addresses);
        bytes
    }

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 187];
        let mut v6 = vec![0x20, 1, 0xd, 0xb8];
        v6.extend([0; 11]);
        v6.push(1);
        v6.extend([0; 16]);
        v6.extend([0xdc, 0x04, 1, 187]);
        let with_more = [&v4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(), Some("192.0.2.1:56324")),
            (b"PROXY TCP6 2001:db8::1 ::1 56324 443\r\n".to_vec(), Some("[2001:db8::1]:56324")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff whatever 65535 65535\r\n".to_vec(), None),
            (binary(0x21, 0x11, &v4), Some("192.0.2.1:56324")),
            (binary(0x21, 0x11, &with_more), Some("192.0.2.1:56324")),
            (binary(0x21, 0x21, &v6), Some("[2001:db8::1]:56324")),
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &v4), None),
            (binary(0x21, 0x31, &[0; 216]), None),
            (binary(0x21, 0x00, &[]), None),
        ]
    }

    #[test]
    fn every_header_is_read_at_every_split_and_what_follows_is_left() {
        for (bytes, source) in good() {
            let source = source.map(|s| s.parse().unwrap());
            let header = Header { len: bytes.len(), source };
            for at in 0..bytes.len() {
                assert_eq!(read(&bytes[..at]), Ok(None), "{bytes:?} at {at}");
            }
            assert_eq!(read(&bytes), Ok(Some(header)));
            let followed = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(read(&followed), Ok(Some(header)));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        let lines = [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 x 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY \r\n",
            &long,
        ];
        for line in lines {
            assert!(read(line.as_bytes()).is_err(), "{line:?}");
        }
        let too_long = [&binary(0x21, 0x11, &[])[..14], &[0xff, 0xff]].concat();
        for bytes in [
            binary(0x11, 0x11, &[0; 12]),
            binary(0x22, 0x11, &[0; 12]),
            binary(0x21, 0x11, &[0; 11]),
            binary(0x21, 0x21, &[0; 35]),
            too_long,
        ] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn no_byte_that_is_changed_makes_it_panic() {
        for (bytes, _) in good() {
            for at in 0..bytes.len() {
                for value in [0, 1, b' ', b'\r', b'\n', 0x7f, 0xff, bytes[at] ^ 1] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    if let Ok(Some(header)) = read(&changed) {
                        assert!(header.len <= changed.len());
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_header_in_pieces_is_taken_and_not_a_byte_more() {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (bytes, source) in good() {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.set_nodelay(true).unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            let sending = tokio::spawn(async move {
                let (begin, rest) = bytes.split_at(bytes.len() / 2);
                for piece in [&begin[..1], &begin[1..], &[rest, b"more"].concat()[..]] {
                    client.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let header = take(&mut server).await.unwrap();
            assert_eq!(header.source, source.map(|s| s.parse().unwrap()));
            let mut more = String::new();
            server.read_to_string(&mut more).await.unwrap();
            assert_eq!(more, "more");
            sending.await.unwrap();
        }
    }
}
