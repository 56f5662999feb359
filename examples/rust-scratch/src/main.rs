//! A web server from the standard library, one thread for each connection.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> io::Result<()> {
    let port: u16 = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    println!("listening on {port}");

    let stopping = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&stopping);
    thread::spawn(move || {
        signals.forever().next();
        println!("stopping: finishing");
        stop.store(true, Ordering::SeqCst);
        // Wakes the loop below, which waits for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    });

    let mut answering = Vec::new();
    for stream in listener.incoming() {
        if stopping.load(Ordering::SeqCst) {
            break;
        }
        answering.retain(|thread: &thread::JoinHandle<_>| !thread.is_finished());
        if let Ok(stream) = stream {
            answering.push(thread::spawn(move || answer(stream)));
        }
    }
    // Take no new connections, finish the answers under way, then leave.
    drop(listener);
    for thread in answering {
        let _ = thread.join();
    }
    Ok(())
}

/// Answers one request and closes the connection.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.map_or(false, |line| !line.is_empty()) {}

    let path = request.split(' ').nth(1).unwrap_or("");
    let (status, text) = match path.split('?').next() {
        Some("/") => ("200 OK", greeting()),
        Some("/up") => ("200 OK", "up\n".to_owned()),
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    let body = if request.starts_with("HEAD ") { "" } else { &text };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        text.len()
    )
}

fn greeting() -> String {
    let or = |name, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    format!("hello from {} {}, in Rust\n", or("MINI_APP", "rust"), or("MINI_RELEASE", "here"))
}
