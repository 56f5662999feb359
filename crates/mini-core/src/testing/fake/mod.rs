//! A fake engine, in memory: it keeps the ports' promises and breaks down on demand.
//!
//! Nothing happens by itself: instances live until they are stopped or [`FakeRuntime::crash`]ed,
//! its clock stands until it is set, and a call answers at once unless it is held.

mod build;
mod engine;
mod session;
mod state;
mod streams;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::id::{DeploymentId, InstanceId};
use crate::name::AppName;
use crate::ports::{
    EngineInfo, ImageInfo, Instance, InstanceSpec, Listening, OutputStream, RuntimeError,
    RuntimeErrorKind, RuntimeResult, Stats,
};
use crate::subnet::Subnet;
use crate::time::Millis;
use state::State;

/// The calls of the ports, for the knobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    Info,
    EnsureNetwork,
    RemoveNetwork,
    Networks,
    SubnetsInUse,
    EnsureVolume,
    RemoveVolume,
    Volumes,
    Start,
    StartAgain,
    Stop,
    Remove,
    Observe,
    ObserveOne,
    Logs,
    Exec,
    Run,
    Listening,
    Stats,
    Image,
    Pull,
    RemoveImage,
    Images,
    Build,
}

/// What an instance does once it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Lives until it is stopped.
    Lives,
    /// Writes these lines to stdout and exits with the code, before `start` has answered.
    Exits { lines: Vec<String>, code: i64 },
}

/// A build as the fake saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    pub app: AppName,
    pub deployment: DeploymentId,
    pub dockerfile: String,
    pub use_cache: bool,
    /// How much context was read.
    pub context_bytes: u64,
    /// The stream was dropped before it ended.
    pub cancelled: bool,
}

/// What a failure of [`FakeRuntime::fail_next`] leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    Done,
}

/// The fake engine; clones are handles on the same one. Implements `Runtime` and `Builder`.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
}

impl FakeRuntime {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- What goes wrong ----

    /// The next call of this kind fails and changes nothing.
    pub fn fail_next(&self, call: Call, kind: RuntimeErrorKind, message: &str) {
        let error = RuntimeError::new(kind, message);
        self.lock().failures.entry(call).or_default().push_back((error, Effect::None));
    }

    /// The next call of this kind does its work and then loses its answer.
    pub fn lose_next_answer(&self, call: Call) {
        let error = RuntimeError::new(RuntimeErrorKind::Unreachable, "the answer was lost");
        self.lock().failures.entry(call).or_default().push_back((error, Effect::Done));
    }

    /// Whether the engine can be reached. While it cannot, every call fails with `Unreachable`
    /// and every stream of changes is `Lost`; instances live on.
    pub fn set_reachable(&self, reachable: bool) {
        let mut state = self.lock();
        state.unreachable = !reachable;
        state.tell_reachability();
        state.wake();
    }

    /// Calls of this kind wait (before they have any effect) until they are released.
    pub fn hold(&self, call: Call) {
        self.lock().held.insert(call);
    }

    pub fn release(&self, call: Call) {
        let mut state = self.lock();
        state.held.remove(&call);
        state.wake();
    }

    /// How many calls of this kind are being held right now.
    pub fn waiting(&self, call: Call) -> usize {
        self.lock().waiting.get(&call).copied().unwrap_or(0)
    }

    /// The instance exits by itself.
    ///
    /// # Panics
    /// If it does not run: then the test is wrong.
    pub fn crash(&self, id: &InstanceId, code: i64, oom: bool) {
        let mut state = self.lock();
        assert!(state.is_up(id), "{id} does not run and cannot crash");
        state.exit(id, code, oom);
    }

    /// The instance is frozen (`docker pause` by somebody's hand).
    pub fn pause(&self, id: &InstanceId) {
        self.lock().pause(id);
    }

    /// Removes an instance behind everybody's back.
    pub fn vanish(&self, id: &InstanceId) {
        self.lock().vanish(id);
    }

    /// The machine restarts: every instance that ran has exited with 137.
    pub fn reboot(&self) {
        let mut state = self.lock();
        for id in state.all_up() {
            state.exit(&id, 137, false);
        }
    }

    // ---- What there is ----

    /// What instances of this process type do when they are started; they live unless told.
    pub fn behave(&self, process: &str, behaviour: Behaviour) {
        self.lock().behaviours.insert(process.to_owned(), behaviour);
    }

    /// What this command does when it is executed in an instance, its words joined by spaces:
    /// [`Behaviour::Lives`] hangs. Otherwise the words of the suite's program mean something.
    pub fn exec_does(&self, command: &str, behaviour: Behaviour) {
        self.lock().execs.insert(command.to_owned(), behaviour);
    }

    /// How many executed commands have not ended, nor lost their session.
    pub fn execs_running(&self) -> usize {
        self.lock().execs_running
    }

    /// A line that the instance writes now.
    pub fn write(&self, id: &InstanceId, stream: OutputStream, text: &str) {
        self.lock().write(id, stream, text.as_bytes());
    }

    /// Where the instance listens; otherwise `0.0.0.0` and its port while it runs.
    pub fn set_listening(&self, id: &InstanceId, listening: Listening) {
        self.lock().listening.insert(id.clone(), listening);
    }

    /// What the instance uses from now on; otherwise a megabyte and no processor at all.
    pub fn set_stats(&self, id: &InstanceId, stats: Stats) {
        self.lock().stats.insert(id.clone(), stats);
    }

    /// The fake's clock, which stands where it was set.
    pub fn set_now(&self, now: Millis) {
        self.lock().now = now;
    }

    /// What `info` answers.
    pub fn set_info(&self, info: EngineInfo) {
        self.lock().info = info;
    }

    /// Puts an image on the engine that nobody built there.
    pub fn add_image(&self, reference: &str, image: ImageInfo) {
        self.lock().add_image(reference, image, false);
    }

    /// Puts an image into the registry, where only `pull` finds it.
    pub fn add_to_registry(&self, reference: &str, image: ImageInfo) {
        self.lock().registry.insert(reference.to_owned(), image);
    }

    /// A network of somebody else.
    pub fn add_foreign_network(&self, subnet: Subnet) {
        self.lock().foreign_networks.push(subnet);
    }

    /// The lines of the builds to come.
    pub fn build_says(&self, lines: &[&str]) {
        self.lock().build_lines = lines.iter().map(|line| (*line).to_owned()).collect();
    }

    /// The image that the builds to come make; its id is made up per deployment.
    pub fn build_makes(&self, image: ImageInfo) {
        self.lock().build_image = image;
    }

    // ---- What happened ----

    /// Every instance there is, sorted by id, whether the engine can be reached or not.
    pub fn instances(&self) -> Vec<Instance> {
        self.lock().all()
    }

    /// What an instance was started with, its environment among it.
    pub fn spec(&self, id: &InstanceId) -> Option<InstanceSpec> {
        self.lock().instances.get(id).map(|container| container.spec.clone())
    }

    /// How often this was called, failures included.
    pub fn count(&self, call: Call) -> usize {
        self.lock().counts.get(&call).copied().unwrap_or(0)
    }

    /// The builds so far, oldest first.
    pub fn builds(&self) -> Vec<Built> {
        self.lock().builds.clone()
    }

    // ---- How every call begins ----

    /// Counts, waits while held, does `work` unless the engine is away or a failure is due.
    async fn call<T>(
        &self,
        call: Call,
        work: impl FnOnce(&mut State) -> RuntimeResult<T> + Send,
    ) -> RuntimeResult<T> {
        self.gate(call).await;
        let mut state = self.lock();
        if state.unreachable {
            return Err(state::away());
        }
        match state.failures.get_mut(&call).and_then(VecDeque::pop_front) {
            None => work(&mut state),
            Some((error, Effect::None)) => Err(error),
            Some((error, Effect::Done)) => {
                work(&mut state)?;
                Err(error)
            }
        }
    }

    async fn gate(&self, call: Call) {
        *self.lock().counts.entry(call).or_default() += 1;
        let mut waiting = Waiting { fake: self, call, counted: false };
        poll_fn(|context| {
            let mut state = self.lock();
            if !state.held.contains(&call) {
                return Poll::Ready(());
            }
            if !waiting.counted {
                waiting.counted = true;
                *state.waiting.entry(call).or_default() += 1;
            }
            state.wait(context);
            Poll::Pending
        })
        .await;
    }
}

/// Counts a held call as waiting until it goes on or is dropped.
struct Waiting<'a> {
    fake: &'a FakeRuntime,
    call: Call,
    counted: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.counted
            && let Some(waiting) = self.fake.lock().waiting.get_mut(&self.call)
        {
            *waiting -= 1;
        }
    }
}
