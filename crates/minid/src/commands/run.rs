//! `minid run`: the parent of both processes, for a laptop, a container or a first try.

use std::process::ExitCode;
use std::time::Duration;

use super::StopSignals;
use super::proxy::bind_all;
use crate::health;
use crate::output::{self, Fault};
use crate::settings::Settings;
use crate::supervise::Supervised;

/// How long the ready line may take before its absence is said.
const READY_WITHIN: Duration = Duration::from_secs(30);

pub(crate) async fn run(settings: Settings) -> Result<ExitCode, Fault> {
    let mut signals = StopSignals::new()?;
    let listeners = bind_all(&settings)?;
    super::make_data_folder(&settings)?;
    let environment = settings.as_environment();
    let drain = Duration::from_millis(settings.timing.drain_ms);
    let mut proxy = Supervised::new("proxy", environment.clone(), listeners);
    let mut controller = Supervised::new("controller", environment, Vec::new());
    let started =
        |error: std::io::Error| Fault::new(format!("a child could not be started: {error}"));
    proxy.start().map_err(started)?;
    controller.start().map_err(started)?;
    {
        let announce = announce(&settings);
        tokio::pin!(announce);
        let mut announced = false;
        let keep_both = async { tokio::join!(proxy.keep_going(), controller.keep_going()) };
        tokio::pin!(keep_both);
        loop {
            tokio::select! {
                () = signals.any() => break,
                () = &mut announce, if !announced => announced = true,
                _ = &mut keep_both => {}
            }
        }
    }
    tracing::info!("stopping; apps keep running");
    // In this order: nothing changes any more, then the last requests finish.
    controller.stop(Duration::from_secs(10)).await;
    proxy.stop(drain + Duration::from_secs(5)).await;
    Ok(ExitCode::SUCCESS)
}

/// Says that it serves when it serves: the door answers through the proxy.
async fn announce(settings: &Settings) {
    let Some(address) = settings.http_listen.first() else { return };
    let mut reach = *address;
    if reach.ip().is_unspecified() {
        let loopback: std::net::IpAddr = if reach.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        reach.set_ip(loopback);
    }
    let begun = tokio::time::Instant::now();
    let mut warned = false;
    while health::over_tcp(reach).await.is_none() {
        if begun.elapsed() > READY_WITHIN && !warned {
            warned = true;
            tracing::error!("the front door does not answer yet; `minid doctor` may say why");
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let domains: Vec<&str> = settings.domains.iter().map(|d| d.as_str()).collect();
    output::line(&format!("ready http={address} domain={}", domains.join(",")));
}
