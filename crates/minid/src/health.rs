//! Asking the platform's own front door whether it serves: `GET /v1/health`, over TCP or a Unix
//! socket, as plainly as a monitor would.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const ASK: &[u8] = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const DEADLINE: Duration = Duration::from_secs(2);
const MAX_ANSWER: u64 = 64 << 10;

/// The answer's body, if it is a 200 of a mini server.
pub(crate) async fn over_tcp(address: SocketAddr) -> Option<mini_api::Health> {
    tokio::time::timeout(DEADLINE, async { ask(TcpStream::connect(address).await.ok()?).await })
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
