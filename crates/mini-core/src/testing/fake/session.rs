//! The fake's processes that somebody is attached to.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

use super::state::filled_in;
use super::{Behaviour, Call, FakeRuntime};
use crate::id::InstanceId;
use crate::ports::{
    ExecSpec, Instance, InstanceSpec, InstanceState, Items, RuntimeError, RuntimeErrorKind as Kind,
    RuntimeResult, Session, SessionInput, SessionOutput, TerminalSize,
};

/// Ctrl-D on a terminal.
const END_OF_INPUT: u8 = 4;

pub(super) async fn exec(
    fake: &FakeRuntime,
    id: InstanceId,
    spec: ExecSpec,
    input: Items<SessionInput>,
) -> RuntimeResult<Session> {
    let begun = fake.call(Call::Exec, |state| {
        let container = state.instances.get(&id).ok_or_else(|| {
            RuntimeError::new(Kind::NotFound, format!("instance {id} is not there"))
        })?;
        if !container.instance().state.is_running() {
            return Err(RuntimeError::new(Kind::Conflict, format!("instance {id} does not run")));
        }
        let mut env = container.spec.env.clone();
        env.extend(spec.env);
        let behaviour = state.execs.get(&spec.command.join(" ")).cloned();
        state.execs_running += 1;
        Ok((env, behaviour))
    });
    let (env, behaviour) = begun.await?;
    let mut process = Process::new(fake, id, Of::Exec, spec.terminal, input);
    process.begin(&spec.command, &env, behaviour);
    Ok(Box::pin(process))
}

pub(super) async fn run(
    fake: &FakeRuntime,
    spec: InstanceSpec,
    terminal: Option<TerminalSize>,
    input: Items<SessionInput>,
) -> RuntimeResult<(Instance, Session)> {
    let (id, words) = (spec.id.clone(), spec.command.clone().unwrap_or_default());
    let started = fake.call(Call::Run, |state| {
        let instance = state.start(spec)?;
        // What it wrote is its session's alone.
        let container = state.instances.get_mut(&instance.id);
        Ok((instance, container.map(|c| std::mem::take(&mut c.output)).unwrap_or_default()))
    });
    let (instance, output) = started.await?;
    let mut process = Process::new(fake, id, Of::OneOff, terminal, input);
    let lines = output
        .into_iter()
        .map(|line| SessionOutput::Stdout([&line.text[..], b"\n"].concat().into()));
    process.ready.extend(lines);
    process.program = Program::of(&words);
    Ok((instance, Box::pin(process)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Exec,
    OneOff,
}

/// What the words of the suite's program mean here.
enum Program {
    /// Until its instance ends.
    Hangs,
    Copy {
        bytes: usize,
    },
    Size,
}

impl Program {
    fn of(words: &[String]) -> Self {
        match words.get(1).map(String::as_str) {
            Some("copy") => Self::Copy { bytes: 0 },
            Some("size") => Self::Size,
            _ => Self::Hangs,
        }
    }
}

struct Process {
    fake: FakeRuntime,
    id: InstanceId,
    of: Of,
    program: Program,
    size: Option<TerminalSize>,
    input: Option<Items<SessionInput>>,
    ready: VecDeque<SessionOutput>,
    listener: Option<(InstanceId, SocketAddr)>,
    over: bool,
}

impl Process {
    fn new(
        fake: &FakeRuntime,
        id: InstanceId,
        of: Of,
        size: Option<TerminalSize>,
        input: Items<SessionInput>,
    ) -> Self {
        let (fake, input) = (fake.clone(), Some(input));
        let (program, ready) = (Program::Hangs, VecDeque::new());
        Self { fake, id, of, program, size, input, ready, listener: None, over: false }
    }

    fn begin(&mut self, words: &[String], env: &[(String, String)], told: Option<Behaviour>) {
        let first = words.first().map_or("", String::as_str);
        let ends = match told {
            Some(Behaviour::Exits { lines, code }) => Some((lines, code)),
            Some(Behaviour::Lives) => None,
            None if first != "/app" => {
                let words = format!("the command \"{first}\" was not found in the image\r\n");
                self.ready.push_back(SessionOutput::Stderr(words.into()));
                self.ready.push_back(SessionOutput::Exited(127));
                None
            }
            None if words.get(1).is_some_and(|word| word == "exit") => {
                let code = words.get(2).and_then(|code| code.parse().ok()).unwrap_or(0);
                Some((filled_in(words.get(3..).unwrap_or_default(), env), code))
            }
            None => {
                self.program = Program::of(words);
                let port = env.iter().rfind(|(key, _)| key == "PORT");
                if let Some(port) = port.and_then(|(_, port)| port.parse::<u16>().ok())
                    && words.get(1).is_some_and(|word| word == "loopback")
                {
                    let listener = (self.id.clone(), ([127, 0, 0, 1], port).into());
                    self.fake.lock().exec_listeners.push(listener.clone());
                    self.listener = Some(listener);
                }
                None
            }
        };
        if let Some((lines, code)) = ends {
            let lines = lines.into_iter().map(|line| SessionOutput::Stdout((line + "\n").into()));
            self.ready.extend(lines);
            self.ready.push_back(SessionOutput::Exited(code));
        }
    }

    fn take(&mut self, input: SessionInput) {
        match (input, &mut self.program) {
            (SessionInput::Resize(size), _) if self.size.is_some() => self.size = Some(size),
            (SessionInput::Data(data), _)
                if self.size.is_some() && data.contains(&END_OF_INPUT) =>
            {
                self.end();
            }
            (SessionInput::Data(data), Program::Copy { bytes }) => {
                *bytes += data.len();
                self.ready.push_back(SessionOutput::Stdout(data));
            }
            (SessionInput::Data(data), Program::Size) => {
                let size =
                    self.size.map_or("none".to_owned(), |s| format!("{}x{}", s.rows, s.columns));
                for _ in data.iter().filter(|byte| **byte == b'\n') {
                    self.ready.push_back(SessionOutput::Stdout(Bytes::from(format!("{size}\n"))));
                }
            }
            (SessionInput::End, _) => self.end(),
            _ => {}
        }
    }

    /// Its input has ended.
    fn end(&mut self) {
        self.input = None;
        match self.program {
            Program::Hangs => return,
            Program::Copy { bytes } => {
                let words = format!("{bytes} bytes\n");
                self.ready.push_back(if self.size.is_some() {
                    SessionOutput::Stdout(words.into())
                } else {
                    SessionOutput::Stderr(words.into())
                });
            }
            Program::Size => {}
        }
        self.ready.push_back(SessionOutput::Exited(0));
        if self.of == Of::OneOff {
            self.fake.lock().exit(&self.id, 0, false);
        }
    }

    /// The end that its instance came to.
    fn instance_ended(&self) -> Option<i64> {
        let state = self.fake.lock();
        match state.instances.get(&self.id).map(|container| container.instance().state) {
            None => Some(137),
            Some(InstanceState::Exited { code, .. }) if self.of == Of::OneOff => Some(code),
            Some(InstanceState::Exited { .. }) => Some(137),
            Some(_) => None,
        }
    }
}

impl Stream for Process {
    type Item = RuntimeResult<SessionOutput>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.over {
                return Poll::Ready(None);
            }
            if let Some(output) = this.ready.pop_front() {
                this.over = matches!(output, SessionOutput::Exited(_));
                return Poll::Ready(Some(Ok(output)));
            }
            if let Some(code) = this.instance_ended() {
                this.ready.push_back(SessionOutput::Exited(code));
                continue;
            }
            this.fake.lock().wait(context);
            match this.input.as_mut().map(|input| input.as_mut().poll_next(context)) {
                Some(Poll::Ready(Some(input))) => this.take(input),
                Some(Poll::Ready(None)) => this.end(),
                Some(Poll::Pending) | None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.of == Of::Exec {
            let mut state = self.fake.lock();
            state.execs_running -= 1;
            let own = state.exec_listeners.iter().position(|l| Some(l) == self.listener.as_ref());
            if let Some(own) = own {
                state.exec_listeners.remove(own);
            }
        }
    }
}
