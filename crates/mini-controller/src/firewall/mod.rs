//! The firewall between apps and everything else on the machine: kept true while the controller
//! runs, and left in place when it ends, since apps run on.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::core::Core;

mod rules;
mod tool;

pub use rules::FirewallRules;
pub use tool::FirewallLook;
use tool::Tool;

/// How often it is looked at, beside every return of the engine.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// What the firewall of one server is, whether a controller runs or not.
#[derive(Debug, Clone)]
pub struct Firewall {
    rules: FirewallRules,
}

impl Firewall {
    pub fn new(rules: FirewallRules) -> Self {
        Self { rules }
    }

    /// What is there.
    ///
    /// # Errors
    /// Why it cannot be told: no tool, no right.
    pub async fn look(&self) -> Result<FirewallLook, String> {
        Tool::find()?.look(&self.rules).await
    }

    /// Takes it away; absent is done.
    ///
    /// # Errors
    /// Why it is still there: no tool, no right.
    pub async fn remove(&self) -> Result<(), String> {
        Tool::find()?.remove(&self.rules).await
    }

    /// Loads it, and answers with what then is there, and by which tool.
    async fn load(&self, dns: &[IpAddr]) -> Result<(String, &'static str), String> {
        let tool = Tool::find()?;
        tool.load(&self.rules, dns).await?;
        match tool.look(&self.rules).await? {
            FirewallLook::There(text) => Ok((text, tool.name())),
            FirewallLook::Missing => Err(format!("{} lost it at once", tool.name())),
        }
    }
}

/// What the controller knows of it.
#[derive(Default)]
pub(crate) struct Kept {
    /// What was there when it was loaded, and for which resolvers.
    loaded: Mutex<Option<(String, Vec<IpAddr>)>>,
    trouble: Mutex<Option<String>>,
    look: Notify,
}

impl Kept {
    /// The engine may have written its own rules anew.
    pub(crate) fn look_soon(&self) {
        self.look.notify_one();
    }

    /// Why apps are not held, if they should be.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Keeps it as it should be. Ends with the process.
pub(crate) async fn keep(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = core.firewall.look.notified() => {}
        }
        make_true(&core).await;
    }
}

/// One look, and the repair if one is due.
pub(crate) async fn make_true(core: &Core) {
    let Some(rules) = &core.config.firewall else { return };
    let kept = &core.firewall;
    let result = repair(kept, &Firewall::new(rules.clone())).await;
    let mut trouble = kept.trouble.lock().unwrap_or_else(PoisonError::into_inner);
    match result {
        Ok(()) => {
            if trouble.take().is_some() {
                tracing::info!("the firewall is in place");
            }
        }
        Err(why) => {
            if trouble.as_ref() != Some(&why) {
                tracing::error!(
                    %why,
                    "the firewall is not in place: apps reach services of this machine"
                );
            }
            *trouble = Some(why);
        }
    }
}

async fn repair(kept: &Kept, firewall: &Firewall) -> Result<(), String> {
    let conf = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let dns = rules::resolvers(&conf);
    let before = kept.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((text, of)) = &before {
        let there = firewall.look().await?;
        if there == FirewallLook::There(text.clone()) && *of == dns {
            return Ok(());
        }
        let what = match there {
            FirewallLook::Missing => "was removed",
            FirewallLook::There(now) if now != *text => "was changed",
            FirewallLook::There(_) => "names resolvers that have changed",
        };
        tracing::warn!("the firewall {what}: it is loaded anew");
    }
    let (text, tool) = firewall.load(&dns).await?;
    if before.is_none() {
        tracing::info!(tool, "apps are held by the firewall");
    }
    *kept.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some((text, dns));
    Ok(())
}
