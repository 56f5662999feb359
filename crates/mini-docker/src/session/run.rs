//! One-offs: instances whose streams are held from before their start.

use http::Method;
use mini_core::ports::{
    Instance, InstanceSpec, Items, RuntimeResult, Session, SessionInput, TerminalSize,
};
use serde_json::Value;

use super::{DETACH_KEYS, Exit, Process, session};
use crate::engine::Docker;
use crate::raw::Query;

impl Docker {
    pub(crate) async fn run_attached(
        &self,
        spec: InstanceSpec,
        terminal: Option<TerminalSize>,
        input: Items<SessionInput>,
    ) -> RuntimeResult<(Instance, Session)> {
        let (what, container) = self.create_held(&spec, terminal).await?;
        let held = async {
            let target = Query::new(&["containers", &container, "attach"])
                .with("stream", "1")
                .with("stdin", "1")
                .with("stdout", "1")
                .with("stderr", "1")
                .with("detachKeys", DETACH_KEYS);
            // Before the start, so that not a byte is lost.
            let hijacked = self.hijack(&what, target.target(), None).await?;
            self.start_container(&what, &container).await?;
            Ok((hijacked, self.look_after_start(&what, &container).await?))
        };
        match held.await {
            Ok((hijacked, instance)) => {
                let process = OneOff { docker: self.clone(), what: what.clone(), container };
                Ok((instance, session(what, process, hijacked, (terminal, input))))
            }
            Err(error) => {
                // Nobody holds its streams: it is of no use, whether it started or not.
                self.clean_up(&what, &spec.id, &container).await;
                Err(error)
            }
        }
    }
}

struct OneOff {
    docker: Docker,
    what: String,
    container: String,
}

impl Process for OneOff {
    async fn resize(&self, size: TerminalSize) -> RuntimeResult<()> {
        let query = Query::new(&["containers", &self.container, "resize"])
            .with("h", &size.rows.to_string())
            .with("w", &size.columns.to_string());
        super::resize(&self.docker, &self.what, query.target()).await
    }

    async fn exit(&self) -> RuntimeResult<Exit> {
        let query =
            Query::new(&["containers", &self.container, "wait"]).with("condition", "not-running");
        // It may have closed its output and run on for as long as it likes.
        let raw = &self.docker.inner.raw;
        let ended = raw.document(&self.what, Method::POST, query.target(), None).await?;
        let code = ended.get("StatusCode").and_then(Value::as_i64).unwrap_or(-1);
        Ok(Exit { code, started: true })
    }

    fn abandoned(&self) {}
}
