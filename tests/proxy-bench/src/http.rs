//! A plain HTTP/1.1 client and a plain upstream for what nginx as an upstream cannot do: taking a
//! gigabyte.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PATIENCE: Duration = Duration::from_secs(60);
const CHUNK: usize = 256 << 10;

/// A head that was read, and the bytes of the body that came with it.
pub(crate) struct Head {
    pub(crate) text: String,
    pub(crate) rest: Vec<u8>,
}

impl Head {
    pub(crate) fn read(from: &mut impl Read) -> Result<Self> {
        let mut all = Vec::new();
        let mut part = [0; 4096];
        loop {
            if let Some(end) = end_of_head(&all) {
                let rest = all.split_off(end);
                return Ok(Self { text: String::from_utf8_lossy(&all).into_owned(), rest });
            }
            match from.read(&mut part)? {
                0 if all.is_empty() => bail!("the connection was closed"),
                0 => bail!("half a head: {}", String::from_utf8_lossy(&all)),
                n => all.extend_from_slice(&part[..n]),
            }
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn length(&self) -> Result<u64> {
        let length =
            self.field("content-length").with_context(|| format!("no length: {}", self.text))?;
        Ok(length.parse()?)
    }
}

pub(crate) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

pub(crate) fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("{to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request over a connection; anything but 200 is an error. Answers with the body's length.
pub(crate) fn ask(stream: &mut TcpStream, host: &str, path: &str) -> Result<u64> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    answer(stream)
}

pub(crate) fn answer(stream: &mut impl Read) -> Result<u64> {
    let head = Head::read(stream)?;
    if !head.text.starts_with("HTTP/1.1 200") {
        bail!("{}", head.text);
    }
    let length = head.length()?;
    skip(stream, length - head.rest.len() as u64)?;
    Ok(length)
}

pub(crate) fn get(to: SocketAddr, host: &str, path: &str) -> Result<u64> {
    ask(&mut connect(to)?, host, path)
}

/// Sends a body of `bytes` zeros; the upstream must have got them all.
pub(crate) fn put(to: SocketAddr, host: &str, path: &str, bytes: u64) -> Result<()> {
    let mut stream = connect(to)?;
    write!(stream, "PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {bytes}\r\n\r\n")?;
    fill(&mut stream, bytes)?;
    let head = Head::read(&mut stream)?;
    if head.field("x-got") != Some(&bytes.to_string()) {
        bail!("the upload did not arrive: {}", head.text);
    }
    Ok(())
}

fn skip(from: &mut impl Read, bytes: u64) -> Result<()> {
    let mut part = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let most = part.len().min(usize::try_from(left)?);
        match from.read(&mut part[..most])? {
            0 => bail!("the body ended {left} bytes early"),
            n => left -= n as u64,
        }
    }
    Ok(())
}

fn fill(to: &mut impl Write, bytes: u64) -> io::Result<()> {
    let part = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let most = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&part[..most])?;
        left -= most as u64;
    }
    Ok(())
}

/// An upstream that takes any body, and answers `GET /N` with N bytes.
pub(crate) fn bulk() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A proxy's probe or a connection that it closes ends with an error here.
            std::thread::spawn(move || while serve(&stream).is_ok() {});
        }
    });
    Ok(at)
}

fn serve(mut stream: &TcpStream) -> Result<()> {
    let head = Head::read(&mut stream)?;
    let chunked = head.field("transfer-encoding").is_some();
    let path = head.text.split(' ').nth(1).unwrap_or_default();
    let (got, bytes) = match path.trim_start_matches('/').parse::<u64>() {
        Ok(bytes) => (0, bytes),
        Err(_) if chunked => (skip_chunks(&mut stream, head.rest)?, 0),
        Err(_) => {
            let length = head.length()?;
            skip(&mut stream, length - head.rest.len() as u64)?;
            (length, 0)
        }
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nX-Got: {got}\r\n\r\n")?;
    Ok(fill(&mut stream, bytes)?)
}

/// Reads a chunked body to its end; answers with its length.
fn skip_chunks(stream: &mut impl Read, rest: Vec<u8>) -> Result<u64> {
    let mut from = io::BufReader::with_capacity(CHUNK, io::Cursor::new(rest).chain(stream));
    let mut all = 0;
    loop {
        let mut line = String::new();
        io::BufRead::read_line(&mut from, &mut line)?;
        let size =
            u64::from_str_radix(line.trim(), 16).with_context(|| format!("chunk {line:?}"))?;
        skip(&mut from, size + 2)?;
        all += size;
        if size == 0 {
            return Ok(all);
        }
    }
}
