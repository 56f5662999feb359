//! `GET /metrics`, on a socket that is not public. As much HTTP/1.1 as a scraper needs: one request
//! for each connection, no body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::exposition::{self, CONTENT_TYPE};
use crate::control::Socket;
use crate::shared::Shared;

/// Scrapes at once; others wait in the kernel's queue.
const AT_ONCE: usize = 8;
const MAX_HEAD: usize = 16 << 10;
const BIND_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the socket in the data folder, for ever.
pub(crate) async fn serve_unix(shared: Arc<Shared>, socket: Socket) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match socket.accept().await {
            Ok(stream) => spawn(&shared, stream, permit),
            Err(error) => refused(&error).await,
        }
    }
}

/// Serves a port, for ever. One that is taken is tried again: the proxy before this one may have it
/// still.
pub(crate) async fn serve_tcp(shared: Arc<Shared>, address: SocketAddr) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut told = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !told => {
                told = true;
                tracing::warn!(%error, %address, "the metrics' port cannot be had; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_EVERY).await;
    };
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => spawn(&shared, stream, permit),
            Err(error) => refused(&error).await,
        }
    }
}

async fn refused(error: &std::io::Error) {
    tracing::warn!(%error, "the metrics' socket cannot accept; trying again");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn spawn<S>(shared: &Arc<Shared>, stream: S, permit: tokio::sync::OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _ = tokio::time::timeout(PATIENCE, answer(&shared, stream)).await;
        drop(permit);
    });
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    mut stream: S,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = match (method, path.split('?').next().unwrap_or_default()) {
        ("GET" | "HEAD", "/metrics") => {
            let shared = Arc::clone(shared);
            let text = tokio::task::spawn_blocking(move || exposition::text(&shared)).await;
            ("200 OK", CONTENT_TYPE, text.unwrap_or_default())
        }
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "GET /metrics\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}
