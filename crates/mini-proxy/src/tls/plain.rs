//! What becomes of a request by whether it came over TLS: each rule one function, which whatever
//! forwards requests calls. Nothing here waits.

use std::net::IpAddr;
use std::sync::Arc;

use mini_core::rules::Https;

use super::Tls;

/// Where a certificate authority looks (RFC 8555 section 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

impl Tls {
    /// The answer to a certificate authority's question over http, before anything is routed: also
    /// for a name that no app has. `host` is the Host header as it came.
    pub(crate) fn answer_to_challenge(&self, host: &str, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(CHALLENGES)?;
        let token = token.split_once('?').map_or(token, |(token, _)| token);
        let challenges = self.challenges.load();
        let tokens = challenges.http.get(&name_in(host))?;
        tokens.get(token).cloned()
    }

    /// Whether the door refuses (403 `https_required`): a token could be read on the way here, and
    /// there is a certificate that every client believes. Never a redirect, since the token would
    /// have been sent already.
    pub(crate) fn door_needs_https(&self, over_tls: bool, client: IpAddr) -> bool {
        !over_tls && !client.to_canonical().is_loopback() && self.certs.load().door_is_covered
    }

    /// Where an app's request over plain http is sent instead (308), if its rules want that and
    /// there is a certificate for the name, so that a client never ends at a warning.
    ///
    /// `name` is the host in lower case without port, `target` the path and query in two pieces.
    pub(crate) fn redirect(
        &self,
        rules: &Https,
        over_tls: bool,
        name: &str,
        target: [&str; 2],
        https_port: Option<u16>,
    ) -> Option<String> {
        let [slash, rest] = target;
        if over_tls || !rules.redirect || rest == "*" || !self.covers(name) {
            return None;
        }
        let port = match https_port? {
            443 => String::new(),
            port => format!(":{port}"),
        };
        Some(format!("https://{name}{port}{slash}{rest}"))
    }

    /// The line `Strict-Transport-Security` for an answer over TLS (RFC 6797 section 7.2: never over
    /// http), where the name has a certificate that clients believe.
    pub(crate) fn hsts(&self, rules: &Https, over_tls: bool, name: &str) -> Option<String> {
        let seconds = rules.hsts_s.filter(|_| over_tls)?;
        if !self.covers(name) {
            return None;
        }
        Some(format!("Strict-Transport-Security: max-age={seconds}\r\n"))
    }
}

/// A Host header without port, in lower case.
fn name_in(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(literal) => literal.split(']').next(),
        None => host.split(':').next(),
    };
    name.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mini_core::control::Challenge;

    use super::super::certs::tests::made;
    use super::*;

    fn tls() -> (tempfile::TempDir, Tls) {
        let folder = tempfile::tempdir().unwrap();
        let domains = vec!["apps.test".parse().unwrap()];
        let tls = Tls::open(folder.path().join("tls"), domains, Duration::from_secs(1)).unwrap();
        (folder, tls)
    }

    #[test]
    fn challenges_are_answered_at_their_name_alone() {
        let (_folder, tls) = tls();
        let (name, token, answer) = ("New.test".into(), "tok-1".into(), "tok-1.key".into());
        tls.challenge(vec![Challenge::Http { name, token, answer }]);
        let ask = |host: &str, path: &str| tls.answer_to_challenge(host, path);
        let path = "/.well-known/acme-challenge/tok-1";
        for host in ["new.test", "NEW.test:80", "new.test."] {
            assert_eq!(ask(host, path).as_deref(), Some("tok-1.key"), "{host}");
        }
        assert_eq!(ask("other.test", path), None);
        assert_eq!(ask("new.test", "/.well-known/acme-challenge/tok-2"), None);
        assert_eq!(ask("new.test", "/tok-1"), None);
        tls.challenge(Vec::new());
        assert_eq!(ask("new.test", path), None);
    }

    #[test]
    fn the_door_wants_https_once_clients_believe_it() {
        let (_folder, tls) = tls();
        let [far, near, mapped] =
            ["203.0.113.7", "127.0.0.1", "::ffff:127.0.0.1"].map(|a| a.parse().unwrap());
        assert!(!tls.door_needs_https(false, far), "there is only the self-signed one");
        tls.replace(vec![made(&["mini.apps.test"])]);
        assert!(tls.door_needs_https(false, far));
        assert!(!tls.door_needs_https(true, far));
        assert!(!tls.door_needs_https(false, near) && !tls.door_needs_https(false, mapped));
        tls.replace(vec![made(&["blue.apps.test"])]);
        assert!(!tls.door_needs_https(false, far), "an app's certificate is not the door's");
    }

    #[test]
    fn a_redirect_leads_to_a_certificate_or_nowhere() {
        let (_folder, tls) = tls();
        let rules = Https { redirect: true, hsts_s: Some(60) };
        let to = |over_tls, rules: &Https, port| {
            tls.redirect(rules, over_tls, "blue.apps.test", ["/", "a?b=c"], port)
        };
        assert_eq!(to(false, &rules, Some(443)), None, "no certificate yet");
        assert_eq!(tls.hsts(&rules, true, "blue.apps.test"), None);
        tls.replace(vec![made(&["*.apps.test"])]);
        assert_eq!(to(false, &rules, Some(443)).unwrap(), "https://blue.apps.test/a?b=c");
        assert_eq!(to(false, &rules, Some(8443)).unwrap(), "https://blue.apps.test:8443/a?b=c");
        assert_eq!(to(false, &rules, None), None, "https is off");
        assert_eq!(to(true, &rules, Some(443)), None);
        assert_eq!(to(false, &Https::default(), Some(443)), None);
        let line = "Strict-Transport-Security: max-age=60\r\n";
        assert_eq!(tls.hsts(&rules, true, "blue.apps.test").as_deref(), Some(line));
        assert_eq!(tls.hsts(&rules, false, "blue.apps.test"), None);
    }
}
