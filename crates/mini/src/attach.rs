//! This side of a session: keys and pipes to the remote command, its output here, its exit code.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use mini_api::client::{ClientError, Session, SessionReader, SessionWriter};
use mini_api::session::{Frame, PING_SECONDS, Terminal, WINDOW};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at};

use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::system::{self, Resizes};
use crate::terminal::{self, Raw};

/// How much of stdin is read at once.
const READ_BYTES: usize = 32 * 1024;

/// The terminal to ask for: none unless both ends are one, and the user wants it.
pub(crate) fn wanted(context: &Context, no_tty: bool) -> Option<Terminal> {
    if no_tty || !terminal::is_there() {
        return None;
    }
    let (rows, columns) = terminal::size();
    let plain = |name: &&str| {
        name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
    };
    let name = context.vars.get("TERM").filter(plain).map(str::to_owned);
    Some(Terminal { rows, columns, name })
}

/// Sits before the command until it ends, and ends as it did. `lost` says what becomes of it when
/// we go first.
pub(crate) async fn attach(
    context: &Context,
    session: Session,
    with_terminal: bool,
    lost: &str,
) -> Result<(), Failure> {
    let Session { reader, writer, .. } = session;
    let raw = if with_terminal {
        Some(Raw::begin().map_err(|e| Failure::io("the terminal cannot be set", &e))?)
    } else {
        None
    };
    let (window, left) = watch::channel(WINDOW);
    let (frames, queue) = mpsc::channel(4);
    // On its own thread's time: a stdin that says nothing must hold up nobody.
    let keys = tokio::spawn(read_input(frames, left));
    let ended = tokio::select! {
        ended = listen(&context.out, reader, window) => ended,
        never = speak(writer, queue, with_terminal) => match never {},
        signal = ended_by_signal(with_terminal) => Err(Failure {
            hint: Some(lost.to_owned()),
            ..signal
        }),
    };
    keys.abort();
    drop(raw);
    match ended {
        Ok(0) => Ok(()),
        // Not more than eight bits of an exit code ever reach a parent.
        Ok(code) => Err(Failure::new(Kind::Remote(code.clamp(1, 255) as u8), "")),
        Err(failure) if failure.kind == Kind::Unreachable => Err(failure.hint(lost)),
        Err(failure) => Err(failure),
    }
}

/// Writes what the command says, to its exit code.
async fn listen(
    out: &Output,
    mut reader: SessionReader,
    window: watch::Sender<usize>,
) -> Result<i64, Failure> {
    let (mut stdout, mut stderr) = out.streams();
    loop {
        match reader.next().await? {
            Frame::Stdout(data) => pass(&mut stdout, &data, "stdout").await?,
            Frame::Stderr(data) => pass(&mut stderr, &data, "stderr").await?,
            Frame::Taken(bytes) => window.send_modify(|left| *left += bytes as usize),
            Frame::Exited(code) => return Ok(code),
            Frame::Failed(body) => {
                let status = body.code.status();
                return Err(ClientError::Api(Box::new(body), status).into());
            }
            // Pings, and what a newer server may say.
            _ => {}
        }
    }
}

async fn pass<W: tokio::io::AsyncWrite + Unpin>(
    to: &mut W,
    data: &[u8],
    name: &str,
) -> Result<(), Failure> {
    let written = async {
        to.write_all(data).await?;
        to.flush().await
    };
    written.await.map_err(|e: io::Error| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Kind::BrokenPipe, ""),
        _ => Failure::io(format!("cannot write to {name}"), &e),
    })
}

/// Reads stdin, never more than the server has room for.
async fn read_input(frames: mpsc::Sender<Frame>, mut left: watch::Receiver<usize>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; READ_BYTES];
    let mut sent = 0_usize;
    loop {
        // What was granted so far, less what was sent.
        let Ok(granted) = left.wait_for(|granted| *granted > sent).await.map(|g| *g) else {
            return;
        };
        let room = (granted - sent).min(READ_BYTES);
        // A stdin that cannot be read has nothing more to say.
        let read = stdin.read(&mut buffer[..room]).await.unwrap_or(0);
        let frame = match read {
            0 => Frame::End,
            _ => Frame::Input(Bytes::copy_from_slice(&buffer[..read])),
        };
        sent += read;
        if frames.send(frame).await.is_err() || read == 0 {
            return;
        }
    }
}

enum Never {}

/// Sends input, sizes and pings. Does not end: the reader finds out when nobody listens.
async fn speak(
    mut writer: SessionWriter,
    mut input: mpsc::Receiver<Frame>,
    with_terminal: bool,
) -> Never {
    let every = Duration::from_secs(PING_SECONDS);
    let mut ping = interval_at(Instant::now() + every, every);
    let mut resizes = with_terminal.then(Resizes::of_terminal);
    let mut input_is_open = true;
    loop {
        let resized = async {
            match &mut resizes {
                Some(resizes) => resizes.next().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            frame = input.recv(), if input_is_open => match frame {
                Some(frame) => frame,
                None => {
                    input_is_open = false;
                    continue;
                }
            },
            () = resized => {
                let (rows, columns) = terminal::size();
                Frame::Resize { rows, columns }
            }
            _ = ping.tick() => Frame::Ping,
        };
        if !writer.send(frame).await {
            std::future::pending::<()>().await;
        }
    }
}

/// A signal that ends us, so that the terminal is given back first. With a terminal Ctrl-C is a
/// key of the remote command and none of these.
async fn ended_by_signal(with_terminal: bool) -> Failure {
    match system::end_signal().await {
        2 if !with_terminal => Failure::new(Kind::Interrupted, "interrupted"),
        number => Failure::new(Kind::Remote(128 + number), "ended by a signal"),
    }
}
