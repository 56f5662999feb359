//! A WebSocket client (RFC 6455) of as much as the tests need.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use crate::http::read_answer;

pub(crate) struct WebSocket {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(crate) enum Message {
    Data(Vec<u8>),
    /// Closed, with a code; 1005 if none was said.
    Close(u16),
}

impl WebSocket {
    /// The opening handshake; the key and its answer are the RFC's own example.
    pub(crate) fn open(stream: TcpStream, host: &str, path: &str) -> Result<Self, String> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let told = |error: std::io::Error| format!("opening a WebSocket: {error}");
        let mut reader = BufReader::new(stream.try_clone().map_err(told)?);
        let mut socket = stream;
        socket.write_all(request.as_bytes()).map_err(told)?;
        let answer = read_answer(&mut reader, "GET").map_err(told)?;
        let accepted = answer.header("sec-websocket-accept");
        if answer.status != 101 || accepted != Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            let code = answer.header("x-mini-error").unwrap_or("-");
            return Err(format!("no WebSocket: status {}, X-Mini-Error {code}", answer.status));
        }
        Ok(Self { stream: socket, reader })
    }

    /// Sends one short text frame, masked as a client's must be.
    pub(crate) fn send(&mut self, text: &[u8]) -> std::io::Result<()> {
        let mask = [7, 11, 13, 17];
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("short")];
        frame.extend(mask);
        frame.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.stream.write_all(&frame)
    }

    /// Reads one short frame.
    pub(crate) fn read(&mut self) -> std::io::Result<Message> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        self.reader.read_exact(&mut payload)?;
        Ok(match (head[0] & 0x0f, &payload[..]) {
            (8, [high, low, ..]) => Message::Close(u16::from_be_bytes([*high, *low])),
            (8, _) => Message::Close(1005),
            _ => Message::Data(payload),
        })
    }
}
