//! The ports: what the controller needs from the world, as traits in plain data.
//!
//! `Runtime` speaks of one instance of one immutable release at a time. Counting, order, choice
//! of the victim and back-off are the planner's. What a back-end cannot do is
//! [`RuntimeErrorKind::Unsupported`], never ignored.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;

use futures_core::Stream;

use crate::id::{DeploymentId, InstanceId, ServerId};
use crate::name::{AppName, ProcessType};
use crate::release::Limits;
use crate::subnet::Subnet;
use crate::time::Millis;

/// A boxed future, so that the ports can be used behind `Arc<dyn …>`.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
/// A boxed stream of a port.
pub type Items<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// What to start.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    pub id: InstanceId,
    pub app: AppName,
    pub rollout: DeploymentId,
    pub release: u32,
    pub process: ProcessType,
    /// From 1: `web.1`.
    pub ordinal: u32,
    /// The engine's image id.
    pub image: String,
    pub command: Option<Vec<String>>,
    /// The whole environment, `PORT` and `MINI_*` among it. Secret.
    pub env: Vec<(String, String)>,
    /// Chosen by the controller, inside the app's subnet.
    pub address: Ipv4Addr,
    /// Where `web` listens; `None` for process types without HTTP.
    pub port: Option<u16>,
    pub limits: Limits,
}

/// An instance as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: InstanceId,
    pub app: AppName,
    pub rollout: DeploymentId,
    pub release: u32,
    pub process: ProcessType,
    pub ordinal: u32,
    /// The address that it has or would have again if started.
    pub address: Option<Ipv4Addr>,
    pub port: Option<u16>,
    pub state: InstanceState,
}

impl Instance {
    /// `web.1`, as logs and `mini ps` say.
    pub fn label(&self) -> String {
        format!("{}.{}", self.process, self.ordinal)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    /// Made, never started.
    Created,
    Running {
        since: Millis,
    },
    Paused {
        since: Millis,
    },
    Exited {
        code: i64,
        oom: bool,
        at: Millis,
    },
    /// On its way out, or broken beyond use: only removing helps.
    Dead,
}

impl InstanceState {
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// The app's own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    pub app: AppName,
    pub subnet: Subnet,
}

/// What the engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    pub version: String,
    pub api_version: String,
    pub os: String,
    pub arch: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Where the engine keeps its data, on its own host.
    pub root_dir: PathBuf,
    pub storage_driver: String,
    pub cgroup_version: String,
    pub live_restore: bool,
    /// Whether a BuildKit session could be opened.
    pub buildkit: bool,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// `sha256:…`
    pub id: String,
    /// The exposed TCP ports, sorted.
    pub ports: Vec<u16>,
    pub has_command: bool,
    pub volumes: Vec<String>,
    pub size_bytes: u64,
    pub os: String,
    pub arch: String,
}

/// Something changed: look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This instance was created, started, died, or was removed.
    Instance(InstanceId),
    /// The stream is whole from here on: everything before is unknown until a full look.
    Connected,
    /// The stream broke: everything is unknown. The stream goes on and will say `Connected`.
    Lost(String),
}

/// A piece of output of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The engine's timestamp, in nanoseconds since the Unix epoch.
    pub at_nanos: i64,
    pub stream: OutputStream,
    /// One line without its line end; long lines are split at 10,000 bytes.
    pub text: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// Where the processes of an instance listen on TCP, as its own network namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    At(Vec<SocketAddr>),
    /// Could not be read; why.
    Unknown(String),
}

/// A step of a pull or a build, for the user's eyes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A line of output, or a step's name.
    Line(String),
    /// Bytes of a named part (a layer), for a bar: shown only where there is a terminal.
    Bytes { part: String, done: u64, total: u64 },
    /// The last item of a stream that went well: the engine's image id.
    Image(String),
}

/// Who failed, in one word, so that callers can decide without reading a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeErrorKind {
    /// The engine does not answer. Trying again may help.
    Unreachable,
    /// The engine's socket is there and we may not use it.
    NotPermitted,
    /// No such instance, image or network.
    NotFound,
    /// The address or name is taken.
    Conflict,
    /// The engine's disk is full.
    NoSpace,
    /// The request itself is wrong (a bad image reference, a command that is not in the image).
    Invalid,
    /// This back-end cannot do that.
    Unsupported,
    /// The build or pull ran and failed: the user's matter, not the engine's.
    Failed,
    Other,
}

/// An error of a port. `Display` names the object and what the engine said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    pub kind: RuntimeErrorKind,
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl RuntimeError {
    pub fn new(kind: RuntimeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the same call may go through later with nothing changed by anybody.
    pub fn is_transient(&self) -> bool {
        use RuntimeErrorKind::{Conflict, NoSpace, Other, Unreachable};
        matches!(self.kind, Unreachable | Conflict | NoSpace | Other)
    }
}

pub type RuntimeResult<T> = Result<T, RuntimeError>;

/// One engine, and what on it carries this server's id.
pub trait Runtime: Send + Sync + 'static {
    /// Asks the engine who it is; the first call of every session.
    fn info(&self) -> Fut<'_, RuntimeResult<EngineInfo>>;

    /// Makes the app's network if it is not there. Idempotent; a network of ours with another
    /// subnet is `Conflict`.
    fn ensure_network(&self, network: NetworkSpec) -> Fut<'_, RuntimeResult<()>>;
    /// Removes it; absent is done.
    fn remove_network(&self, app: AppName) -> Fut<'_, RuntimeResult<()>>;
    /// The apps that have a network of ours.
    fn networks(&self) -> Fut<'_, RuntimeResult<Vec<AppName>>>;
    /// The subnets of every network on the engine, anybody's.
    fn subnets_in_use(&self) -> Fut<'_, RuntimeResult<Vec<Subnet>>>;

    /// Makes and starts an instance, and answers with what it then is. Idempotent by id. The
    /// app's network must be there.
    fn start(&self, spec: InstanceSpec) -> Fut<'_, RuntimeResult<Instance>>;
    /// Starts an instance that was created or has exited, at the same address.
    fn start_again(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Instance>>;
    /// SIGTERM, `grace_ms`, SIGKILL. Stopped or absent already is done.
    fn stop(&self, id: InstanceId, grace_ms: u64) -> Fut<'_, RuntimeResult<()>>;
    /// Removes an instance, killing it if it runs. Absent is done.
    fn remove(&self, id: InstanceId) -> Fut<'_, RuntimeResult<()>>;

    /// Every instance of this server, by one look.
    fn observe(&self) -> Fut<'_, RuntimeResult<Vec<Instance>>>;
    /// One instance; `None` is known to be absent.
    fn observe_one(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Option<Instance>>>;
    /// What happens to this server's instances. Never ends; reconnects by itself.
    fn changes(&self) -> Items<Change>;
    /// Output with a timestamp at or after `since_nanos`. With `follow` the stream goes on until
    /// the instance exits, and may then lack the last lines: read once more without.
    fn logs(
        &self,
        id: InstanceId,
        since_nanos: Option<i64>,
        follow: bool,
    ) -> Items<RuntimeResult<Output>>;
    /// Where it listens.
    fn listening(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Listening>>;

    /// An image on the engine by id or reference; `None` is absent.
    fn image(&self, reference: String) -> Fut<'_, RuntimeResult<Option<ImageInfo>>>;
    /// Pulls; the last item of success is [`Progress::Image`].
    fn pull(&self, reference: String) -> Items<RuntimeResult<Progress>>;
    /// Removes an image that this server's builder made. Absent is done; in use is `Conflict`;
    /// an image of anybody else is `Invalid`.
    fn remove_image(&self, id: String) -> Fut<'_, RuntimeResult<()>>;
    /// The ids of the images that this server's builder made.
    fn images(&self) -> Fut<'_, RuntimeResult<Vec<String>>>;
}

/// What to build.
pub struct BuildSpec {
    pub app: AppName,
    pub deployment: DeploymentId,
    /// Where the Dockerfile lies inside the context.
    pub dockerfile: String,
    /// An uncompressed tar that we wrote.
    pub context: Items<std::io::Result<bytes::Bytes>>,
    /// Whether to use the layers of earlier builds.
    pub use_cache: bool,
}

/// Makes images from source.
pub trait Builder: Send + Sync + 'static {
    /// Builds; the last item of success is [`Progress::Image`]. Dropping the stream cancels the
    /// build on the engine.
    fn build(&self, spec: BuildSpec) -> Items<RuntimeResult<Progress>>;
}

/// How the owner of an engine object is named on it.
pub fn owner_label(server: &ServerId) -> (String, String) {
    ("mini.server".to_owned(), server.as_str().to_owned())
}
