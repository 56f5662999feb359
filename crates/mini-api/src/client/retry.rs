//! How long a client waits for a server that went away: CONTRACTS, "CLI".
//!
//! GET, and POST with an idempotency key, are repeated over lost connections and 503. The first
//! connection that a client opens must work at once: a wrong address is not worth 30 s.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::Client;
use super::error::ClientError;
use super::transport::Call;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A server that is away, from the first failure on.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    since: Option<Instant>,
    tries: u32,
}

impl Outage {
    pub(crate) fn over(&mut self) {
        *self = Self::default();
    }

    /// Waits before the next try, or hands `error` back if there should be none.
    pub(crate) async fn wait(
        &mut self,
        client: &Client,
        error: ClientError,
    ) -> Result<(), ClientError> {
        let inner = &client.inner;
        let since = *self.since.get_or_insert_with(Instant::now);
        if !error.may_pass()
            || (error.is_unsent() && !client.was_contacted())
            || since.elapsed() >= inner.timing.patience
        {
            return Err(error);
        }
        if self.tries == 0
            && let Some(tell) = &inner.on_wait
        {
            tell(&error);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.tries.min(8)).min(LONGEST_PAUSE);
        self.tries += 1;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Client {
    /// A call with its answer read, repeated where that is safe.
    pub(crate) async fn document(&self, call: &Call) -> Result<Bytes, ClientError> {
        let repeatable = call.method == Method::GET || call.key.is_some();
        let mut outage = Outage::default();
        loop {
            match self.try_document(call).await {
                Ok(document) => return Ok(document),
                Err(e) if repeatable || e.is_unsent() => outage.wait(self, e).await?,
                Err(e) => return Err(e),
            }
        }
    }
}
