//! A proxy of the benchmark's own, for a controller whose instances are no real ones: it finds every
//! target healthy and idle at once, and notes when a whole table came.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use futures_util::{SinkExt, StreamExt};
use mini_core::control::{FromProxy, MAX_LINE, ToProxy, Verdict};
use mini_core::id::InstanceId;
use mini_core::route::{AppRoute, Role};
use mini_core::time::Millis;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::{Framed, LinesCodec};

#[derive(Default)]
struct State {
    generation: u64,
    /// What requests would be sent to, by app.
    serving: std::collections::BTreeMap<String, Vec<(InstanceId, Millis)>>,
    /// When the last whole table came, and how many apps were in it.
    table: Option<(Instant, usize)>,
}

#[derive(Clone, Default)]
pub(crate) struct FakeProxy(Arc<Mutex<State>>);

impl FakeProxy {
    /// Listens until the runtime ends.
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        let fake = Self::default();
        let listener = UnixListener::bind(path)?;
        let this = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move { this.converse(stream).await });
            }
        });
        Ok(fake)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets that a table came.
    pub(crate) fn forget_table(&self) {
        self.state().table = None;
    }

    pub(crate) fn table(&self) -> Option<(Instant, usize)> {
        self.state().table
    }

    async fn converse(&self, stream: UnixStream) {
        let mut lines = Framed::new(stream, LinesCodec::new_with_max_length(MAX_LINE));
        let hello = {
            let state = self.state();
            FromProxy::Hello {
                version: "bench".into(),
                generation: state.generation,
                durable: state.generation,
                boot_id: "boot".into(),
                pid: 1,
                serving: state.serving.values().flatten().cloned().collect(),
            }
        };
        let mut out = vec![hello];
        loop {
            for document in out.drain(..) {
                let Ok(line) = serde_json::to_string(&document) else { return };
                if lines.send(line).await.is_err() {
                    return;
                }
            }
            let Some(Ok(line)) = lines.next().await else { return };
            let Ok(document) = serde_json::from_str(&line) else { return };
            out = self.take(document);
        }
    }

    fn take(&self, document: ToProxy) -> Vec<FromProxy> {
        let mut state = self.state();
        let (generation, routes) = match document {
            ToProxy::Table { generation, apps } => {
                state.table = Some((Instant::now(), apps.len()));
                state.serving.clear();
                (generation, apps)
            }
            ToProxy::App { generation, route } => (generation, vec![route]),
            ToProxy::Forget { generation, .. } => (generation, Vec::new()),
            ToProxy::Hello { .. }
            | ToProxy::Status
            | ToProxy::Certificates { .. }
            | ToProxy::Challenges { .. }
            | ToProxy::Succeed { .. }
            | ToProxy::Ready
            | ToProxy::FollowRequests
            | ToProxy::Kept
            | ToProxy::Metrics => return Vec::new(),
        };
        state.generation = generation;
        let mut said = vec![FromProxy::Applied { generation }, FromProxy::Durable { generation }];
        for AppRoute { app, targets, .. } in routes {
            let mut serving = Vec::new();
            for target in targets {
                let (instance, started) = (target.instance, target.started);
                if target.role == Role::Serve {
                    serving.push((instance.clone(), started));
                }
                said.push(match target.role {
                    Role::Drain => FromProxy::Drained { instance },
                    _ => FromProxy::Health { instance, started, verdict: Verdict::Healthy },
                });
            }
            state.serving.insert(app.to_string(), serving);
        }
        said
    }
}
