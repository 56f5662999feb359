//! A socket before the engine's, to be an engine that is older or that breaks down.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// The engine's own socket.
pub(crate) fn engine() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    PathBuf::from(host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock"))
}

/// Listens in a folder of its own and passes everything on, until told otherwise.
pub(crate) struct Detour {
    folder: tempfile::TempDir,
    cuts: watch::Sender<u32>,
    sessions: Arc<AtomicBool>,
}

impl Detour {
    pub(crate) async fn new() -> Detour {
        let folder = tempfile::tempdir().unwrap();
        let (cuts, _) = watch::channel(0);
        let detour = Detour { folder, cuts, sessions: Arc::new(AtomicBool::new(true)) };
        let listener = UnixListener::bind(detour.path()).unwrap();
        let (cuts, sessions) = (detour.cuts.clone(), detour.sessions.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (cut, sessions) = (cuts.subscribe(), sessions.clone());
                tokio::spawn(pass(stream, cut, sessions));
            }
        });
        detour
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// Answers 404 to `POST /session`, as an engine without BuildKit does.
    pub(crate) fn refuse_sessions(&self) {
        self.sessions.store(false, Ordering::Relaxed);
    }

    /// Closes every connection that there is.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }
}

async fn pass(mut client: UnixStream, mut cut: watch::Receiver<u32>, sessions: Arc<AtomicBool>) {
    let mut head = [0; 14];
    if client.read_exact(&mut head).await.is_err() {
        return;
    }
    if head.starts_with(b"POST /session") && !sessions.load(Ordering::Relaxed) {
        let refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = client.write_all(refusal).await;
        // Read on, or the close would take the answer with it.
        let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        return;
    }
    let mut engine = UnixStream::connect(engine()).await.unwrap();
    engine.write_all(&head).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut engine) => {}
        _ = cut.changed() => {}
    }
}
