//! A static-file server for one folder, made to be the only program in an image.
//!
//! It is linked statically and put FROM scratch beside the files it serves, so a site needs no
//! base image. GET and HEAD, clean URLs, validators, ranges and precompressed siblings; see
//! [`respond`] for what a request gets and [`site`] for which file that is.
//!
//! Environment: see [`PORT`] and [`ROOT`].

mod body;
mod condition;
mod dial;
mod encoding;
mod media;
mod path;
mod range;
mod respond;
mod server;
mod site;
mod validator;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::server::Ended;
use crate::site::Site;

/// Environment: the TCP port to listen on, 1 to 65535; 8080 if unset or empty.
const PORT: &str = "PORT";
/// Environment: the folder to serve; `/site` if unset or empty.
const ROOT: &str = "MINI_STATIC_ROOT";

/// How long `mini-static wait …` waits, as a step of a build that is looked at meanwhile.
const WAIT: Duration = Duration::from_secs(30);

/// Threads that may wait for the disk at once. Each holds one piece of a file at most.
const DISK_THREADS: usize = 8;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&mut io::stderr(), &format!("fatal: {reason}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("dial") => return dial::all(words),
        Some("wait") => {
            std::thread::sleep(WAIT);
            return Ok(());
        }
        _ => {}
    }
    let port = port(std::env::var_os(PORT))?;
    let root = std::env::var_os(ROOT).filter(|root| !root.is_empty());
    let root = PathBuf::from(root.unwrap_or_else(|| "/site".into()));
    let site = Site::open(&root)
        .map_err(|error| format!("cannot serve the folder {}: {error}", root.display()))?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())
            .map_err(|error| format!("cannot listen for SIGTERM: {error}"))?;
        let mut interrupted = signal(SignalKind::interrupt())
            .map_err(|error| format!("cannot listen for SIGINT: {error}"))?;
        let stop = async move {
            tokio::select! { _ = terminated.recv() => {}, _ = interrupted.recv() => {} }
        };
        let listener =
            listen(port).await.map_err(|error| format!("cannot listen on port {port}: {error}"))?;
        say(&mut io::stdout(), &format!("serving {} on :{port}", root.display()));
        match server::serve(listener, Arc::new(site), stop).await {
            Ended::Drained => {}
            Ended::CutShort => say(
                &mut io::stderr(),
                "stopped while answers were still being sent: the grace was over",
            ),
        }
        Ok(())
    })
}

/// The port asked for. A value that is no port is refused, never replaced by a guess.
fn port(value: Option<OsString>) -> Result<u16, String> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(8080) };
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("{PORT} must be a number from 1 to 65535, not {value:?}"))
}

/// Both families on one socket; IPv4 alone where the kernel has no IPv6.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        result => result,
    }
}

/// Writes one line. A closed stream is no reason to stop serving.
fn say(stream: &mut impl Write, line: &str) {
    let _ = writeln!(stream, "{line}");
}
