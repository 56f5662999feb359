//! What is needed and what there is, in one look at the store, and what follows from both. Pure
//! but for the reading.

use std::collections::BTreeMap;

use mini_core::name::{AppName, HostName};
use mini_core::plan::Desired;
use mini_core::time::Millis;
use rusqlite::Connection;

use super::names::{self, Authority, covers};
use super::schedule;
use crate::core::Acme;
use crate::store::{self, CertRow, CertSource, StoreResult, TrialRow};

/// Everything that decides about certificates.
pub(crate) struct Look {
    /// Each name that leads here, and whose it is (none: the door's).
    pub(crate) wanted: BTreeMap<String, Option<AppName>>,
    /// The newest first.
    pub(crate) certificates: Vec<CertRow>,
    pub(crate) trials: BTreeMap<String, TrialRow>,
}

/// An app as far as its names go.
struct Named {
    app: AppName,
    deployed: bool,
    hosts: Vec<String>,
}

impl Look {
    pub(crate) fn read(c: &Connection, domains: &[HostName]) -> StoreResult<Self> {
        let mut apps = Vec::new();
        for app in store::all_apps(c)?.into_iter().filter(|a| a.desired != Desired::Destroy) {
            let hosts = store::domains_of(c, app.id)?.iter().map(ToString::to_string).collect();
            apps.push(Named { app: app.name, deployed: app.live_release.is_some(), hosts });
        }
        let trials = store::trials(c)?.into_iter().map(|t| (t.name.clone(), t)).collect();
        let certificates = store::certificates(c)?;
        Ok(Self { wanted: wanted(domains, apps), certificates, trials })
    }

    /// An own certificate for the name that holds now: it wins over every other.
    pub(crate) fn own(&self, name: &str, now: Millis) -> Option<&CertRow> {
        self.of(CertSource::Own, name).find(|row| now < row.not_after)
    }

    /// The ordered certificate for the name.
    pub(crate) fn ordered(&self, name: &str) -> Option<&CertRow> {
        self.of(CertSource::Acme, name).next()
    }

    fn of(&self, source: CertSource, name: &str) -> impl Iterator<Item = &CertRow> {
        let is_for = move |row: &&CertRow| {
            row.source == source && row.names.iter().any(|pattern| covers(pattern, name))
        };
        self.certificates.iter().filter(is_for)
    }

    /// Each certificate that is to be served, with the names that it is served for: an own one for
    /// all of its names but those that a newer one has; an ordered one while its name is needed and
    /// no own one holds for it. One that has expired is served where there is no other, since its
    /// owner then sees what is wrong.
    pub(crate) fn served(&self, now: Millis) -> Vec<(&CertRow, Vec<String>)> {
        let mut owner: BTreeMap<&str, (u8, &CertRow)> = BTreeMap::new();
        for row in &self.certificates {
            let rank = match (row.source, now < row.not_after) {
                (CertSource::Own, true) => 0,
                (CertSource::Acme, true) => 1,
                (CertSource::Own, false) => 2,
                (CertSource::Acme, false) => 3,
            };
            for name in &row.names {
                let beside_own = row.source == CertSource::Acme
                    && (!self.wanted.contains_key(name) || self.own(name, now).is_some());
                if beside_own {
                    continue;
                }
                let better = owner.get(name.as_str()).is_none_or(|(other, _)| rank < *other);
                if better {
                    owner.insert(name, (rank, row));
                }
            }
        }
        let mut served: Vec<(&CertRow, Vec<String>)> = Vec::new();
        for (name, (_, row)) in owner {
            match served.iter_mut().find(|(known, _)| known.id == row.id) {
                Some((_, names)) => names.push(name.to_owned()),
                None => served.push((row, vec![name.to_owned()])),
            }
        }
        served
    }

    /// Why there will be no ordered certificate for a name; `None` if there is nothing against it.
    pub(crate) fn refusal(&self, name: &str, acme: &Acme) -> Option<String> {
        names::refusal(name, Authority::of(&acme.directory))
    }

    /// When the name's certificate is to be ordered, or ordered anew; `None`: never.
    pub(crate) fn due(&self, name: &str, acme: &Acme, now: Millis) -> Option<Millis> {
        if self.own(name, now).is_some() || self.refusal(name, acme).is_some() {
            return None;
        }
        let first = match self.ordered(name) {
            Some(row) if row.directory.as_deref() == Some(&acme.directory) => renewal(row, acme),
            // Another authority's, such as one that was only tried out.
            Some(_) | None => Millis(0),
        };
        Some(self.trials.get(name).map_or(first, |trial| first.max(trial.next_at)))
    }
}

/// When an ordered certificate is renewed.
pub(crate) fn renewal(row: &CertRow, acme: &Acme) -> Millis {
    let life = (row.not_before, row.not_after);
    match acme.renew_after {
        Some(after) => row.created_at.plus(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        None => row.renewal.at.unwrap_or_else(|| schedule::renew_at(life, None, 0.0)),
    }
}

/// The names that lead here: the door's, each app's custom ones, and its own below each of the
/// platform's domains from its first release on (an app that never comes to that costs nothing of
/// the authority's limits).
fn wanted(domains: &[HostName], apps: Vec<Named>) -> BTreeMap<String, Option<AppName>> {
    let mut wanted = BTreeMap::new();
    for domain in domains {
        wanted.insert(domain.to_string(), None);
        wanted.insert(format!("mini.{domain}"), None);
    }
    for app in apps {
        let below = domains.iter().filter(|_| app.deployed).map(|d| format!("{}.{d}", app.app));
        for name in below.chain(app.hosts) {
            wanted.entry(name).or_insert_with(|| Some(app.app.clone()));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Renewal;

    const NOW: Millis = Millis(1_000_000);

    fn acme() -> Acme {
        Acme { directory: "https://ca.example/d".into(), ..Acme::default() }
    }

    fn row(id: &str, source: CertSource, names: &[&str], not_after: u64) -> CertRow {
        CertRow {
            id: id.into(),
            source,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            app: None,
            directory: (source == CertSource::Acme).then(|| acme().directory),
            chain: String::new(),
            key: Vec::new(),
            created_at: Millis(10),
            not_before: Millis(0),
            not_after: Millis(not_after),
            renewal: Renewal::default(),
        }
    }

    fn look(certificates: Vec<CertRow>) -> Look {
        let domains = ["apps.example.org".parse().unwrap()];
        let app = |name: &str, deployed, hosts: &[&str]| Named {
            app: name.parse().unwrap(),
            deployed,
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
        };
        let apps =
            vec![app("blue", true, &["www.example.com"]), app("red", false, &["red.example.com"])];
        Look { wanted: wanted(&domains, apps), certificates, trials: BTreeMap::new() }
    }

    fn served(look: &Look) -> Vec<(String, String)> {
        let served = look.served(NOW).into_iter();
        served.map(|(row, names)| (row.id.clone(), names.join(","))).collect()
    }

    #[test]
    fn the_door_the_apps_and_their_domains_need_one() {
        let names: Vec<_> = look(Vec::new()).wanted.into_keys().collect();
        assert_eq!(
            names,
            [
                "apps.example.org",
                "blue.apps.example.org",
                "mini.apps.example.org",
                "red.example.com",
                "www.example.com"
            ]
        );
    }

    #[test]
    fn own_ones_win_and_expired_ones_come_last() {
        use CertSource::{Acme, Own};
        let exact = row("a1", Acme, &["www.example.com"], 2_000_000);
        let wild = row("o1", Own, &["*.example.com", "example.com"], 2_000_000);
        let newer = row("o2", Own, &["example.com"], 2_000_000);
        let look1 = look(vec![newer, wild, exact.clone()]);
        let pair = |id: &str, names: &str| (id.to_owned(), names.to_owned());
        assert_eq!(served(&look1), [pair("o1", "*.example.com"), pair("o2", "example.com")]);
        assert_eq!(look1.due("www.example.com", &acme(), NOW), None, "nothing is ordered");
        let expired = row("o3", Own, &["www.example.com"], 500_000);
        let look2 = look(vec![expired.clone(), exact]);
        assert_eq!(served(&look2), [pair("a1", "www.example.com")]);
        let look3 = look(vec![expired]);
        assert_eq!(served(&look3), [pair("o3", "www.example.com")]);
        assert_eq!(look3.due("www.example.com", &acme(), NOW), Some(Millis(0)));
        let left = look(vec![row("a2", Acme, &["gone.example.com"], 2_000_000)]);
        assert_eq!(served(&left), [], "its name is not needed any more");
    }

    #[test]
    fn an_order_is_due_when_it_may_be_tried_or_renewed() {
        let name = "www.example.com";
        let mut look = look(vec![row("a1", CertSource::Acme, &[name], 3_000_000)]);
        assert_eq!(look.due(name, &acme(), NOW), Some(Millis(2_000_000)));
        look.certificates[0].renewal.at = Some(Millis(1_500_000));
        assert_eq!(look.due(name, &acme(), NOW), Some(Millis(1_500_000)));
        let trial = TrialRow {
            name: name.into(),
            attempts: 1,
            error: "x".into(),
            limited: false,
            tried_at: NOW,
            next_at: Millis(1_700_000),
        };
        look.trials.insert(name.into(), trial);
        assert_eq!(look.due(name, &acme(), NOW), Some(Millis(1_700_000)));
        look.trials.clear();
        let soon = Acme { renew_after: Some(Duration::from_secs(5)), ..acme() };
        assert_eq!(look.due(name, &soon, NOW), Some(Millis(5_010)));
        let elsewhere = Acme { directory: "https://other.example/d".into(), ..acme() };
        assert_eq!(look.due(name, &elsewhere, NOW), Some(Millis(0)));
    }
}
