//! Listening sockets from the service manager: `LISTEN_FDS`, as sd_listen_fds(3) has it.
//!
//! `LISTEN_FDNAMES` says what each is for: `http` or `https` (`FileDescriptorName=` in a socket
//! unit). Without names all are `http`.

use std::net::TcpListener;

use listenfd::ListenFd;
use rustix::net::sockopt::socket_acceptconn;

use crate::handover::Listeners;
use crate::output::Fault;

/// What children must not find in their environment: it is about this process alone.
pub(crate) const VARIABLES: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The listeners that this process was started with; empty if it was started in another way.
///
/// To be called once and before any thread is started, since it takes the variables out of the
/// environment.
pub(crate) fn listeners() -> Result<Listeners, Fault> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut given = ListenFd::from_env();
    let names: Vec<&str> = names.split(':').filter(|_| !names.is_empty()).collect();
    let mut listeners = Listeners::default();
    for at in 0..given.len() {
        let those = match names.get(at) {
            Some(&"http") => &mut listeners.http,
            Some(&"https") => &mut listeners.https,
            Some(name) => return Err(unknown_name(name)),
            None if names.is_empty() => &mut listeners.http,
            None => return Err(unusable(at, "LISTEN_FDNAMES has no name for it")),
        };
        match given.take_tcp_listener(at) {
            Ok(Some(listener)) => those.push(usable(at, listener)?),
            Ok(None) => return Err(unusable(at, "it is not there")),
            Err(error) => return Err(unusable(at, &error.to_string())),
        }
    }
    Ok(listeners)
}

fn usable(at: usize, listener: TcpListener) -> Result<TcpListener, Fault> {
    match socket_acceptconn(&listener) {
        Ok(true) => Ok(listener),
        Ok(false) => Err(unusable(at, "it does not listen (ListenStream= makes one that does)")),
        Err(error) => Err(unusable(at, &error.to_string())),
    }
}

fn unknown_name(name: &str) -> Fault {
    Fault::new(format!("a socket from the service manager is named {name:?}"))
        .hint("say FileDescriptorName=http or https in the socket unit")
}

fn unusable(at: usize, why: &str) -> Fault {
    // The first one is always descriptor 3.
    Fault::new(format!(
        "socket {} from the service manager (descriptor {}) cannot be used: {why}",
        at + 1,
        at + 3
    ))
    .hint("look at the socket unit, or start it without one and with --http-listen")
}
