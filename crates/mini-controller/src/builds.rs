//! The limit on all builds together: put in place again while the controller runs, whoever took it away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mini_core::ports::LimitFound;

use crate::core::Core;

/// How often it is looked at, beside every build.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// What the controller knows of it.
#[derive(Default)]
pub(crate) struct Kept {
    /// It was in place before.
    held: Mutex<bool>,
    trouble: Mutex<Option<String>>,
}

impl Kept {
    /// Why builds are not held, if they should be.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps it as it should be. Ends with the process.
pub(crate) async fn keep(core: Arc<Core>) {
    loop {
        note(&core.builds, core.builder.keep_limit().await);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn note(kept: &Kept, found: Result<LimitFound, String>) {
    let mut held = kept.held.lock().unwrap_or_else(PoisonError::into_inner);
    let mut trouble = kept.trouble.lock().unwrap_or_else(PoisonError::into_inner);
    match found {
        Ok(LimitFound::NoLimit) => {}
        Ok(found) => {
            match std::mem::replace(&mut *held, true) {
                false => tracing::info!("all builds together are held to their limit"),
                true if found == LimitFound::Set => {
                    tracing::warn!("the limit on builds was changed or removed: it is set again");
                }
                true => {}
            }
            *trouble = None;
        }
        Err(why) => {
            *held = false;
            if trouble.as_ref() != Some(&why) {
                tracing::error!(%why, "builds are not held: they may take what apps need");
            }
            *trouble = Some(why);
        }
    }
}
