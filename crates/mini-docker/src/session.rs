//! Processes that somebody is attached to: `exec` in an instance, and one-offs from their start.
//!
//! Both are a connection to the engine that turned into raw bytes, with [`frames`] saying what the
//! bytes mean. bollard has such calls too, but takes a terminal's output that begins with a
//! control character for a frame's head, so the connections are our own ([`crate::raw`]).

mod exec;
mod frames;
mod run;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use mini_core::ports::{
    Items, RuntimeError, RuntimeErrorKind, RuntimeResult, Session, SessionInput, SessionOutput,
    TerminalSize,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::task::AbortHandle;

use crate::engine::{Docker, LOOK, MAKE};
use crate::error;
use crate::raw::{self, Connection};
use frames::{Frames, Opening};

/// How much is read at once.
const READ_BYTES: usize = 32 * 1024;

/// How often and how patiently a terminal's size is set.
const RESIZE_TRIES: u32 = 20;
const RESIZE_PAUSE: Duration = Duration::from_millis(20);

/// What with a terminal would let go of the process (`ctrl-p,ctrl-q` unless told otherwise) and
/// holds its first key back until the next one: keys that nobody types.
const DETACH_KEYS: &str = "ctrl-@,ctrl-_,ctrl-@,ctrl-_,ctrl-@,ctrl-_,ctrl-@,ctrl-_";

/// One process behind a connection: which one, how it is resized, and how it ended.
trait Process: Send + Sync + 'static {
    fn resize(&self, size: TerminalSize) -> impl Future<Output = RuntimeResult<()>> + Send;
    /// Waits for its exit code. `started` is false for a command that the engine could not start.
    fn exit(&self) -> impl Future<Output = RuntimeResult<Exit>> + Send;
    /// The session was dropped before its end.
    fn abandoned(&self);
}

struct Exit {
    code: i64,
    started: bool,
}

/// A connection that speaks HTTP no more.
struct Hijacked {
    io: TokioIo<Upgraded>,
    _connection: Connection,
}

impl Docker {
    /// A request whose connection becomes the streams of a process.
    async fn hijack(
        &self,
        what: &str,
        target: &str,
        body: Option<String>,
    ) -> RuntimeResult<Hijacked> {
        let mut request = raw::request(Method::POST, target, raw::full(body.unwrap_or_default()));
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = tokio::time::timeout(MAKE, self.inner.raw.send(what, request))
            .await
            .map_err(|_| error::unreachable(what, "it did not answer in time"))??;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.checked(what).await?;
            let message = format!("{what}: the engine did not give its connection over");
            return Err(RuntimeError::new(RuntimeErrorKind::Other, message));
        }
        let (upgraded, connection) = answer.upgraded(what).await?;
        Ok(Hijacked { io: TokioIo::new(upgraded), _connection: connection })
    }
}

/// The session of a process over its connection.
fn session<P: Process>(
    what: String,
    process: P,
    hijacked: Hijacked,
    (terminal, input): (Option<TerminalSize>, Items<SessionInput>),
) -> Session {
    let Hijacked { io, _connection } = hijacked;
    let (read, write) = tokio::io::split(io);
    let process = Arc::new(process);
    let feeder = tokio::spawn(feed(process.clone(), write, terminal, input));
    let open = Open {
        what,
        process,
        read,
        frames: if terminal.is_some() { Frames::None } else { Frames::head() },
        opening: Opening::default(),
        buffer: BytesMut::new(),
        ended: false,
        code: None,
        _feeder: Feeder(feeder.abort_handle()),
        _connection,
    };
    Box::pin(stream::unfold(Some(open), |open| async move {
        let mut open = open?;
        match open.next().await {
            Ok(output) => {
                let open = (!matches!(output, SessionOutput::Exited(_))).then_some(open);
                Some((Ok(output), open))
            }
            Err(error) => Some((Err(error), None)),
        }
    }))
}

/// Passes input on at the pace of the process.
async fn feed<P: Process>(
    process: Arc<P>,
    mut write: WriteHalf<TokioIo<Upgraded>>,
    terminal: Option<TerminalSize>,
    mut input: Items<SessionInput>,
) {
    if let Some(size) = terminal {
        adjust(&*process, size).await;
    }
    while let Some(item) = input.next().await {
        match item {
            SessionInput::Data(data) => {
                if let Err(error) = write.write_all(&data).await {
                    // It closed its input, or ended; its output tells.
                    tracing::debug!(%error, "a session's input is not taken");
                    break;
                }
            }
            SessionInput::End => break,
            SessionInput::Resize(size) if terminal.is_some() => adjust(&*process, size).await,
            SessionInput::Resize(_) => {}
        }
    }
    let _ = write.shutdown().await;
    // A terminal may change its size after its input has ended.
    while let Some(item) = input.next().await {
        if let (SessionInput::Resize(size), true) = (item, terminal.is_some()) {
            adjust(&*process, size).await;
        }
    }
}

async fn adjust(process: &impl Process, size: TerminalSize) {
    if let Err(error) = process.resize(size).await {
        tracing::debug!(%error, "a terminal keeps its size");
    }
}

/// Sets a terminal's size, patiently: the engine refuses it for what it is just starting.
async fn resize(docker: &Docker, what: &str, target: &str) -> RuntimeResult<()> {
    let mut tries = 0;
    loop {
        let raw = &docker.inner.raw;
        match raw.json(what, Method::POST, target, None, LOOK).await {
            Err(_) if tries < RESIZE_TRIES => tries += 1,
            done => return done.map(drop),
        }
        tokio::time::sleep(RESIZE_PAUSE).await;
    }
}

/// Ends the task that passes input on.
struct Feeder(AbortHandle);

impl Drop for Feeder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Open<P: Process> {
    what: String,
    process: Arc<P>,
    read: ReadHalf<TokioIo<Upgraded>>,
    frames: Frames,
    opening: Opening,
    buffer: BytesMut,
    /// All output was read.
    ended: bool,
    /// Once it has exited; the last words may still have to be said.
    code: Option<i64>,
    _feeder: Feeder,
    _connection: Connection,
}

impl<P: Process> Open<P> {
    async fn next(&mut self) -> RuntimeResult<SessionOutput> {
        loop {
            let broken = |error| error::from_transport(&self.what, &error);
            if let Some(output) = self.frames.next(&mut self.buffer).map_err(broken)? {
                match self.opening.hear(output) {
                    Some(output) => return Ok(output),
                    None => continue,
                }
            }
            if self.ended {
                return self.end().await;
            }
            self.buffer.reserve(READ_BYTES);
            let read = self.read.read_buf(&mut self.buffer).await;
            self.ended = read.map_err(broken)? == 0;
        }
    }

    /// What is still to be said once there is no more output: why it did not start, its exit code.
    async fn end(&mut self) -> RuntimeResult<SessionOutput> {
        if let Some(code) = self.code {
            return Ok(SessionOutput::Exited(code));
        }
        let exit = self.process.exit().await?;
        let (held, code) = self.opening.close(exit.code, exit.started);
        self.code = Some(code);
        Ok(held.unwrap_or(SessionOutput::Exited(code)))
    }
}

impl<P: Process> Drop for Open<P> {
    fn drop(&mut self) {
        if self.code.is_none() {
            self.process.abandoned();
        }
    }
}
