//! The ports: what the controller needs from the world, as traits in plain data.
//!
//! `Runtime` speaks of one instance of one immutable release at a time. Counting, order, choice
//! of the victim and back-off are the planner's. What a back-end cannot do is
//! [`RuntimeErrorKind::Unsupported`], never ignored.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;

use crate::id::{DeploymentId, InstanceId, ServerId};
use crate::name::{AppName, ProcessType};
use crate::release::{CommandCheck, Limits, Mount};
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
    /// Whether it must not run beside an instance of another rollout.
    pub alone: bool,
    /// Each must be on the engine.
    pub volumes: Vec<Mount>,
    /// Whether it is a one-off command and no part of the app's formation.
    pub one_off: Option<OneOff>,
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
    /// Whether it must not run beside an instance of another rollout.
    pub alone: bool,
    pub one_off: Option<OneOff>,
    pub state: InstanceState,
}

impl Instance {
    /// `web.1`, as logs and `mini ps` say.
    pub fn label(&self) -> String {
        format!("{}.{}", self.process, self.ordinal)
    }
}

/// How a one-off command (`mini run`) was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OneOff {
    /// Somebody sits before it: it ends with their session, and its output is theirs alone.
    Attached,
    /// It ends by itself, and its output goes to the app's log.
    Detached,
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

    /// Whether this is a start later than what is `known`: news, however late it comes.
    pub fn is_later_start(self, known: Option<Self>) -> bool {
        let Self::Running { since } = self else { return false };
        match known {
            Some(Self::Exited { at, .. }) => since > at,
            Some(Self::Running { since: before }) => since > before,
            _ => false,
        }
    }
}

/// The app's own network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    pub app: AppName,
    pub subnet: Subnet,
}

/// A volume that an app keeps data in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSpec {
    pub app: AppName,
    /// As the engine calls it.
    pub engine_name: String,
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
    /// Its HEALTHCHECK, with the engine's defaults filled in; none for `NONE`.
    pub check: Option<CommandCheck>,
    pub volumes: Vec<String>,
    pub size_bytes: u64,
    pub os: String,
    pub arch: String,
    /// Whether mini built it, this server or another one of the engine, or somebody from such a one:
    /// it holds some app's code.
    pub built: bool,
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

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// A command to run inside an instance that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    pub command: Vec<String>,
    /// On top of the instance's own environment.
    pub env: Vec<(String, String)>,
    /// `None`: no terminal, and stdout and stderr apart.
    pub terminal: Option<TerminalSize>,
}

/// What goes to a process that somebody is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionInput {
    Data(Bytes),
    /// Standard input ends here; output may go on. The end of the stream means the same.
    End,
    /// Without a terminal it means nothing.
    Resize(TerminalSize),
}

/// What comes from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOutput {
    /// With a terminal, all output.
    Stdout(Bytes),
    Stderr(Bytes),
    /// The last item of a session that went well; 128+n for a process that signal n ended.
    Exited(i64),
}

/// The output of one process, read only as fast as it is taken.
pub type Session = Items<RuntimeResult<SessionOutput>>;

/// Where the processes of an instance listen on TCP, as its own network namespace says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    At(Vec<SocketAddr>),
    /// Could not be read; why.
    Unknown(String),
}

/// What an instance uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Without the pages of files that would be given back at once.
    pub memory_bytes: u64,
    /// Time on processors since it was started, all of them together.
    pub cpu_nanos: u64,
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

    /// Makes a volume if it is not there. Idempotent; one of that name that is not ours is
    /// `Conflict`.
    fn ensure_volume(&self, volume: VolumeSpec) -> Fut<'_, RuntimeResult<()>>;
    /// Removes a volume with all that is in it. Absent is done; in use is `Conflict`.
    fn remove_volume(&self, engine_name: String) -> Fut<'_, RuntimeResult<()>>;
    /// The engine's names of this server's volumes.
    fn volumes(&self) -> Fut<'_, RuntimeResult<Vec<String>>>;

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
    /// Runs a command inside an instance that runs (else `Conflict`). A command that the image does
    /// not have is a session that says so on stderr and ends with 127. Dropping the session before
    /// its end kills the command.
    fn exec(
        &self,
        id: InstanceId,
        spec: ExecSpec,
        input: Items<SessionInput>,
    ) -> Fut<'_, RuntimeResult<Session>>;
    /// Makes and starts an instance with its streams held from before its first byte; none of its
    /// output is kept for `logs`. Dropping the session ends its input and lets it run on: stopping
    /// and removing it is the caller's.
    fn run(
        &self,
        spec: InstanceSpec,
        terminal: Option<TerminalSize>,
        input: Items<SessionInput>,
    ) -> Fut<'_, RuntimeResult<(Instance, Session)>>;
    /// Where it listens.
    fn listening(&self, id: InstanceId) -> Fut<'_, RuntimeResult<Listening>>;
    /// What instances use at this moment. One that does not run, or of which it is not known, is
    /// not in the answer.
    fn stats(&self, ids: Vec<InstanceId>) -> Fut<'_, RuntimeResult<BTreeMap<InstanceId, Stats>>>;

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
    pub context: Items<std::io::Result<Bytes>>,
    /// Whether to use the layers of earlier builds.
    pub use_cache: bool,
    /// The same for all builds of an app, and known to nobody who builds others: what its images and
    /// the caches of its steps are called by, so that a build can name none but its own. At most 32
    /// letters and digits.
    pub secret: String,
}

/// Makes images from source.
pub trait Builder: Send + Sync + 'static {
    /// Builds; the last item of success is [`Progress::Image`]. Dropping the stream cancels the
    /// build on the engine.
    fn build(&self, spec: BuildSpec) -> Items<RuntimeResult<Progress>>;
    /// Looks that the limit on all builds together, where there is one, is in place, and puts it there
    /// if not; an error is why it does not hold.
    fn keep_limit(&self) -> Fut<'_, Result<LimitFound, String>>;
}

/// How the limit on all builds together was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitFound {
    /// There is to be none.
    NoLimit,
    There,
    /// Not as it should be; now it is.
    Set,
}

/// Bytes of an archive as they come.
pub type Archive = Items<RuntimeResult<Bytes>>;

/// What a backup needs of an engine, beside what runs there.
pub trait Archives: Send + Sync + 'static {
    /// The files of a volume as one tar, each below `volume/`, with owners and permissions. It is
    /// read while apps may write. The first item of a volume that is not there is `NotFound`;
    /// dropping the stream ends the reading.
    fn read_volume(&self, engine_name: String) -> Archive;
    /// Makes a volume that is not there yet (else `Conflict`) and fills it with what
    /// [`Archives::read_volume`] gave.
    fn fill_volume(
        &self,
        volume: VolumeSpec,
        tar: Items<std::io::Result<Bytes>>,
    ) -> Fut<'_, RuntimeResult<()>>;
    /// Images with their layers as one tar, by id; with those tags that only this server gives.
    fn save_images(&self, ids: Vec<String>) -> Archive;
    /// Takes what [`Archives::save_images`] gave. What is there already stays.
    fn load_images(&self, tar: Items<std::io::Result<Bytes>>) -> Fut<'_, RuntimeResult<()>>;
}

/// How the owner of an engine object is named on it.
pub fn owner_label(server: &ServerId) -> (String, String) {
    ("mini.server".to_owned(), server.as_str().to_owned())
}
