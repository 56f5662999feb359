//! A load generator: many connections at once, of the kinds that a deploy could hurt.
//!
//! What counts as a failure: anything but a whole and right answer. Not one is a keep-alive
//! connection that the server closed after saying `Connection: close`, or while it was idle before a
//! byte of the next request was sent; nor a WebSocket that was closed with 1001 or 1012 and could be
//! opened again at once; nor an answer that had the whole drain time and was slower still, as happens
//! on a busy machine where the drain time is a second: those are counted.

use std::io::{BufReader, ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Answer, read_answer};
use crate::websocket::{Message, WebSocket};

/// Longer than any answer takes, holding included.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two requests of one connection.
const PAUSE: Duration = Duration::from_millis(40);
const UPLOAD_PIECE: usize = 40_000;
const UPLOAD_PIECES: usize = 6;

type Outcome<T> = Result<T, String>;

/// What one client does over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    KeepAlive,
    Close,
    Upload,
    /// A while to the first byte, but less than any drain time.
    Slow,
    /// A while from the first byte to the last.
    Stream,
    WebSocket,
}

/// How many clients there are of each kind.
const CLIENTS: [(Kind, usize); 6] = [
    (Kind::KeepAlive, 20),
    (Kind::Close, 8),
    (Kind::Upload, 4),
    (Kind::Slow, 4),
    (Kind::Stream, 4),
    (Kind::WebSocket, 6),
];

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    /// Connections that were opened again, without a failure.
    reconnects: AtomicU64,
    /// Answers that were cut after the drain time.
    outlasted: AtomicU64,
}

struct Shared {
    port: u16,
    host: String,
    over: AtomicBool,
    counts: [Counts; CLIENTS.len()],
    failures: Mutex<Vec<String>>,
    begun: Instant,
    drain: Duration,
}

/// What was done, as a line for each kind, and what a test looks at.
pub(crate) struct Done {
    pub(crate) lines: Vec<String>,
    /// WebSockets that were closed and opened again.
    pub(crate) reopened: u64,
    /// Answers that were cut after the drain time.
    pub(crate) outlasted: u64,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `drain` is the platform's drain time.
    pub(crate) fn start(port: u16, app: &str, drain: Duration) -> Self {
        let shared = Arc::new(Shared {
            port,
            host: format!("{app}.localhost"),
            over: AtomicBool::new(false),
            counts: Default::default(),
            failures: Mutex::default(),
            begun: Instant::now(),
            drain,
        });
        let mut threads = Vec::new();
        for (at, (kind, count)) in CLIENTS.into_iter().enumerate() {
            for number in 0..count {
                let shared = shared.clone();
                threads.push(std::thread::spawn(move || {
                    // Not all in step.
                    std::thread::sleep(PAUSE * number as u32 / count as u32);
                    run(&shared, kind, &shared.counts[at]);
                }));
            }
        }
        Self { shared, threads }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().expect("no thread panics with it").clone()
    }

    /// Ends every client; what was counted.
    pub(crate) fn stop(mut self) -> Done {
        self.shared.over.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
        let mut sum = Done { lines: Vec::new(), reopened: 0, outlasted: 0 };
        for ((kind, clients), counts) in CLIENTS.into_iter().zip(&self.shared.counts) {
            let (done, again) = (counts.done.load(SeqCst), counts.reconnects.load(SeqCst));
            let what = if kind == Kind::WebSocket { "messages" } else { "requests" };
            let kind_name = format!("{kind:?}");
            let late = counts.outlasted.load(SeqCst);
            sum.lines.push(format!(
                "{kind_name:10} {clients:2} clients {done:7} {what}, {again} reconnects, \
                 {late} outlasted the drain time"
            ));
            sum.outlasted += late;
            if kind == Kind::WebSocket {
                sum.reopened = again;
            }
        }
        sum
    }

    pub(crate) fn websockets() -> u64 {
        CLIENTS.iter().filter(|(kind, _)| *kind == Kind::WebSocket).map(|(_, n)| *n as u64).sum()
    }
}

fn run(shared: &Shared, kind: Kind, counts: &Counts) {
    while !shared.over.load(SeqCst) {
        let ended = match kind {
            Kind::WebSocket => talk(shared, counts),
            _ => ask(shared, kind, counts),
        };
        if let Err(failure) = ended {
            let at = shared.begun.elapsed().as_secs_f64();
            let failure = format!("{at:.2} s: {kind:?}: {failure}");
            shared.failures.lock().expect("no thread panics with it").push(failure);
            // A thousand of the same tell no more than one.
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// One connection with requests, to its end.
fn ask(shared: &Shared, kind: Kind, counts: &Counts) -> Outcome<()> {
    let mut stream = connect(shared)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(told("clone"))?);
    let mut first = true;
    while !shared.over.load(SeqCst) {
        if !first && closed_while_idle(&stream, &reader)? {
            counts.reconnects.fetch_add(1, SeqCst);
            return Ok(());
        }
        first = false;
        let last = kind == Kind::Close;
        let method = if kind == Kind::Upload { "POST" } else { "GET" };
        let begun = Instant::now();
        send(shared, &mut stream, kind, last)?;
        let answer = read_answer(&mut reader, method);
        let took = begun.elapsed();
        if took >= shared.drain && was_cut(&answer) {
            counts.outlasted.fetch_add(1, SeqCst);
            return Ok(());
        }
        let answer = answer.map_err(told("reading an answer"))?;
        check(kind, &answer).map_err(|why| format!("after {} ms: {why}", took.as_millis()))?;
        counts.done.fetch_add(1, SeqCst);
        std::thread::sleep(PAUSE);
        if last {
            return Ok(());
        }
        if answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) {
            counts.reconnects.fetch_add(1, SeqCst);
            return Ok(());
        }
    }
    Ok(())
}

/// Whether the proxy gave a request up: before the answer's head with H13, in its body by closing.
fn was_cut(answer: &std::io::Result<Answer>) -> bool {
    match answer {
        Ok(answer) => answer.status == 502 && answer.header("x-mini-error") == Some("H13"),
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn connect(shared: &Shared) -> Outcome<TcpStream> {
    let stream =
        TcpStream::connect(("127.0.0.1", shared.port)).map_err(told("opening a connection"))?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(told("a time limit"))?;
    stream.set_write_timeout(Some(DEADLINE)).map_err(told("a time limit"))?;
    stream.set_nodelay(true).map_err(told("no delay"))?;
    Ok(stream)
}

fn told(doing: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{doing}: {error}")
}

/// Whether the server has closed it; anything that it said unasked is a failure.
fn closed_while_idle(stream: &TcpStream, reader: &BufReader<TcpStream>) -> Outcome<bool> {
    if !reader.buffer().is_empty() {
        return Err("bytes after an answer".into());
    }
    stream.set_nonblocking(true).map_err(told("looking"))?;
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).map_err(told("looking"))?;
    match seen {
        Ok(0) => Ok(true),
        Ok(_) => Err("bytes that nobody asked for".into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(format!("while idle: {error}")),
    }
}

fn send(shared: &Shared, stream: &mut TcpStream, kind: Kind, last: bool) -> Outcome<()> {
    let (method, path) = match kind {
        Kind::Upload => ("POST", "/upload"),
        Kind::Slow => ("GET", "/sleep?ms=300"),
        Kind::Stream => ("GET", "/stream?n=6&ms=50"),
        _ => ("GET", "/"),
    };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", shared.host);
    if last {
        head.push_str("Connection: close\r\n");
    }
    if kind == Kind::Upload {
        head.push_str(&format!("Content-Length: {}\r\n", UPLOAD_PIECE * UPLOAD_PIECES));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).map_err(told("sending a request"))?;
    if kind == Kind::Upload {
        let piece = vec![b'u'; UPLOAD_PIECE];
        for _ in 0..UPLOAD_PIECES {
            stream.write_all(&piece).map_err(told("sending a body"))?;
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

fn check(kind: Kind, answer: &Answer) -> Outcome<()> {
    let code = answer.header("x-mini-error").unwrap_or("-");
    if answer.status != 200 {
        return Err(format!("status {}, X-Mini-Error {code}", answer.status));
    }
    let text = answer.text();
    let good = match kind {
        Kind::Upload => {
            let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            told["bytes"] == UPLOAD_PIECE * UPLOAD_PIECES && told["fnv1a"] == hash_of_upload()
        }
        Kind::Slow => text == "slept\n",
        Kind::Stream => text == (0..6).map(|i| format!("line {i}\n")).collect::<String>(),
        _ => text.starts_with("hello from "),
    };
    if good { Ok(()) } else { Err(format!("a wrong answer: {text:.100}")) }
}

/// FNV-1a of what is uploaded, as the app counts it.
fn hash_of_upload() -> String {
    let step = |hash: u64, _| (hash ^ u64::from(b'u')).wrapping_mul(0x0100_0000_01b3);
    let hash = (0..UPLOAD_PIECE * UPLOAD_PIECES).fold(0xcbf2_9ce4_8422_2325_u64, step);
    format!("{hash:016x}")
}

/// One WebSocket, to its end: every message comes back, or a close frame says why not.
fn talk(shared: &Shared, counts: &Counts) -> Outcome<()> {
    let mut socket = WebSocket::open(connect(shared)?, &shared.host, "/ws")?;
    let mut number = 0;
    while !shared.over.load(SeqCst) {
        let text = format!("message {number}");
        number += 1;
        // A server that has closed may not read it any more; its frame says why.
        let sent = socket.send(text.as_bytes());
        match socket.read() {
            Ok(Message::Data(data)) if data == text.as_bytes() => {
                counts.done.fetch_add(1, SeqCst);
            }
            Ok(Message::Close(1001 | 1012)) => {
                counts.reconnects.fetch_add(1, SeqCst);
                return Ok(());
            }
            Ok(other) => return Err(format!("{other:?} came for {text:?}")),
            Err(error) => return Err(format!("after {number} messages: {error} (sent: {sent:?})")),
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
