//! The threads that requests run on: one for each core, each with a runtime of its own.
//!
//! A connection stays on the thread that accepted it, and so do the upstream connections that it
//! uses: nothing here is locked between two of them but the counters.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::serve::{self, Listener};
use crate::shared::Shared;

/// How often deadlines are looked at: none is kept more exactly than this.
const TICK: Duration = Duration::from_millis(100);
/// While draining: how long a connection must have been quiet to be closed as idle.
const QUIET_MS: u64 = 500;

/// Bytes in the two kinds of buffers: for heads, and for bodies.
pub(crate) const SMALL: usize = 16 << 10;
pub(crate) const LARGE: usize = 128 << 10;
/// Buffers that are kept for the next one who needs one, per thread.
const KEEP_SMALL: usize = 128;
const KEEP_LARGE: usize = 24;

/// From so many requests in flight on, the thread waits a little before it looks for work, so that
/// more of it is found at once: fewer wakeups, and no later answers.
const GATHER_FROM: usize = 16;
const GATHER: Duration = Duration::from_micros(20);

/// What the connections of one thread share.
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
    slots: RefCell<Vec<Option<Rc<Slot>>>>,
    free: RefCell<Vec<usize>>,
    /// Told when the first slot is taken.
    some: Notify,
    /// Requests in flight.
    busy: Arc<AtomicUsize>,
    random: Cell<u64>,
    /// Connections to apps that speak HTTP/2.
    pub(crate) h2c: RefCell<crate::h2::Pool>,
}

impl Worker {
    fn new(id: usize, shared: Arc<Shared>, busy: Arc<AtomicUsize>) -> Rc<Self> {
        let mut seed = [0; 8];
        // Without randomness ids may repeat after a restart: they are for finding log lines, not
        // for security.
        let _ = getrandom::fill(&mut seed);
        Rc::new(Self {
            id,
            shared,
            small: RefCell::default(),
            large: RefCell::default(),
            slots: RefCell::default(),
            free: RefCell::default(),
            some: Notify::new(),
            busy,
            h2c: RefCell::default(),
            random: Cell::new(u64::from_ne_bytes(seed) ^ clock::ms().rotate_left(32)),
        })
    }

    /// Counts requests in flight up or down.
    pub(crate) fn busy(&self, by: isize) {
        self.busy.store(self.busy.load(Relaxed).wrapping_add_signed(by), Relaxed);
    }

    /// A request id: 32 hex digits.
    pub(crate) fn new_id(&self) -> String {
        format!("{:016x}{:016x}", self.next_random(), self.next_random())
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn next_random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A buffer of `size` bytes ([`SMALL`] or [`LARGE`]); what is in it is of no meaning.
    pub(crate) fn buffer(&self, size: usize) -> Vec<u8> {
        let kept = if size == SMALL { &self.small } else { &self.large };
        kept.borrow_mut().pop().unwrap_or_else(|| vec![0; size])
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        let (kept, most) = match buffer.len() {
            SMALL => (&self.small, KEEP_SMALL),
            LARGE => (&self.large, KEEP_LARGE),
            _ => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < most {
            kept.push(buffer);
        }
    }

    /// A place at which the ticker looks.
    pub(crate) fn slot(self: &Rc<Self>) -> SlotGuard {
        let slot = Rc::new(Slot::default());
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(slots.len());
        if index == slots.len() {
            slots.push(None);
        }
        slots[index] = Some(Rc::clone(&slot));
        if slots.len() - self.free.borrow().len() == 1 {
            self.some.notify_one();
        }
        SlotGuard { worker: Rc::clone(self), index, slot }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            if self.slots.borrow().len() == self.free.borrow().len() {
                self.some.notified().await;
            }
            tokio::time::sleep(TICK).await;
            let now = clock::ms();
            let draining = self.shared.draining.is_cancelled();
            let over = self.shared.cut.is_cancelled();
            let mut wake = Vec::new();
            for slot in self.slots.borrow().iter().flatten() {
                wake.extend(slot.look(now, draining, over));
            }
            wake.into_iter().for_each(Waker::wake);
        }
    }
}

/// Why a connection may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its deadline has passed.
    Late,
    /// The upstream that it speaks with has left the table, or the drain time is over.
    Cut,
    /// It is idle, and the proxy drains.
    Leave,
}

/// What the ticker knows of one connection: a deadline without a timer of its own.
#[derive(Default)]
pub(crate) struct Slot {
    /// In [`clock::ms`]; 0 is none.
    deadline: Cell<u64>,
    /// When it wants to be woken, whatever happens; 0 is never.
    nudge: Cell<u64>,
    /// It waits for a request.
    idle: Cell<bool>,
    quiet_since: Cell<u64>,
    cut_by: RefCell<Option<CancellationToken>>,
    verdict: Cell<Option<Verdict>>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    /// Something has to happen within `limit` from now on.
    pub(crate) fn within(&self, limit: Duration) {
        self.deadline.set(clock::ms().saturating_add(clock::millis(limit)).max(1));
    }

    pub(crate) fn without_limit(&self) {
        self.deadline.set(0);
    }

    pub(crate) fn nudge_after(&self, time: Duration) {
        self.nudge.set(clock::ms() + clock::millis(time));
    }

    pub(crate) fn no_nudge(&self) {
        self.nudge.set(0);
    }

    /// Whether the time of the last nudge has come.
    pub(crate) fn is_nudged(&self) -> bool {
        let at = self.nudge.get();
        at > 0 && at <= clock::ms()
    }

    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.set(idle);
        self.quiet_since.set(clock::ms());
    }

    /// `token` cuts it, until another is set.
    pub(crate) fn cut_by(&self, token: Option<CancellationToken>) {
        *self.cut_by.borrow_mut() = token;
    }

    /// Polls, for no longer than the ticker allows.
    ///
    /// First what came: a request that has arrived is seen before it counts as idle. A verdict that
    /// was overtaken is dropped; if it still holds, the next look says so again.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, Verdict>> {
        let polled = poll(cx);
        match (polled, self.verdict.take()) {
            (Poll::Ready(done), _) => Poll::Ready(Ok(done)),
            (Poll::Pending, Some(verdict)) => Poll::Ready(Err(verdict)),
            (Poll::Pending, None) => {
                let mut waker = self.waker.borrow_mut();
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// [`Slot::poll`], until it is ready.
    pub(crate) async fn wait<T>(
        &self,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Verdict> {
        std::future::poll_fn(|cx| self.poll(cx, &mut poll)).await
    }

    /// [`Slot::wait`] for a future.
    pub(crate) async fn wait_for<T>(&self, future: impl Future<Output = T>) -> Result<T, Verdict> {
        let mut future = std::pin::pin!(future);
        self.wait(|cx| future.as_mut().poll(cx)).await
    }

    fn look(&self, now: u64, draining: bool, over: bool) -> Option<Waker> {
        let late = |at: u64| at > 0 && at <= now;
        let cut = || self.cut_by.borrow().as_ref().is_some_and(CancellationToken::is_cancelled);
        let verdict = if over || cut() {
            Some(Verdict::Cut)
        } else if late(self.deadline.get()) {
            Some(Verdict::Late)
        } else if draining && self.idle.get() && now >= self.quiet_since.get() + QUIET_MS {
            Some(Verdict::Leave)
        } else {
            None
        };
        if verdict.is_some() {
            self.verdict.set(verdict);
        } else if !late(self.nudge.get()) {
            return None;
        }
        self.waker.borrow_mut().take()
    }
}

/// A slot that is free again when this is dropped.
pub(crate) struct SlotGuard {
    worker: Rc<Worker>,
    index: usize,
    slot: Rc<Slot>,
}

impl SlotGuard {
    pub(crate) fn handle(&self) -> Rc<Slot> {
        Rc::clone(&self.slot)
    }
}

impl std::ops::Deref for SlotGuard {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.worker.slots.borrow_mut()[self.index] = None;
        self.worker.free.borrow_mut().push(self.index);
    }
}

/// Starts the threads; each accepts from every listener from when the proxy is open until it
/// drains, and ends when its connections have.
pub(crate) fn start(
    shared: &Arc<Shared>,
    listeners: &[Listener],
) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    let mut threads = Vec::new();
    for id in 0..shared.workers {
        let listeners: Vec<_> =
            listeners.iter().map(Listener::try_clone).collect::<io::Result<_>>()?;
        let shared = Arc::clone(shared);
        let busy = Arc::new(AtomicUsize::new(0));
        let gather = Arc::clone(&busy);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || {
                if gather.load(Relaxed) >= GATHER_FROM {
                    std::thread::sleep(GATHER);
                }
            })
            .build()?;
        let thread = std::thread::Builder::new().name(format!("proxy-{id}")).spawn(move || {
            // Or else the kernel would make 70 µs of the 20.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1000));
            let local = LocalSet::new();
            let worker = Worker::new(id, shared, busy);
            runtime.block_on(local.run_until(work(worker, listeners)));
        })?;
        threads.push(thread);
    }
    Ok(threads)
}

async fn work(worker: Rc<Worker>, listeners: Vec<Listener>) {
    tokio::select! {
        () = worker.shared.open.cancelled() => {}
        // It never opened.
        () = worker.shared.draining.cancelled() => return,
    }
    let ticker = tokio::task::spawn_local(Rc::clone(&worker).tick());
    let mut accepting = Vec::new();
    for listener in listeners {
        accepting.push(tokio::task::spawn_local(serve::accept(Rc::clone(&worker), listener)));
    }
    worker.shared.draining.cancelled().await;
    for task in accepting {
        let _ = task.await;
    }
    worker.shared.tasks.wait().await;
    ticker.abort();
}
