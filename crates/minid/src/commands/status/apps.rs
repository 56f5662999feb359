//! The apps that should serve, and whether anything of them does: by the engine and by a
//! connection to each instance, so that it is known also while controller and proxy are dead.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use mini_controller::{Glance, WantedApp};
use mini_core::name::ProcessType;
use mini_core::ports::{Instance, InstanceState};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{AppDown, Apps};

/// How long a connection to an instance may take.
const CONNECT: Duration = Duration::from_secs(1);

/// `observed` is every instance of this server; `None` is unknown.
pub(super) async fn look(glance: &Glance, observed: Option<&[Instance]>) -> Apps {
    let mut apps = Apps { all: glance.apps, wanted: glance.wanted.len(), ..Apps::default() };
    let Some(observed) = observed else {
        apps.unknown = apps.wanted;
        return apps;
    };
    let accepts = accepting(observed).await;
    for app in &glance.wanted {
        let of_app = |i: &&Instance| i.app == app.name && i.one_off.is_none();
        let own: Vec<&Instance> = observed.iter().filter(of_app).collect();
        if let Some(why) = why_down(app, &own, &accepts) {
            apps.down.push(AppDown { app: app.name.to_string(), why });
        }
    }
    apps
}

/// Where each running instance with HTTP is, and whether it takes connections there.
async fn accepting(observed: &[Instance]) -> HashMap<SocketAddr, bool> {
    let mut tries = JoinSet::new();
    for instance in observed.iter().filter(|i| i.state.is_running()) {
        if let Some(address) = address(instance) {
            tries.spawn(async move {
                let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
                (address, matches!(connected, Ok(Ok(_))))
            });
        }
    }
    tries.join_all().await.into_iter().collect()
}

fn address(instance: &Instance) -> Option<SocketAddr> {
    Some((instance.address?, instance.port?).into())
}

/// Why nothing of the app serves (or, where it has no `web`, runs); `None` if something does.
fn why_down(
    app: &WantedApp,
    own: &[&Instance],
    accepts: &HashMap<SocketAddr, bool>,
) -> Option<String> {
    let web = ProcessType::web();
    let has_web = app.processes.iter().any(|(process, _)| *process == web);
    let counts = |i: &&&Instance| !has_web || i.process.is_web();
    let serves = |i: &&Instance| {
        i.state.is_running() && address(i).is_none_or(|at| accepts.get(&at) == Some(&true))
    };
    if own.iter().filter(counts).any(serves) {
        return None;
    }
    let mut live: Vec<&&Instance> =
        own.iter().filter(counts).filter(|i| i.rollout == app.rollout).collect();
    live.sort_by_key(|i| i.ordinal);
    Some(match live.first() {
        Some(first) => words(first),
        None => "no instance of its release is there".to_owned(),
    })
}

fn words(instance: &Instance) -> String {
    let label = instance.label();
    match instance.state {
        InstanceState::Running { .. } => match address(instance) {
            Some(at) => format!("{label} runs, and does not accept connections at {at}"),
            None => format!("{label} runs, and has no address"),
        },
        InstanceState::Exited { code, oom, at } => {
            let why = if oom && code == 137 { ", out of memory" } else { "" };
            let now = Timestamp::now().as_millisecond().max(0) as u64;
            let ago = now.saturating_sub(at.0) / 1000;
            format!("{label} exited with status {code}{why}, {} ago", super::words::time(ago))
        }
        InstanceState::Paused { .. } => format!("{label} is paused"),
        InstanceState::Created => format!("{label} was made and not started"),
        InstanceState::Dead => format!("{label} is being removed"),
    }
}

#[cfg(test)]
mod tests {
    use mini_core::time::Millis;

    use super::*;

    fn instance(process: &str, rollout: &str, state: InstanceState) -> Instance {
        Instance {
            id: format!("{process}{rollout}").parse().unwrap(),
            app: "blue".parse().unwrap(),
            rollout: rollout.parse().unwrap(),
            release: 1,
            process: process.parse().unwrap(),
            ordinal: 1,
            address: (process == "web").then(|| [10, 0, 0, 2].into()),
            port: (process == "web").then_some(80),
            alone: false,
            one_off: None,
            state,
        }
    }

    #[test]
    fn an_app_is_down_when_nothing_of_it_serves() {
        let web = |count| vec![("web".parse().unwrap(), count), ("clock".parse().unwrap(), 1)];
        let app = WantedApp {
            name: "blue".parse().unwrap(),
            rollout: "d2".parse().unwrap(),
            processes: web(1),
        };
        let running = InstanceState::Running { since: Millis(1) };
        let exited = InstanceState::Exited { code: 137, oom: true, at: Millis(0) };
        let address: SocketAddr = ([10, 0, 0, 2], 80).into();
        let down = |own: &[Instance], accepts: bool| {
            let own: Vec<&Instance> = own.iter().collect();
            why_down(&app, &own, &[(address, accepts)].into())
        };
        assert_eq!(down(&[instance("web", "d2", running)], true), None);
        // An older one that stands in serves as well.
        let both = [instance("web", "d2", exited), instance("web", "d1", running)];
        assert_eq!(down(&both, true), None);
        let why = down(&both, false).unwrap();
        assert!(why.starts_with("web.1 exited with status 137, out of memory"), "{why}");
        let why = down(&[instance("web", "d2", running)], false).unwrap();
        assert!(why.contains("does not accept connections at 10.0.0.2:80"), "{why}");
        let why = down(&[instance("clock", "d2", running)], true).unwrap();
        assert_eq!(why, "no instance of its release is there", "a worker serves nobody");
    }
}
