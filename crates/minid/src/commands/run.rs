//! `minid run`: the parent of both processes, for a laptop, a container or a first try.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use super::proxy::own_listeners;
use super::{Reload, StopSignals};
use crate::handover::Listeners;
use crate::health;
use crate::notify;
use crate::output::{self, Fault};
use crate::settings::Settings;
use crate::supervise::{Launch, Supervised};
use crate::troubles;

/// How long the ready line may take before its absence is said.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn run(mut settings: Settings, given: Listeners) -> Result<ExitCode, Fault> {
    troubles::keep_in(&settings.data_dir, "run");
    let mut signals = StopSignals::new()?;
    let mut reload = Reload::new()?;
    let at_terminal = std::io::stderr().is_terminal();
    let listeners = own_listeners(&mut settings, given)?;
    super::make_folder(&settings.data_dir)?;
    let environment = settings.as_environment();
    // What a process that drains may take, and a little to end.
    let drain = Duration::from_millis(settings.timing.drain_ms) + Duration::from_secs(5);
    let started =
        |error: std::io::Error| Fault::new(format!("a child could not be started: {error}"));
    let child = |name, listeners| {
        Supervised::new(Launch { name, environment: environment.clone(), listeners })
    };
    let mut proxy = child("proxy", listeners).map_err(started)?;
    let mut controller = child("controller", Listeners::default()).map_err(started)?;
    proxy.start().map_err(started)?;
    controller.start().map_err(started)?;
    {
        let announce = announce(&settings);
        tokio::pin!(announce);
        let mut announced = false;
        loop {
            let keep_both = async { tokio::join!(proxy.keep_going(), controller.keep_going()) };
            tokio::select! {
                () = signals.any() => break,
                () = reload.asked() => {}
                () = &mut announce, if !announced => {
                    announced = true;
                    continue;
                }
                _ = keep_both => {}
            }
            // The terminal that it was started at was closed: nobody has asked for a reload.
            if at_terminal && !std::io::stderr().is_terminal() {
                break;
            }
            tracing::info!("reloading: a new proxy takes over");
            notify::reloading();
            tokio::select! {
                () = signals.any() => break,
                () = proxy.hand_over(drain) => {}
                () = controller.keep_going() => {}
            }
            notify::reloaded(None);
        }
    }
    tracing::info!("stopping; apps keep running");
    notify::stopping();
    // In this order: nothing changes any more, then the last requests finish.
    controller.stop(Duration::from_secs(10)).await;
    proxy.stop(drain).await;
    Ok(ExitCode::SUCCESS)
}

/// Says that it serves when it serves: the door answers through the proxy.
async fn announce(settings: &Settings) {
    let Some(address) = settings.http_listen.first() else { return };
    let begun = tokio::time::Instant::now();
    let mut warned = false;
    while health::over_tcp(*address, settings.proxy_protocol()).await.is_none() {
        if begun.elapsed() > READY_WITHIN && !warned {
            warned = true;
            tracing::error!("the front door does not answer yet; `minid doctor` may say why");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let domains: Vec<&str> = settings.domains.iter().map(|d| d.as_str()).collect();
    let mut ready = format!("ready http={address}");
    if let Some(https) = settings.https_listen.first() {
        ready.push_str(&format!(" https={https}"));
    }
    ready.push_str(&format!(" domain={}", domains.join(",")));
    let fingerprint = mini_proxy::fingerprint(&settings.tls_dir());
    if let Some(fingerprint) = fingerprint.filter(|_| !settings.https_listen.is_empty()) {
        ready.push_str(&format!(" fingerprint={fingerprint}"));
    }
    output::line(&ready);
    notify::ready();
}
