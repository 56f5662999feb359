//! A client's frames and a process's streams, passed to each other.
//!
//! Whoever ends first ends the session: a process that exits, or a client that hangs up or is
//! silent for too long. What becomes of the process then is not decided here.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use mini_api::session::{BadFrame, Frame, Frames, PING_SECONDS, SILENCE_SECONDS, WINDOW};
use mini_api::{ErrorBody, ErrorCode};
use mini_core::ports::{
    Items, RuntimeError, RuntimeErrorKind, Session, SessionInput, SessionOutput, TerminalSize,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::codec::{FramedRead, FramedWrite};

/// How long a client may take to hang up after the last frame.
const GOODBYE: Duration = Duration::from_secs(5);

/// Where a client's input is put until its process takes it.
pub(crate) struct Input {
    /// Bounded by what a client may send: [`WINDOW`].
    items: mpsc::UnboundedSender<SessionInput>,
    taken: mpsc::UnboundedReceiver<u32>,
}

/// The two ends of a process's input. An item is reported as taken when the next one is asked for.
pub(crate) fn input() -> (Input, Items<SessionInput>) {
    let (items, receiver) = mpsc::unbounded_channel();
    let (report, taken) = mpsc::unbounded_channel();
    let first = (receiver, 0_u32);
    let stream = stream::unfold(first, move |(mut receiver, last)| {
        if last > 0 {
            // Nobody listens to that once the client is gone.
            let _ = report.send(last);
        }
        async move {
            let item = receiver.recv().await?;
            // No frame is longer than a u32 can say.
            let size = if let SessionInput::Data(data) = &item { data.len() as u32 } else { 0 };
            Some((item, (receiver, size)))
        }
    });
    (Input { items, taken }, Box::pin(stream))
}

/// Passes on until either side ends.
pub(crate) async fn pass<S>(io: S, session: Session, input: Input)
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (read, write) = tokio::io::split(io);
    let mut reader = FramedRead::new(read, Frames);
    let writer = FramedWrite::new(write, Frames);
    let Input { items, taken } = input;
    let outstanding = AtomicUsize::new(0);
    let told = tokio::select! {
        why = hear(&mut reader, items, &outstanding) => {
            tracing::debug!(why, "a session's client is gone");
            return;
        }
        told = tell(writer, session, taken, &outstanding) => told,
    };
    if told {
        // Closing with something unread would cost the client what it has not read yet.
        let rest = async { while let Some(Ok(_)) = reader.next().await {} };
        let _ = timeout(GOODBYE, rest).await;
    }
}

/// Takes what the client sends, until it is gone; why.
async fn hear<S: AsyncRead>(
    reader: &mut FramedRead<ReadHalf<S>, Frames>,
    items: mpsc::UnboundedSender<SessionInput>,
    outstanding: &AtomicUsize,
) -> &'static str {
    loop {
        let frame = match timeout(Duration::from_secs(SILENCE_SECONDS), reader.next()).await {
            Err(_) => return "it was silent for too long",
            Ok(None | Some(Err(BadFrame::Io(_)))) => return "it hung up",
            Ok(Some(Err(_))) => return "it sent something that is no frame",
            Ok(Some(Ok(frame))) => frame,
        };
        let item = match frame {
            Frame::Input(data) => {
                if outstanding.fetch_add(data.len(), Relaxed) + data.len() > WINDOW {
                    return "it sent more than it may";
                }
                SessionInput::Data(data)
            }
            Frame::End => SessionInput::End,
            Frame::Resize { rows, columns } => SessionInput::Resize(TerminalSize { rows, columns }),
            Frame::Ping => continue,
            _ => return "it sent a frame that is the server's to send",
        };
        // A process that takes no more input may write on.
        let _ = items.send(item);
    }
}

/// Tells the client what the process says, to its end; false if nobody listens any more.
async fn tell<S: AsyncWrite>(
    mut writer: FramedWrite<WriteHalf<S>, Frames>,
    mut session: Session,
    mut taken: mpsc::UnboundedReceiver<u32>,
    outstanding: &AtomicUsize,
) -> bool {
    let every = Duration::from_secs(PING_SECONDS);
    let mut ping = interval_at(Instant::now() + every, every);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut input_is_taken = true;
    loop {
        let frame = tokio::select! {
            output = session.next() => match output {
                Some(Ok(SessionOutput::Stdout(data))) => Frame::Stdout(data),
                Some(Ok(SessionOutput::Stderr(data))) => Frame::Stderr(data),
                Some(Ok(SessionOutput::Exited(code))) => Frame::Exited(code),
                Some(Err(error)) => Frame::Failed(failure(error)),
                None => return true,
            },
            bytes = taken.recv(), if input_is_taken => match bytes {
                Some(bytes) => {
                    outstanding.fetch_sub(bytes as usize, Relaxed);
                    Frame::Taken(bytes)
                }
                None => {
                    input_is_taken = false;
                    continue;
                }
            },
            _ = ping.tick() => Frame::Ping,
        };
        let last = matches!(frame, Frame::Exited(_) | Frame::Failed(_));
        if writer.send(frame).await.is_err() {
            return false;
        }
        if last {
            return writer.close().await.is_ok();
        }
    }
}

/// What broke a session off, for the client.
fn failure(error: RuntimeError) -> ErrorBody {
    let code = match error.kind {
        RuntimeErrorKind::Unreachable | RuntimeErrorKind::NotPermitted => {
            ErrorCode::EngineUnavailable
        }
        RuntimeErrorKind::NotFound => ErrorCode::NotFound,
        _ => ErrorCode::Internal,
    };
    ErrorBody { code, message: error.message, hint: error.hint, request_id: None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mini_api::session::MAX_PAYLOAD;
    use tokio::io::DuplexStream;
    use tokio_util::codec::Framed;

    use super::*;

    type Client = Framed<DuplexStream, Frames>;

    /// A session whose process is `output`, and the client's end.
    fn begin(
        process: impl FnOnce(Items<SessionInput>) -> Session,
    ) -> (Client, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(MAX_PAYLOAD);
        let (input, items) = input();
        let passing = tokio::spawn(pass(theirs, process(items), input));
        (Framed::new(ours, Frames), passing)
    }

    fn endless() -> Session {
        Box::pin(stream::pending())
    }

    /// A process that echoes its input and exits at its end.
    fn echo(input: Items<SessionInput>) -> Session {
        let said = input.take_while(|item| std::future::ready(*item != SessionInput::End));
        let said = said.filter_map(|item| async move {
            match item {
                SessionInput::Data(data) => Some(Ok(SessionOutput::Stdout(data))),
                _ => None,
            }
        });
        Box::pin(said.chain(stream::iter([Ok(SessionOutput::Exited(3))])))
    }

    async fn next(client: &mut Client) -> Option<Frame> {
        timeout(Duration::from_secs(600), client.next()).await.unwrap().map(Result::unwrap)
    }

    #[tokio::test]
    async fn what_goes_in_comes_out_and_is_said_to_be_taken() {
        let (mut client, passing) = begin(echo);
        client.send(Frame::Input("hello".into())).await.unwrap();
        let mut seen = Vec::new();
        while !seen.contains(&Frame::Taken(5)) {
            seen.extend(next(&mut client).await);
        }
        client.send(Frame::End).await.unwrap();
        while let Some(frame) = next(&mut client).await {
            seen.push(frame);
        }
        assert!(seen.contains(&Frame::Stdout("hello".into())), "{seen:?}");
        assert_eq!(seen.last(), Some(&Frame::Exited(3)));
        drop(client);
        passing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_session_is_kept_alive_and_a_silent_client_is_not() {
        let (mut client, passing) = begin(|_| endless());
        for _ in 0..10 {
            assert_eq!(next(&mut client).await, Some(Frame::Ping));
            client.send(Frame::Ping).await.unwrap();
        }
        let silent_since = Instant::now();
        while next(&mut client).await.is_some() {}
        assert!(silent_since.elapsed() <= Duration::from_secs(45));
        passing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_takes_no_input_hides_nobody() {
        // It holds its input and never asks for it.
        let (mut client, passing) = begin(|items| {
            Box::pin(stream::unfold(items, |items| async move {
                std::future::pending::<()>().await;
                Some((Ok(SessionOutput::Exited(0)), items))
            }))
        });
        let piece = Bytes::from(vec![0; MAX_PAYLOAD]);
        for _ in 0..WINDOW / MAX_PAYLOAD {
            client.send(Frame::Input(piece.clone())).await.unwrap();
        }
        // Still heard, well after it would have been taken for gone.
        for _ in 0..4 {
            assert_eq!(next(&mut client).await, Some(Frame::Ping));
            client.send(Frame::Ping).await.unwrap();
        }
        client.send(Frame::Input("x".into())).await.unwrap();
        while next(&mut client).await.is_some() {}
        passing.await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_ends_the_session() {
        for goodbye in [None, Some(&b"\x99\0\0\0\0"[..])] {
            let (client, passing) = begin(|_| endless());
            let mut io = client.into_inner();
            if let Some(bytes) = goodbye {
                tokio::io::AsyncWriteExt::write_all(&mut io, bytes).await.unwrap();
                timeout(Duration::from_secs(10), passing).await.unwrap().unwrap();
                continue;
            }
            drop(io);
            timeout(Duration::from_secs(10), passing).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn an_engine_that_goes_away_is_named() {
        let away = RuntimeError::new(RuntimeErrorKind::Unreachable, "the engine is away");
        let (mut client, _passing) = begin(|_| Box::pin(stream::iter([Err(away)])));
        match next(&mut client).await {
            Some(Frame::Failed(body)) => {
                assert_eq!(body.code, ErrorCode::EngineUnavailable);
                assert_eq!(body.message, "the engine is away");
            }
            other => panic!("{other:?}"),
        }
    }
}
