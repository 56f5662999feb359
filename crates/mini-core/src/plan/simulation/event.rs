//! What can happen next in the simulated world.

use super::engine::Made;
use super::proxy::Table;
use crate::control::FromProxy;
use crate::id::{DeploymentId, InstanceId};
use crate::plan::Intent;
use crate::ports::Instance;
use crate::time::Millis;

#[derive(Debug)]
pub(super) enum Event {
    User,
    /// The user wants web again.
    ScaleUp,
    Fault,
    FaultsEnd,
    /// Has the world come to rest?
    Judge,
    Request,
    RequestEnds(u64),
    ControllerUp,
    /// Something for the controller with this number; an older one is dead.
    Controller(u64, Input),
    Engine(Call),
    EngineBack,
    Exit {
        id: InstanceId,
        since: Millis,
        ours: bool,
    },
    ToProxy {
        connection: u64,
        table: Table,
        is_whole: bool,
    },
    Saved {
        proxy: u64,
        generation: u64,
    },
    Probed {
        proxy: u64,
        id: InstanceId,
        started: Millis,
    },
    ProxyUp,
}

/// A call of the engine and who waits for its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) epoch: u64,
    pub(super) token: u64,
    pub(super) op: Op,
}

#[derive(Debug)]
pub(super) enum Op {
    Create(Made),
    Start(InstanceId),
    Stop { id: InstanceId, grace_ms: u64 },
    Remove(InstanceId),
    Look(InstanceId),
    LookAtAll,
}

#[derive(Debug)]
pub(super) enum Answer {
    Done,
    One(Option<Box<Instance>>),
    All(Vec<Instance>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Transient,
    Fatal,
}

/// What reaches the controller.
#[derive(Debug)]
pub(super) enum Input {
    /// The driver's turn: read the intent.
    Load,
    /// The intent was read at this time: plan.
    Plan(Option<Box<Intent>>, u64),
    /// The time that a plan named has come.
    Timer(u64),
    /// An action goes on.
    Task(u64),
    Answer {
        token: u64,
        answer: Result<Answer, Refusal>,
    },
    Change {
        stream: u64,
        id: InstanceId,
    },
    Stream {
        stream: u64,
        there: bool,
    },
    FullLook(u64),
    Dial,
    FromProxy {
        connection: u64,
        document: FromProxy,
    },
    /// The connection to the proxy ended.
    HungUp(u64),
    /// All other apps' drivers have planned, so that the whole table may go out.
    OthersPlanned(u64),
    Queue,
    Prepared(DeploymentId),
}
