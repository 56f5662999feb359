//! `minid firewall`: what keeps apps from the rest of the machine, seen and taken away.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Subcommand;
use mini_controller::{Firewall, FirewallLook, FirewallRules};
use mini_core::id::ServerId;

use crate::health;
use crate::output::{self, Fault};
use crate::settings::{Flags, Settings};

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Print the rules that are in place; ends with 1 if there are none
    Show(Flags),
    /// Take them away, when the platform is uninstalled
    Remove(Flags),
}

pub(crate) async fn run(verb: Verb) -> Result<ExitCode, Fault> {
    match verb {
        Verb::Show(flags) => show(&flags.resolve()?).await,
        Verb::Remove(flags) => remove(&flags.resolve()?).await,
    }
}

/// What the firewall of this server says. Ports on loopback stand in it too: no container can
/// reach those, and where the proxy listens next may be another address.
pub(crate) fn rules(settings: &Settings, server: &ServerId) -> FirewallRules {
    let listeners = settings.http_listen.iter().chain(&settings.https_listen);
    FirewallRules {
        server: server.to_string(),
        bridges: mini_docker::bridge_prefix(server),
        ports: listeners.map(SocketAddr::port).filter(|port| *port != 0).collect(),
        builds: settings.dedicated(),
    }
}

/// The server of the data folder, whether it runs or not; none: there is none yet.
pub(crate) async fn server(settings: &Settings) -> Option<ServerId> {
    let folder = settings.data_dir.clone();
    let glance = tokio::task::spawn_blocking(move || mini_controller::glance(&folder)).await;
    glance.ok()?.ok()?.server?.parse().ok()
}

async fn of(settings: &Settings) -> Result<Firewall, Fault> {
    let Some(server) = server(settings).await else {
        let message = format!("no server's data can be read in {}", settings.data_dir.display());
        return Err(Fault::new(message).hint("name the server's folder with --data-dir, as root"));
    };
    Ok(Firewall::new(rules(settings, &server)))
}

fn failed(what: &str, why: &str) -> Fault {
    Fault::new(format!("{what}: {why}")).hint("it takes root, and nftables or iptables")
}

async fn show(settings: &Settings) -> Result<ExitCode, Fault> {
    match of(settings).await?.look().await {
        Ok(FirewallLook::There(text)) => {
            output::line(text.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Ok(FirewallLook::Missing) => Err(Fault::new("there are no rules of this server")
            .hint("the controller makes them when it starts as root without --firewall off")),
        Err(why) => Err(failed("the firewall cannot be looked at", &why)),
    }
}

async fn remove(settings: &Settings) -> Result<ExitCode, Fault> {
    let firewall = of(settings).await?;
    if health::over_unix(&settings.sockets.live("admin.sock")).await.is_some() {
        return Err(Fault::new("the controller runs, and would put the firewall back")
            .hint("stop it first, or start it with --firewall off, which removes it"));
    }
    match firewall.remove().await {
        Ok(()) => {
            output::line("the firewall is removed");
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => Err(failed("the firewall could not be removed", &why)),
    }
}
