//! `mini.toml` at the root of a source: what has no other conventional place.
//!
//! The CLI's own keys (`app`, `server`) stand in the same file and say nothing here.

use mini_core::release::{HealthSpec, Strategy, Timing};
use serde::Deserialize;

use super::http::Http;

/// What the file says of how the app is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    health: Health,
    #[serde(default)]
    timing: Seconds,
    #[serde(default)]
    deploy: Deploy,
    #[serde(default)]
    http: Http,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    strategy: Option<Strategy>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Health {
    path: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seconds {
    boot_timeout_s: Option<u64>,
    drain_s: Option<u64>,
    grace_s: Option<u64>,
    release_s: Option<u64>,
}

/// Longest drain (DESIGN, promise 1); the others have the same bound.
const LONGEST_S: u64 = 3600;

impl Manifest {
    /// Reads the file's text; the error is for the user.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if let Some(path) = &manifest.health.path
            && (!path.starts_with('/')
                || path.len() > 1000
                || !path.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(format!("[health] path is {path:?}; it is a path such as /up"));
        }
        let Seconds { boot_timeout_s, drain_s, grace_s, release_s } = &manifest.timing;
        let given = [
            ("boot_timeout_s", boot_timeout_s),
            ("drain_s", drain_s),
            ("grace_s", grace_s),
            ("release_s", release_s),
        ];
        match given.iter().find(|(_, s)| s.is_some_and(|s| s == 0 || s > LONGEST_S)) {
            Some((name, _)) => Err(format!("[timing] {name} is not from 1 to {LONGEST_S} seconds")),
            None => manifest.http.check(text).map(|()| manifest),
        }
    }

    /// How the front door treats requests.
    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn health(&self) -> HealthSpec {
        HealthSpec { path: self.health.path.clone(), check: None }
    }

    pub(super) fn strategy(&self) -> Option<Strategy> {
        self.deploy.strategy
    }

    /// The server's timing, with what the file says in its place.
    pub(super) fn timing(&self, server: &Timing) -> Timing {
        let or = |seconds: Option<u64>, ms: u64| seconds.map_or(ms, |s| s * 1000);
        Timing {
            boot_timeout_ms: or(self.timing.boot_timeout_s, server.boot_timeout_ms),
            drain_ms: or(self.timing.drain_s, server.drain_ms),
            grace_ms: or(self.timing.grace_s, server.grace_ms),
            release_ms: or(self.timing.release_s, server.release_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_is_taken_and_the_rest_is_the_servers() {
        let manifest =
            Manifest::parse("app = \"blue\"\n[health]\npath = \"/up\"\n[timing]\ndrain_s = 5\n")
                .unwrap();
        assert_eq!(manifest.health().path.as_deref(), Some("/up"));
        let timing = manifest.timing(&Timing::default());
        assert_eq!((timing.drain_ms, timing.grace_ms), (5000, 30_000));
        assert_eq!(Manifest::parse("").unwrap(), Manifest::default());
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| Manifest::parse(text).unwrap_err();
        assert!(error("[health]\npath = \"up\"").contains("such as /up"));
        assert!(error("[health]\npaht = \"/up\"").contains("paht"));
        assert!(error("[timing]\ndrain_s = 0").contains("drain_s"));
        assert!(error("[timing").contains("line 1"));
        assert!(error("[deploy]\nstrategy = \"blue\"").contains("`rolling` or `recreate`"));
    }
}
