//! The control socket: the controller's changes come in, what happens to targets goes out.
//!
//! [`mini_core::control`] has the documents. One controller is connected at a time; a new
//! connection replaces the one before, since a controller that restarts may be back before the
//! kernel has told the end of the old connection. It is the controller's from its hello on; one
//! that says none may ask for the status, and for nothing else.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use mini_core::control::{FromProxy, ToProxy};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Change, Refused};
use crate::seen::follow;
use crate::shared::{Link, Shared};
use crate::succession::{self, Lines, lines};

/// Events that may wait for a slow controller before its connection is given up.
const EVENTS: usize = 65_536;
/// A line from this length on is applied on a thread of its own.
const LARGE: usize = 64 << 10;
/// How long a line may take to be written.
const WRITE: Duration = Duration::from_secs(10);

/// The bound socket; its file is removed at the end if it is still this one.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// The path is another's from the moment that this is cancelled.
    left: CancellationToken,
}

impl Socket {
    /// Binds beside `path`, where nobody comes yet. Once `left` is cancelled the file is not ours.
    pub(crate) fn bind(path: &Path, left: CancellationToken) -> io::Result<Self> {
        let path = path.with_extension(std::process::id().to_string());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        // Until here the peer's uid alone keeps others out, and does so after it too.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(&path)?.ino();
        Ok(Self { listener, path, inode, left })
    }

    /// From here on those who come to `path` come to this one, and to no other that is there: one
    /// of a dead proxy, or of the one whose place this takes.
    pub(crate) fn publish(&mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        path.clone_into(&mut self.path);
        Ok(())
    }
}

impl Socket {
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.left.is_cancelled()
            && std::fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Accepts controllers, for ever.
pub(crate) async fn listen(shared: Arc<Shared>, socket: Socket, allowed_uids: Vec<u32>) {
    loop {
        let stream = match socket.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if allowed_uids.contains(&peer.uid()) => {
                tokio::spawn(converse(Arc::clone(&shared), stream));
            }
            Ok(peer) => {
                tracing::warn!(peer.uid = peer.uid(), "refused at the control socket");
            }
            Err(error) => tracing::warn!(%error, "the control socket's peer is not known"),
        }
    }
}

async fn converse(shared: Arc<Shared>, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = lines(reader);
    let (events, outgoing) = mpsc::channel(EVENTS);
    let closed = CancellationToken::new();
    let link = Arc::new(Link { events, ready: AtomicBool::new(false), closed: closed.clone() });
    link.send(FromProxy::Hello {
        version: shared.version.clone(),
        generation: shared.table.load().generation,
        durable: shared.durable.load(SeqCst),
        boot_id: shared.boot_id.clone(),
        pid: std::process::id(),
        serving: shared.table.load().serving(),
    });
    let end = tokio::select! {
        end = read(&shared, &link, &mut lines) => end,
        end = write(outgoing, &mut writer) => end,
        () = closed.cancelled() => End::Replaced,
    };
    let was_the_controllers = shared.disconnect(&link);
    link.closed.cancel();
    match end {
        End::Apart(ToProxy::FollowRequests) => follow::requests(&shared, lines, writer).await,
        End::Apart(_) => follow::metrics(&shared, lines, writer).await,
        End::Closed | End::Bad(_) if !was_the_controllers => {
            tracing::debug!("one who was not the controller is gone");
        }
        End::Closed => tracing::info!("the controller disconnected"),
        End::Replaced => tracing::info!("the controller's connection was replaced or given up"),
        End::Bad(why) => tracing::warn!(why, "the controller's connection is closed"),
    }
}

pub(crate) enum End {
    Closed,
    Replaced,
    /// The connection goes on with this alone. Its other side has heard the hello, and so nothing
    /// of it is on its way any more.
    Apart(ToProxy),
    Bad(String),
}

async fn read(shared: &Arc<Shared>, link: &Arc<Link>, lines: &mut Lines) -> End {
    use futures_util::StreamExt as _;
    let mut greeted = false;
    while let Some(line) = lines.next().await {
        let line = match line {
            Ok(line) => line,
            Err(error) => return End::Bad(format!("its line cannot be read: {error}")),
        };
        let document = match serde_json::from_str(&line) {
            Ok(document) => document,
            Err(error) => return End::Bad(format!("its line is no document: {error}")),
        };
        match &document {
            ToProxy::Hello { .. } if !greeted => {
                greeted = true;
                if !shared.connect(Arc::clone(link)) {
                    return End::Bad("a new proxy takes over: it should come to that one".into());
                }
            }
            ToProxy::Succeed { version, pid } if !greeted => {
                tracing::info!(%version, pid, "a new proxy asks for the place of this one");
                return succession::leave(shared, link, lines).await;
            }
            ToProxy::Hello { .. } | ToProxy::Status => {}
            ToProxy::FollowRequests | ToProxy::Metrics if !greeted => return End::Apart(document),
            _ if !greeted => return End::Bad("it did not say hello".into()),
            _ => {}
        }
        if line.len() < LARGE {
            take(shared, link, document);
        } else {
            // A table of thousands of apps would keep requests waiting on this thread.
            let (shared, link) = (Arc::clone(shared), Arc::clone(link));
            if tokio::task::spawn_blocking(move || take(&shared, &link, document)).await.is_err() {
                return End::Bad("its table could not be applied".into());
            }
        }
    }
    End::Closed
}

/// Does what the controller, or the successor in its place, says.
pub(crate) fn take(shared: &Arc<Shared>, link: &Arc<Link>, document: ToProxy) {
    let copy = shared.has_predecessor().then(|| document.clone());
    let (generation, change, is_table) = match document {
        ToProxy::Hello { server, version } => {
            tracing::info!(server.id = %server, server.version = version, "the controller said hello");
            return;
        }
        ToProxy::Succeed { .. } | ToProxy::Ready => return,
        ToProxy::Status => return link.send(FromProxy::Status(shared.status())),
        ToProxy::Certificates { certificates } => return shared.tls.replace(certificates),
        ToProxy::Challenges { sequence, challenges } => {
            shared.tls.challenge(challenges);
            return link.send(FromProxy::Challenged { sequence });
        }
        // These have a connection of their own.
        ToProxy::FollowRequests | ToProxy::Kept | ToProxy::Metrics => return,
        ToProxy::Table { generation, apps } => (generation, Change::Table(apps), true),
        ToProxy::App { generation, route } => (generation, Change::App(route), false),
        ToProxy::Forget { generation, app } => (generation, Change::Forget(app), false),
    };
    let applied = || {
        if let Some(change) = copy {
            shared.tell_predecessor(change);
        }
        link.send(FromProxy::Applied { generation });
    };
    match apply::change(shared, link, generation, change, applied) {
        Ok(()) if is_table => {
            link.ready.store(true, SeqCst);
            shared.settled.cancel();
            apply::tell_all(shared);
        }
        Ok(()) => {}
        Err(Refused::Replaced) => {}
        Err(Refused::Stale { current }) => {
            tracing::warn!(generation, current, "a change was refused: it is not newer");
            link.send(FromProxy::Refused { generation, current });
        }
    }
}

async fn write(mut events: mpsc::Receiver<FromProxy>, writer: &mut OwnedWriteHalf) -> End {
    let mut writer = BufWriter::new(writer);
    while let Some(event) = events.recv().await {
        let Ok(mut line) = serde_json::to_vec(&event) else { continue };
        line.push(b'\n');
        let written = tokio::time::timeout(WRITE, async {
            writer.write_all(&line).await?;
            if events.is_empty() { writer.flush().await } else { Ok(()) }
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Bad(format!("it cannot be written to: {error}")),
            Err(_) => return End::Bad("it does not read".into()),
        }
    }
    End::Closed
}
