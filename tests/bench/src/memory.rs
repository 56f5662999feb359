//! What the platform itself holds in memory when nothing happens.

use std::time::Duration;

use anyhow::Result;

use crate::output::{self, Row};
use crate::platform::Platform;
use crate::{APP, machine, megabytes};

const GOAL: u64 = 40_000_000;
/// How long nobody asks anything before the look.
const QUIET: Duration = Duration::from_secs(60);
const APPS: usize = 100;

/// With one app and with a hundred in the store.
pub(crate) async fn measure(platform: &Platform) -> Result<Vec<Row>> {
    let one = look(platform, "memory, 1 app").await?;
    for n in 1..APPS {
        platform.create_app(&format!("{APP}-{n}")).await?;
    }
    Ok(vec![one, look(platform, &format!("memory, {APPS} apps in the store")).await?])
}

async fn look(platform: &Platform, what: &str) -> Result<Row> {
    output::say(&format!("{what}: after {} s without a request", QUIET.as_secs()));
    tokio::time::sleep(QUIET).await;
    let mut all = 0;
    let mut parts = Vec::new();
    for (pid, name) in platform.processes()? {
        let pss = machine::pss(pid)?;
        all += pss;
        parts.push(format!("{name} {}", megabytes(pss)));
    }
    Ok(Row {
        what: what.into(),
        measured: megabytes(all),
        beside: format!(
            "Pss of minid's processes, {} s after the last request: {}",
            QUIET.as_secs(),
            parts.join(", ")
        ),
        goal: format!("<= {}", megabytes(GOAL)),
        met: all <= GOAL,
    })
}
