//! The control socket: the controller's changes come in, what happens to targets goes out.
//!
//! [`mini_core::control`] has the documents. One controller is connected at a time; a new
//! connection replaces the one before, since a controller that restarts may be back before the
//! kernel has told the end of the old connection.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use mini_core::control::{FromProxy, MAX_LINE, ToProxy};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Change, Stale};
use crate::shared::{Link, Shared};

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
}

impl Socket {
    /// Binds; a file left by a dead proxy makes room.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // Until here the peer's uid alone keeps others out, and does so after it too.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::metadata(path)?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // After a hand-over the path is the next proxy's.
        if std::fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
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
    let (reader, writer) = stream.into_split();
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
    shared.connect(Arc::clone(&link));
    tracing::info!("a controller connected");
    let end = tokio::select! {
        end = read(&shared, &link, reader) => end,
        end = write(outgoing, writer) => end,
        () = closed.cancelled() => End::Replaced,
    };
    shared.disconnect(&link);
    link.closed.cancel();
    match end {
        End::Closed => tracing::info!("the controller disconnected"),
        End::Replaced => tracing::info!("the controller's connection was replaced or given up"),
        End::Bad(why) => tracing::warn!(why, "the controller's connection is closed"),
    }
}

enum End {
    Closed,
    Replaced,
    Bad(String),
}

async fn read(shared: &Arc<Shared>, link: &Arc<Link>, reader: OwnedReadHalf) -> End {
    use futures_util::StreamExt as _;
    let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE));
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
        if !greeted && !matches!(document, ToProxy::Hello { .. }) {
            return End::Bad("it did not say hello".into());
        }
        greeted = true;
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

fn take(shared: &Arc<Shared>, link: &Arc<Link>, document: ToProxy) {
    let (generation, change, is_table) = match document {
        ToProxy::Hello { server, version } => {
            tracing::info!(server.id = %server, server.version = version, "the controller said hello");
            return;
        }
        ToProxy::Status => return link.send(FromProxy::Status(shared.status())),
        ToProxy::Table { generation, apps } => (generation, Change::Table(apps), true),
        ToProxy::App { generation, route } => (generation, Change::App(route), false),
        ToProxy::Forget { generation, app } => (generation, Change::Forget(app), false),
    };
    let applied = || link.send(FromProxy::Applied { generation });
    match apply::change(shared, generation, change, applied) {
        Ok(()) if is_table => {
            link.ready.store(true, SeqCst);
            apply::tell_all(shared);
        }
        Ok(()) => {}
        Err(Stale { current }) => {
            tracing::warn!(generation, current, "a change was refused: it is not newer");
            link.send(FromProxy::Refused { generation, current });
        }
    }
}

async fn write(mut events: mpsc::Receiver<FromProxy>, writer: OwnedWriteHalf) -> End {
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
