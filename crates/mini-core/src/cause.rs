//! Why a rollout failed, in words that say what to do (promise 6).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ports::{InstanceState, Listening};

/// A named cause of failure. `code` is stable, the texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
    /// The last lines the instance wrote, oldest first.
    #[serde(default)]
    pub log_tail: Vec<String>,
}

impl Cause {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), hint: None, log_tail: Vec::new() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What was found about an instance that did not become healthy.
pub struct Findings<'a> {
    /// `web.1`
    pub instance: &'a str,
    pub state: InstanceState,
    pub port: Option<u16>,
    pub listening: &'a Listening,
    /// The last thing a probe said, such as `GET /up answered 500`.
    pub probe: Option<&'a str>,
    /// What the image's HEALTHCHECK said when it last failed, if it does not pass.
    pub check: Option<&'a str>,
    pub waited_ms: u64,
    pub memory_bytes: Option<u64>,
}

/// The cause that fits the findings best.
pub fn diagnose(f: &Findings<'_>) -> Cause {
    match f.state {
        // OOMKilled alone may be about a child: only with SIGKILL did the app die of it.
        InstanceState::Exited { code: 137, oom: true, .. } => {
            let limit = f.memory_bytes.map_or(String::new(), |b| format!(" of {}", size(b)));
            return Cause::new("out_of_memory", format!("{} ran out of memory{limit}", f.instance))
                .hint("make it use less, or give it more memory");
        }
        InstanceState::Exited { code, .. } => return exited(f.instance, code),
        _ => {}
    }
    let seconds = f.waited_ms.div_ceil(1000);
    let Some(port) = f.port else {
        return f.check.map_or_else(
            || Cause::new("not_up", format!("{} did not come up", f.instance)),
            |said| check_failed(f.instance, said, seconds),
        );
    };
    if let Listening::At(addrs) = f.listening {
        let on_port: Vec<&SocketAddr> = addrs.iter().filter(|a| a.port() == port).collect();
        if on_port.is_empty() {
            return elsewhere(f.instance, port, addrs, seconds);
        }
        if on_port.iter().all(|a| a.ip().is_loopback()) {
            return Cause::new(
                "bound_to_loopback",
                format!(
                    "{} listens on {} only, which is reachable from nowhere outside its container",
                    f.instance, on_port[0]
                ),
            )
            .hint(format!("bind to 0.0.0.0:{port} (for many frameworks: HOST=0.0.0.0)"));
        }
    }
    if let (Some(said), None) = (f.check, f.probe) {
        return check_failed(f.instance, said, seconds);
    }
    let last = f.probe.map_or(String::new(), |p| format!("; the last try: {p}"));
    Cause::new("unhealthy", format!("{} was not healthy within {seconds} s{last}", f.instance))
        .hint("see its log above; a slow start can be given more time")
}

/// `exited with code 137 (SIGKILL)`
pub fn exit_words(code: i64) -> String {
    format!("exited with code {code}{}", signal(code))
}

fn check_failed(instance: &str, said: &str, seconds: u64) -> Cause {
    Cause::new(
        "healthcheck_failed",
        format!("the image's HEALTHCHECK did not pass in {instance} within {seconds} s: {said}"),
    )
    .hint(
        "`mini exec` runs the same command in an instance; `[health] path` in mini.toml replaces it",
    )
}

fn exited(instance: &str, code: i64) -> Cause {
    let cause = Cause::new("exited", format!("{instance} {}", exit_words(code)));
    match code {
        0 => cause.hint("a web process must keep running; is this the right command?"),
        126 | 127 => cause.hint("the command was not found in the image or may not be executed"),
        _ => cause.hint("the reason should be in its last log lines"),
    }
}

fn signal(code: i64) -> &'static str {
    match code {
        132 => " (SIGILL)",
        134 => " (SIGABRT)",
        135 => " (SIGBUS)",
        137 => " (SIGKILL)",
        139 => " (SIGSEGV)",
        143 => " (SIGTERM)",
        _ => "",
    }
}

fn elsewhere(instance: &str, port: u16, addrs: &[SocketAddr], seconds: u64) -> Cause {
    let mut ports: Vec<u16> = addrs.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        return Cause::new(
            "not_listening",
            format!("{instance} runs, but listens on no TCP port after {seconds} s"),
        )
        .hint(format!("listen on 0.0.0.0:$PORT (PORT is {port})"));
    }
    let found: Vec<String> = ports.iter().map(u16::to_string).collect();
    let found = found.join(", ");
    Cause::new("wrong_port", format!("{instance} listens on port {found}, not on {port}")).hint(
        format!(
            "listen on $PORT (which is {port}), or say EXPOSE {} in the Dockerfile, or set PORT={}",
            ports[0], ports[0]
        ),
    )
}

/// Bytes for people: `512 MB` (decimal units, like the engine's own client).
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Millis;

    fn cause(state: InstanceState, listening: &[&str]) -> Cause {
        let addrs = listening.iter().map(|a| a.parse().unwrap()).collect();
        diagnose(&Findings {
            instance: "web.1",
            state,
            port: Some(8080),
            listening: &Listening::At(addrs),
            probe: Some("GET /up answered 500"),
            check: None,
            waited_ms: 60_000,
            memory_bytes: Some(64_000_000),
        })
    }

    #[test]
    fn each_cause_has_its_own_message() {
        let running = InstanceState::Running { since: Millis(0) };
        let exited = |code, oom| InstanceState::Exited { code, oom, at: Millis(0) };
        let cases = [
            (cause(exited(1, false), &[]), "exited", "web.1 exited with code 1"),
            (cause(exited(0, true), &[]), "exited", "web.1 exited with code 0"),
            (cause(exited(137, false), &[]), "exited", "web.1 exited with code 137 (SIGKILL)"),
            (cause(exited(137, true), &[]), "out_of_memory", "web.1 ran out of memory of 64 MB"),
            (
                cause(running, &[]),
                "not_listening",
                "web.1 runs, but listens on no TCP port after 60 s",
            ),
            (
                cause(running, &["0.0.0.0:3000"]),
                "wrong_port",
                "web.1 listens on port 3000, not on 8080",
            ),
            (
                cause(running, &["127.0.0.1:8080"]),
                "bound_to_loopback",
                "web.1 listens on 127.0.0.1:8080 only, which is reachable from nowhere outside its container",
            ),
            (
                cause(running, &["[::]:8080"]),
                "unhealthy",
                "web.1 was not healthy within 60 s; the last try: GET /up answered 500",
            ),
        ];
        for (cause, code, message) in cases {
            assert_eq!((cause.code.as_str(), cause.message.as_str()), (code, message));
            assert!(cause.hint.is_some(), "{code} has no hint");
        }
    }

    #[test]
    fn a_check_that_fails_is_named_where_nothing_else_is_wrong() {
        let cause = |port, listening: &[&str], probe| {
            let addrs = listening.iter().map(|a| a.parse().unwrap()).collect();
            diagnose(&Findings {
                instance: "web.1",
                state: InstanceState::Running { since: Millis(0) },
                port,
                listening: &Listening::At(addrs),
                probe,
                check: Some("exit code 1: no database"),
                waited_ms: 60_000,
                memory_bytes: None,
            })
        };
        let failed = cause(Some(8080), &["0.0.0.0:8080"], None);
        assert_eq!(failed.code, "healthcheck_failed");
        let words =
            "the image's HEALTHCHECK did not pass in web.1 within 60 s: exit code 1: no database";
        assert_eq!(failed.message, words);
        assert_eq!(cause(None, &[], None).code, "healthcheck_failed", "without HTTP too");
        assert_eq!(cause(Some(8080), &[], Some("refused")).code, "not_listening");
    }

    #[test]
    fn sizes_read_well() {
        let all = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (38_400, "38 kB"),
            (999_600, "1.0 MB"),
            (2_500_000_000, "2.5 GB"),
        ];
        for (bytes, text) in all {
            assert_eq!(size(bytes), text);
        }
    }
}
