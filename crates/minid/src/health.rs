//! Asking the platform's own front door whether it serves: `GET /v1/health`, over TCP or a Unix
//! socket, as plainly as a monitor would.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const ASK: &[u8] = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const DEADLINE: Duration = Duration::from_secs(2);
const MAX_ANSWER: u64 = 64 << 10;

/// What a proxy that wants to hear so is told before anything else: we speak for ourselves.
const PROXY_HEADER: &[u8] = b"PROXY UNKNOWN\r\n";

/// A connection to a front door; `proxied`: it is one behind a load balancer (`--proxy-protocol`).
async fn connect(address: SocketAddr, proxied: bool) -> std::io::Result<TcpStream> {
    let port = address.port();
    let mut stream = match address {
        // All addresses of this machine, which may be without IPv6.
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            match TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
                Ok(stream) => stream,
                Err(_) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?,
            }
        }
        address => TcpStream::connect(address).await?,
    };
    if proxied {
        stream.write_all(PROXY_HEADER).await?;
    }
    Ok(stream)
}

/// Whether the proxy of a mini server speaks TLS there: it tells clients that do not.
pub(crate) async fn is_our_tls(address: SocketAddr, proxied: bool) -> bool {
    let asked = async {
        let mut stream = connect(address, proxied).await?;
        stream.write_all(ASK).await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(DEADLINE, asked).await;
    let said = mini_proxy::SPEAKS_HTTPS.as_bytes();
    matches!(answer, Ok(Ok(answer)) if answer.windows(said.len()).any(|w| w == said))
}

/// The answer's body, if it is a 200 of a mini server.
pub(crate) async fn over_tcp(address: SocketAddr, proxied: bool) -> Option<mini_api::Health> {
    tokio::time::timeout(DEADLINE, async { ask(connect(address, proxied).await.ok()?).await })
        .await
        .ok()?
}

pub(crate) async fn over_unix(path: &Path) -> Option<mini_api::Health> {
    tokio::time::timeout(DEADLINE, async { ask(UnixStream::connect(path).await.ok()?).await })
        .await
        .ok()?
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<mini_api::Health> {
    stream.write_all(ASK).await.ok()?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await.ok()?;
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        return None;
    }
    let body = body.get(body.find('{')?..=body.rfind('}')?)?;
    serde_json::from_str(body).ok()
}
