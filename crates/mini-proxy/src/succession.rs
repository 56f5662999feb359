//! One proxy process takes the place of another without a request noticing.
//!
//! [`mini_core::control`] draws what the two say to each other. The rules that it keeps:
//!
//! - **One of them accepts at a time.** The one that runs goes on until the successor has the table,
//!   its control socket and the listening sockets, and only then leaves. Clients that come between
//!   wait in the kernel's queue, since both hold the same sockets.
//! - **No change is lost between two tables.** From the moment at which the table is handed over
//!   the one that runs takes no change; its controller is let go, and finds the successor, whose
//!   table is the same. If the successor does not come about, the controller comes back.
//! - **Only one writes the snapshot**: the one that runs finishes its write before it hands over. The
//!   table goes over the socket, so a full disk does not hinder an upgrade.
//! - **The controller has one proxy to talk to.** What the old process still has in flight is the
//!   successor's to know: it passes each change on to it, and says of an instance that it is drained
//!   when neither has a request there, of a generation that it is durable when neither routes by
//!   an older one. Hence nothing is stopped, and no address used again, while the old one may still
//!   send requests there, and requests that the old one holds find the instances that come. An
//!   old process that has one before it does the same, so hand-overs may follow each other at
//!   once.
//!
//! The two are of different versions when it matters most: what they say to each other may grow, with
//! a default for what an older one does not say. If they do not understand each other the one that
//! runs goes on.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::StreamExt as _;
use mini_core::control::{Estate, FromProxy, MAX_LINE, ToProxy};
use mini_core::id::InstanceId;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::apply;
use crate::control::{End, take};
use crate::shared::{Link, Shared};
use crate::table::TargetState;

/// How long the one that runs takes no changes for a successor.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a successor waits for each answer: longer, so that it is the other that gives up.
const ANSWER: Duration = Duration::from_secs(7);

pub(crate) type Lines = FramedRead<OwnedReadHalf, LinesCodec>;

pub(crate) fn lines(reader: OwnedReadHalf) -> Lines {
    FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE))
}

/// The next document; `None` at the end of the connection.
pub(crate) async fn document<T: DeserializeOwned>(lines: &mut Lines) -> Result<Option<T>, String> {
    match lines.next().await {
        None => Ok(None),
        Some(Err(error)) => Err(format!("its line cannot be read: {error}")),
        Some(Ok(line)) => match serde_json::from_str(&line) {
            Ok(document) => Ok(Some(document)),
            Err(error) => Err(format!("its line is no document: {error}")),
        },
    }
}

/// The side of the process that runs, from `Succeed` on.
pub(crate) async fn leave(shared: &Arc<Shared>, link: &Arc<Link>, lines: &mut Lines) -> End {
    let stays = |why: &str| {
        tracing::warn!(why, "a successor is sent away");
        link.send(FromProxy::Stays { why: why.to_owned() });
    };
    let Some(offer) = Offer::make(shared) else {
        stays("another one has asked before");
        return until_closed(lines).await;
    };
    // A write that is under way ends first, and no other begins.
    let Ok(_unwritten) = tokio::time::timeout(PATIENCE, shared.saving.lock()).await else {
        drop(offer);
        stays("the snapshot of the routes is being written, and the disk does not take it");
        return until_closed(lines).await;
    };
    link.send(FromProxy::Estate(offer.estate()));
    match tokio::time::timeout(PATIENCE, document(lines)).await {
        Ok(Ok(Some(ToProxy::Ready))) => {}
        Ok(Ok(None)) => return End::Closed,
        Ok(Ok(Some(_))) => return End::Bad("it did not say that it is ready".into()),
        Ok(Err(why)) => return End::Bad(why),
        Err(_) => {
            drop(offer);
            stays("it was not ready in time");
            return until_closed(lines).await;
        }
    }
    let generation = shared.table.load().generation;
    // In this order: what follows is said by a process that accepts no more.
    offer.accepted(link);
    link.send(FromProxy::Leaving);
    link.send(FromProxy::Applied { generation });
    link.ready.store(true, SeqCst);
    apply::tell_all(shared);
    loop {
        match document(lines).await {
            Ok(Some(change)) => take(shared, link, change),
            Ok(None) => return End::Closed,
            Err(why) => return End::Bad(why),
        }
    }
}

async fn until_closed(lines: &mut Lines) -> End {
    while let Ok(Some(_)) = tokio::time::timeout(PATIENCE, lines.next()).await {}
    End::Closed
}

/// The place of this process, kept free of changes for a successor. Dropped without
/// [`Offer::accepted`], everything goes on as before.
struct Offer<'a> {
    shared: &'a Arc<Shared>,
    open: bool,
}

impl<'a> Offer<'a> {
    fn make(shared: &'a Arc<Shared>) -> Option<Self> {
        shared.freeze().then(|| Self { shared, open: true })
    }

    fn estate(&self) -> Estate {
        let table = self.shared.table.load();
        let mut apps: Vec<_> = table.apps.values().map(|app| app.route.clone()).collect();
        apps.sort_by(|a, b| a.app.cmp(&b.app));
        let durable = self.shared.durable.load(SeqCst);
        Estate { generation: table.generation, durable, apps, serving: table.serving() }
    }

    fn accepted(mut self, by: &Arc<Link>) {
        self.open = false;
        self.shared.give_place_to(by);
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if self.open {
            self.shared.thaw();
            tracing::warn!("no successor came about: this proxy goes on");
        }
    }
}

/// Why a new process does not get the place.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the proxy that runs keeps its place: {0}")]
    Stays(String),
    #[error("the proxy that runs does not answer")]
    Silent,
    #[error("the proxy that runs said something else: {0}")]
    Bad(String),
}

/// A successor's connection to the one that runs.
pub(crate) struct Asked {
    lines: Lines,
    writer: OwnedWriteHalf,
    pub(crate) estate: Estate,
}

/// Asks the proxy at `path` for its place; `None` if nobody is there any more.
pub(crate) async fn ask(path: &Path, version: &str) -> Result<Option<Asked>, Refusal> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "no proxy is there to take over from");
            return Ok(None);
        }
    };
    let (reader, mut writer) = stream.into_split();
    let mut lines = lines(reader);
    let succeed = ToProxy::Succeed { version: version.to_owned(), pid: std::process::id() };
    let sent = send(&mut writer, &succeed).await;
    loop {
        match answer(&mut lines).await? {
            Some(FromProxy::Hello { version, pid, .. }) => {
                tracing::info!(%version, pid, "taking over from the proxy that runs");
            }
            Some(FromProxy::Estate(estate)) => return Ok(Some(Asked { lines, writer, estate })),
            // An older version closes the connection, and runs on.
            None if UnixStream::connect(path).await.is_ok() => {
                return Err(Refusal::Bad("nothing: it does not know how to be succeeded".into()));
            }
            None => {
                tracing::warn!(sent = sent.is_ok(), "the proxy that ran is gone");
                return Ok(None);
            }
            Some(other) => return Err(Refusal::Bad(format!("{other:?}"))),
        }
    }
}

/// A [`FromProxy::Stays`] is a refusal.
async fn answer(lines: &mut Lines) -> Result<Option<FromProxy>, Refusal> {
    match tokio::time::timeout(ANSWER, document(lines)).await {
        Ok(Ok(Some(FromProxy::Stays { why }))) => Err(Refusal::Stays(why)),
        Ok(Ok(document)) => Ok(document),
        Ok(Err(why)) => Err(Refusal::Bad(why)),
        Err(_) => Err(Refusal::Silent),
    }
}

async fn send(writer: &mut OwnedWriteHalf, document: &ToProxy) -> io::Result<()> {
    let mut line = serde_json::to_vec(document).map_err(io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

impl Asked {
    /// Says that everything is ready, and returns when the other accepts no more. `None` if it
    /// died meanwhile.
    pub(crate) async fn relieve(mut self) -> Result<Option<Self>, Refusal> {
        // A connection that is closed is noticed by reading from it.
        let _ = send(&mut self.writer, &ToProxy::Ready).await;
        match answer(&mut self.lines).await? {
            Some(FromProxy::Leaving) => Ok(Some(self)),
            Some(other) => Err(Refusal::Bad(format!("{other:?}"))),
            None => {
                tracing::warn!("the proxy that ran died during the hand-over");
                Ok(None)
            }
        }
    }

    /// Tells the old process what changes, and hears what still has requests there, until its end.
    pub(crate) async fn follow(
        self,
        shared: Arc<Shared>,
        changes: mpsc::UnboundedReceiver<ToProxy>,
    ) {
        let Self { mut lines, writer, .. } = self;
        let why = tokio::select! {
            why = hear(&shared, &mut lines) => why,
            error = tell(writer, changes) => error.to_string(),
            () = shared.cut.cancelled() => "the drain time of this one is over".to_owned(),
        };
        tracing::info!(%why, "the proxy before this one is gone");
        shared.predecessor_gone();
    }
}

async fn hear(shared: &Shared, lines: &mut Lines) -> String {
    loop {
        match document(lines).await {
            Ok(Some(FromProxy::Applied { generation })) => shared.predecessor_applied(generation),
            Ok(Some(FromProxy::Drained { instance })) => shared.predecessor_drained(instance),
            // How targets are is found out here too.
            Ok(Some(_)) => {}
            Ok(None) => return "its last request ended".to_owned(),
            Err(why) => return why,
        }
    }
}

async fn tell(
    mut writer: OwnedWriteHalf,
    mut changes: mpsc::UnboundedReceiver<ToProxy>,
) -> io::Error {
    while let Some(change) = changes.recv().await {
        if let Err(error) = send(&mut writer, &change).await {
            return error;
        }
    }
    io::Error::other("nothing more is told to it")
}

/// What is known of the process before this one, while it finishes.
pub(crate) struct Predecessor {
    /// Bounded by its drain time.
    changes: mpsc::UnboundedSender<ToProxy>,
    /// The last generation that it routes by.
    applied: u64,
    /// What it said to be drained, and by which generation it routed then.
    drained: HashMap<InstanceId, u64>,
}

impl Predecessor {
    pub(crate) fn new(changes: mpsc::UnboundedSender<ToProxy>) -> Self {
        Self { changes, applied: 0, drained: HashMap::new() }
    }

    pub(crate) fn tell(&self, change: ToProxy) {
        // Its end is noticed by reading.
        let _ = self.changes.send(change);
    }

    pub(crate) fn applied(&mut self, generation: u64) {
        self.applied = self.applied.max(generation);
    }

    pub(crate) fn drained(&mut self, instance: InstanceId) {
        self.drained.insert(instance, self.applied);
    }

    pub(crate) fn routes_by(&self) -> u64 {
        self.applied
    }

    /// Whether it said so of this drain, and not of an earlier one of the same target.
    pub(crate) fn has_drained(&self, target: &TargetState) -> bool {
        let said = self.drained.get(&target.spec.instance);
        said.is_some_and(|generation| *generation >= target.drains_since.load(SeqCst))
    }
}
