//! From a client's first byte to a TLS stream.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::{ACME, Tls, count};

/// The first byte of TLS: a record of the handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;
/// After the answer to a client that does not speak TLS: how long, and how much, it is read on, so
/// that a reset does not overtake the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 << 10;

/// What a client is told that does not speak TLS.
pub const SPEAKS_HTTPS: &str = "This port speaks https, and the request came without TLS.\n\
                                Write https:// in place of http://.\n";

impl Tls {
    /// The stream inside of TLS; `None` when the connection is over: the handshake failed or took
    /// too long, or there was no more to do than the handshake.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        client: IpAddr,
    ) -> Option<TlsStream<TcpStream>> {
        let Some(_slot) = self.underway.enter(client) else {
            count(&self.counters.refused);
            tracing::debug!(client.address = %client, "too many TLS handshakes are under way");
            return None;
        };
        let deadline = Instant::now() + self.patience;
        let done = timeout_at(deadline, self.handshake(stream)).await;
        match done.unwrap_or_else(|late| Err(late.into())) {
            Ok(Some(stream)) => {
                let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                count(if resumed { &self.counters.resumed } else { &self.counters.full });
                Some(stream)
            }
            Ok(None) => None,
            Err(error) => {
                count(&self.counters.failed);
                tracing::debug!(%error, client.address = %client, "a TLS handshake failed");
                None
            }
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0].is_ascii_alphabetic() {
            refuse_plain(stream).await?;
            return Err(io::Error::other("it speaks plain http"));
        }
        if first[0] != HANDSHAKE {
            return Err(io::Error::other("it does not speak TLS"));
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = start.client_hello();
        if !asks_for_acme(&hello) {
            return start.into_stream(self.config.clone()).await.map(Some);
        }
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let config = self.challenges.load().alpn.get(&name).cloned();
        // Without a challenge there is no such protocol here, which the ordinary configuration
        // says in its alert.
        let Some(config) = config else {
            return start.into_stream(self.config.clone()).await.map(|_| None);
        };
        tracing::info!(name, "a certificate authority looks at a name (TLS-ALPN-01)");
        let mut stream = start.into_stream(config).await?;
        // RFC 8737 section 3: the handshake was all of it.
        stream.shutdown().await?;
        Ok(None)
    }
}

/// Whether the client offers `acme-tls/1` and nothing else (RFC 8737 section 3).
fn asks_for_acme(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME) && offered.next().is_none())
}

/// Tells a client that speaks http to the https port, in the words that it understands.
async fn refuse_plain(mut stream: TcpStream) -> io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nX-Mini-Error: H26\r\nConnection: close\r\n\r\n{SPEAKS_HTTPS}",
        SPEAKS_HTTPS.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(LINGER_BYTES);
    let mut sink = tokio::io::sink();
    let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut sink)).await;
    Ok(())
}
