//! Connections: one per call, behind one seam ([`connect`]) that further transports join.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::endpoint::{Endpoint, is_localhost};
use super::tls::{NoConnection, Tls};

/// How long one address may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Opens one connection.
pub(crate) async fn connect(endpoint: &Endpoint, tls: &Tls) -> Result<Patient, NoConnection> {
    let io: Box<dyn Io> = match endpoint {
        Endpoint::Http { host, port } => Box::new(tcp(host, *port).await?),
        Endpoint::Https { host, port } => {
            let stream = tcp(host, *port).await?;
            Box::new(tls.connect(stream, host).await?)
        }
        Endpoint::Unix(path) => Box::new(unix(path).await?),
    };
    Ok(Patient { io, write_failed: false })
}

impl From<String> for NoConnection {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

#[cfg(unix)]
async fn unix(path: &Path) -> Result<tokio::net::UnixStream, String> {
    let stream = timeout(CONNECT_TIMEOUT, tokio::net::UnixStream::connect(path)).await;
    stream.map_err(|_| timed_out())?.map_err(|e| words(&e))
}

#[cfg(not(unix))]
async fn unix(_: &Path) -> Result<TcpStream, String> {
    Err("this system has no Unix sockets; https:// and http:// go everywhere".to_owned())
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut last = "the name has no address".to_owned();
    for address in addresses(host, port).await? {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Requests are written whole: waiting for more to send only delays them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(e)) => last = words(&e),
            Err(_) => last = timed_out(),
        }
    }
    Err(last)
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    // Few resolvers know names below `localhost`, so they never get to see one (RFC 6761 6.3).
    if is_localhost(host) {
        let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return Ok(both.map(|ip| SocketAddr::new(ip, port)).to_vec());
    }
    match timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(_)) => Err("the name cannot be resolved".to_owned()),
        Err(_) => Err("the name server does not answer".to_owned()),
    }
}

fn timed_out() -> String {
    format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())
}

fn words(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => e.to_string(),
    }
}

/// A connection whose failed writes wait instead of failing, so that an answer which the server
/// sent before it stopped reading (401, 413) is still read. A dead connection ends the reading.
pub(crate) struct Patient {
    io: Box<dyn Io>,
    write_failed: bool,
}

impl Patient {
    fn written(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(_)) => {
                self.write_failed = true;
                Poll::Pending
            }
            other => other,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.write_failed {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_failed {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.write_failed {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
