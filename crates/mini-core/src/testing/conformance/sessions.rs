//! Processes that somebody is attached to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;

use super::{GRACE_MS, SOON, Suite};
use crate::ports::{
    ExecSpec, InstanceSpec, InstanceState, Items, Listening, OneOff, Output,
    RuntimeErrorKind as Kind, Session, SessionInput, SessionOutput, TerminalSize,
};
use crate::testing::{until, within};

const SMALL: TerminalSize = TerminalSize { rows: 24, columns: 80 };
const LARGE: TerminalSize = TerminalSize { rows: 41, columns: 133 };

/// What is typed: a queue that a session reads from, until it is dropped.
#[derive(Default)]
struct Typed {
    items: std::collections::VecDeque<SessionInput>,
    closed: bool,
    waker: Option<Waker>,
}

struct Keyboard(std::sync::Arc<Mutex<Typed>>);

impl Keyboard {
    fn new() -> (Self, Items<SessionInput>) {
        let typed = std::sync::Arc::new(Mutex::new(Typed::default()));
        (Self(typed.clone()), Box::pin(Reader(typed)))
    }

    fn say(&self, item: SessionInput) {
        let mut typed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        typed.items.push_back(item);
        if let Some(waker) = typed.waker.take() {
            waker.wake();
        }
    }

    fn data(&self, bytes: &'static [u8]) {
        self.say(SessionInput::Data(Bytes::from_static(bytes)));
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let mut typed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        typed.closed = true;
        if let Some(waker) = typed.waker.take() {
            waker.wake();
        }
    }
}

struct Reader(std::sync::Arc<Mutex<Typed>>);

impl Stream for Reader {
    type Item = SessionInput;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<SessionInput>> {
        let mut typed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match typed.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if typed.closed => Poll::Ready(None),
            None => {
                typed.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// All that a session said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    code: Option<i64>,
}

impl Heard {
    fn take(&mut self, output: SessionOutput) {
        assert_eq!(self.code, None, "something came after the exit: {output:?}");
        match output {
            SessionOutput::Stdout(data) => self.stdout.extend_from_slice(&data),
            SessionOutput::Stderr(data) => self.stderr.extend_from_slice(&data),
            SessionOutput::Exited(code) => self.code = Some(code),
        }
    }

    fn lines(&self) -> Vec<&str> {
        std::str::from_utf8(&self.stdout).expect("text").lines().collect()
    }
}

/// Listens to the end.
async fn all(mut session: Session) -> Heard {
    let mut heard = Heard::default();
    let listening = async {
        while let Some(output) = session.next().await {
            heard.take(output.expect("a session"));
        }
    };
    within(SOON, "the session ends", listening).await;
    heard
}

/// Listens until `text` was said.
async fn hears(session: &mut Session, heard: &mut Heard, text: &str) {
    let listening = async {
        while !String::from_utf8_lossy(&heard.stdout).contains(text) {
            match session.next().await {
                Some(output) => heard.take(output.expect("a session")),
                None => panic!("the session ended: {heard:?}"),
            }
        }
    };
    within(SOON, text, listening).await;
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Suite {
    fn one_off(&self, name: &str, image: &str, host: u32, command: &[&str]) -> InstanceSpec {
        InstanceSpec {
            process: "run".parse().expect("a process type"),
            command: Some(words(command)),
            port: None,
            one_off: Some(OneOff::Attached),
            ..self.spec(name, image, host)
        }
    }

    pub(super) async fn a_command_is_executed(&self, image: &str) {
        let runtime = &self.runtime;
        let spec = self.spec("executed", image, 10);
        let exec = |command: &[&str], input| {
            let env = vec![("EXTRA".to_owned(), "more".to_owned())];
            let spec_of = ExecSpec { command: words(command), env, terminal: None };
            runtime.exec(spec.id.clone(), spec_of, input)
        };
        let none = || -> Items<SessionInput> { Box::pin(futures_util::stream::empty()) };
        let error = exec(&["/app"], none()).await.err().expect("it is not there");
        assert_eq!(error.kind, Kind::NotFound, "{error}");
        self.start(&spec).await;
        let session = exec(&["/app", "exit", "3", "one", "$MINI_TEST $EXTRA"], none()).await;
        let heard = all(session.expect("exec")).await;
        assert_eq!((heard.lines(), heard.code), (vec!["one", "yes = no more"], Some(3)));
        // A megabyte of every byte there is goes in and comes back, and the half-close is heard.
        let piece: Bytes = (0..=255_u8).cycle().take(64 * 1024).collect::<Vec<u8>>().into();
        let pieces: Vec<_> = (0..16).map(|_| SessionInput::Data(piece.clone())).collect();
        let input = Box::pin(futures_util::stream::iter(pieces));
        let heard = all(exec(&["/app", "copy"], input).await.expect("exec")).await;
        assert!(heard.stdout == piece.repeat(16), "{} bytes came back", heard.stdout.len());
        assert_eq!(heard.stderr, b"1048576 bytes\n", "stderr is apart");
        assert_eq!(heard.code, Some(0));
        let heard = all(exec(&["/not-there"], none()).await.expect("exec")).await;
        let told = String::from_utf8_lossy(&heard.stderr).into_owned();
        assert!(told.contains("\"/not-there\" was not found in the image"), "{heard:?}");
        assert_eq!((heard.code, heard.stdout.len()), (Some(127), 0));
        runtime.stop(spec.id.clone(), GRACE_MS).await.expect("stop");
        let error = exec(&["/app"], none()).await.err().expect("it does not run");
        assert_eq!(error.kind, Kind::Conflict, "{error}");
        self.remove(&spec).await;
    }

    pub(super) async fn a_terminal_has_a_size(&self, image: &str) {
        let spec = self.spec("terminal", image, 11);
        self.start(&spec).await;
        let run = self.one_off("sized", image, 12, &["/app", "size"]);
        for of in ["exec", "a one-off"] {
            let (keyboard, input) = Keyboard::new();
            let mut session = if of == "exec" {
                let command = words(&["/app", "size"]);
                let spec_of = ExecSpec { command, env: Vec::new(), terminal: Some(SMALL) };
                self.runtime.exec(spec.id.clone(), spec_of, input).await.expect("exec")
            } else {
                self.runtime.run(run.clone(), Some(SMALL), input).await.expect("run").1
            };
            let mut heard = Heard::default();
            keyboard.data(b"\n");
            hears(&mut session, &mut heard, "24x80").await;
            keyboard.say(SessionInput::Resize(LARGE));
            keyboard.data(b"\n");
            hears(&mut session, &mut heard, "41x133").await;
            // Ctrl-D.
            keyboard.data(b"\x04");
            let rest = all(session).await;
            assert_eq!((rest.code, rest.stderr.len()), (Some(0), 0), "{of}: {rest:?}");
        }
        self.remove(&spec).await;
        self.remove(&run).await;
    }

    pub(super) async fn a_one_off_is_held_from_its_first_byte(&self, image: &str) {
        let spec = self.one_off("one-off", image, 13, &["/app", "exit", "7", "first", "last"]);
        let input = Box::pin(futures_util::stream::empty());
        let (instance, session) =
            self.runtime.run(spec.clone(), None, input).await.expect("a one-off starts");
        assert_eq!((instance.one_off, instance.label()), (Some(OneOff::Attached), "run.1".into()));
        assert_eq!(instance.address, Some(spec.address));
        let heard = all(session).await;
        assert_eq!((heard.lines(), heard.code), (vec!["first", "last"], Some(7)));
        let state = self.exit(&spec).await;
        assert!(matches!(state, InstanceState::Exited { code: 7, .. }), "{state:?}");
        assert_eq!(self.see(&spec).await.expect("it is there").one_off, Some(OneOff::Attached));
        let kept: Vec<_> = self.runtime.logs(spec.id.clone(), None, false).collect().await;
        let kept: Vec<Output> = kept.into_iter().filter_map(Result::ok).collect();
        assert_eq!(kept, [], "an attached one-off's output is its session's alone");
        self.remove(&spec).await;
        let copies = self.one_off("copies", image, 14, &["/app", "copy"]);
        let input = ["one ", "two"].map(|text| SessionInput::Data(text.into()));
        let input = Box::pin(futures_util::stream::iter(input));
        let (_, session) = self.runtime.run(copies.clone(), None, input).await.expect("run");
        let heard = all(session).await;
        assert_eq!((heard.lines(), heard.code), (vec!["one two"], Some(0)));
        assert_eq!(heard.stderr, b"7 bytes\n");
        self.remove(&copies).await;
        let detached = InstanceSpec { one_off: Some(OneOff::Detached), ..spec };
        assert_eq!(self.start(&detached).await.one_off, Some(OneOff::Detached));
        self.exit(&detached).await;
        assert_eq!(self.output(&detached, None, false).await.len(), 2);
        self.remove(&detached).await;
    }

    pub(super) async fn a_dropped_one_off_runs_on_and_a_dropped_command_does_not(
        &self,
        image: &str,
    ) {
        let runtime = &self.runtime;
        let spec = self.one_off("dropped", image, 15, &["/app"]);
        let (keyboard, input) = Keyboard::new();
        let (_, session) = runtime.run(spec.clone(), None, input).await.expect("run");
        drop((session, keyboard));
        let (_keyboard, input) = Keyboard::new();
        let command = words(&["/app", "loopback"]);
        let env = vec![("PORT".to_owned(), "9090".to_owned())];
        let spec_of = ExecSpec { command, env, terminal: None };
        let session = runtime.exec(spec.id.clone(), spec_of, input).await.expect("exec");
        let address = ([127, 0, 0, 1], 9090).into();
        self.listens(&spec, address, true).await;
        drop(session);
        self.listens(&spec, address, false).await;
        let state = self.see(&spec).await.expect("it is there").state;
        assert!(state.is_running(), "the one-off itself runs on: {state:?}");
        runtime.stop(spec.id.clone(), GRACE_MS).await.expect("stop");
        self.remove(&spec).await;
    }

    /// Waits until something in the instance listens there, or nothing does any more.
    async fn listens(&self, spec: &InstanceSpec, address: SocketAddr, expected: bool) {
        until(SOON, "the command listens until its session is dropped", || async {
            match self.runtime.listening(spec.id.clone()).await.expect("listening") {
                Listening::At(all) => (all.contains(&address) == expected).then_some(()),
                Listening::Unknown(why) => panic!("{why}"),
            }
        })
        .await;
    }
}
