//! Certificates by themselves: every name that leads here has one, if an authority may know it.
//!
//! [`keep`] looks at what is needed and what there is ([`look`], pure), tells the proxy what to
//! serve with, and orders what is due ([`authority`]), a few names at a time and each for itself,
//! so that one that cannot be proven keeps no other waiting. What failed waits longer each time, and
//! as long as the authority says ([`schedule`], pure). Nothing is ordered while the proxy is away,
//! since the authority comes to it to see whose a name is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mini_core::control::{Certificate, Challenge, SecretPem};
use mini_core::time::Millis;
use tokio::sync::Notify;

use crate::clock::{self, timestamp};
use crate::core::{Acme, Core};
use crate::store::{self, CertRow, CertSource, StoreResult};
use crate::vault;

mod authority;
mod chain;
mod https;
mod look;
mod names;
mod schedule;
mod work;

pub(crate) use authority::purpose as account_purpose;

use authority::Authority;
pub(crate) use chain::{check_key, leaf};
pub(crate) use look::{Look, renewal};
pub(crate) use names::{about_shared, covers, shared};
use schedule::Limited;
pub(crate) use work::put;
use work::{check, order};

/// Orders under way at once.
const AT_ONCE: usize = 4;
/// The longest between two looks: what wakes nobody, such as an app's end, is seen then.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// From when on a certificate that was not renewed is told of, if its life is not short.
pub(crate) const SOON: u64 = 7 * 24 * 3600 * 1000;
/// After a look that failed, or an order that the proxy's going cut short.
const AGAIN: Duration = Duration::from_secs(5);

/// What the controller remembers of certificates while it runs.
#[derive(Default)]
pub(crate) struct Certs {
    wake: Notify,
    authority: Authority,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names that an order, or a question about renewal, is under way for.
    busy: BTreeMap<String, Work>,
    /// What the proxy answers to the authority, by name.
    answers: BTreeMap<String, Challenge>,
    /// Until when no name is ordered, and none of a shared service.
    hold: Option<Millis>,
    service_holds: BTreeMap<&'static str, Millis>,
    /// Certificates whose key cannot be opened: said once.
    unopened: BTreeSet<String>,
    /// What the last look found wrong.
    problems: Vec<String>,
    /// What the certificates that the proxy has are for: names, and patterns of them.
    served: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Order,
    /// Asks what the authority suggests for renewal.
    Check,
}

impl Certs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed: a name, a certificate, the proxy is there.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Whether an order for the name is under way.
    pub(crate) fn is_ordering(&self, name: &str) -> bool {
        self.state().busy.get(name) == Some(&Work::Order)
    }

    /// Until when the authority wants no order for such a name.
    pub(crate) fn held_until(&self, name: &str) -> Option<Millis> {
        self.state().held_until(name)
    }

    /// Certificates that end soon or have ended while their names are needed, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.state().problems.clone()
    }

    /// Whether the proxy has a certificate for the name that others believe.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.state().served.iter().any(|pattern| covers(pattern, name))
    }

    /// Sets what the proxy answers for a name; returns what [`crate::link::Link::challenged`] waits
    /// for.
    fn answer(&self, core: &Core, name: &str, answer: Option<Challenge>) -> u64 {
        let mut state = self.state();
        match answer {
            Some(answer) => {
                state.answers.insert(name.to_owned(), answer);
            }
            None if state.answers.remove(name).is_none() => return 0,
            None => {}
        }
        // Told under the lock, so that the last document has all of them.
        core.link.challenge(state.answers.values().cloned().collect())
    }
}

impl State {
    fn held_until(&self, name: &str) -> Option<Millis> {
        let service = shared(name).and_then(|s| self.service_holds.get(s).copied());
        self.hold.max(service)
    }

    fn hold(&mut self, whom: &Limited, until: Millis) {
        match whom {
            Limited::Name => {}
            Limited::Service(service) => {
                let held = self.service_holds.entry(service).or_insert(until);
                *held = until.max(*held);
            }
            Limited::All => self.hold = self.hold.max(Some(until)),
        }
    }

    /// One order at a time for names of a shared service: its refusal is for all of them.
    fn service_is_busy(&self, name: &str) -> bool {
        let service = shared(name);
        service.is_some() && self.busy.keys().any(|other| shared(other) == service)
    }
}

/// Keeps certificates true. Ends with the process.
pub(crate) async fn keep(core: Arc<Core>) {
    loop {
        let pause = match round(&core).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(%error, "certificates could not be looked after; trying again");
                AGAIN
            }
        };
        tokio::select! {
            () = core.certs.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Reads what is needed and what there is.
pub(crate) async fn look(core: &Core) -> StoreResult<Look> {
    let domains = core.config.domains.clone();
    core.store.read(move |c| Look::read(c, &domains)).await
}

/// One look, and what follows from it; returns how long nothing more is due.
async fn round(core: &Arc<Core>) -> StoreResult<Duration> {
    let now = clock::now();
    let look = look(core).await?;
    publish(core, &look, now);
    core.certs.state().problems = problems(&look, now);
    forget_what_is_over(core, &look, now).await?;
    if core.config.acme.off.is_some() || !core.link.connected() {
        return Ok(LOOK_EVERY);
    }
    let mut next = now.plus(millis(LOOK_EVERY));
    for (at, name, work) in due(&look, &core.config.acme, now) {
        let mut state = core.certs.state();
        let at = match work {
            Work::Order => at.max(state.held_until(&name).unwrap_or_default()),
            Work::Check => at,
        };
        if at > now {
            next = next.min(at);
            continue;
        }
        let waits = state.busy.contains_key(&name)
            || state.busy.len() >= AT_ONCE
            || (work == Work::Order && state.service_is_busy(&name));
        if waits {
            // Whoever is busy wakes us at its end.
            continue;
        }
        state.busy.insert(name.clone(), work);
        drop(state);
        let busy = Busy { core: core.clone(), name };
        let app = look.wanted.get(&busy.name).cloned().flatten();
        let before = look.ordered(&busy.name).cloned();
        let failed = look.trials.get(&busy.name).map_or(0, |t| t.attempts);
        tokio::spawn(async move {
            let done = match (work, before) {
                (Work::Check, Some(row)) => check(&busy.core, row).await,
                (Work::Check, None) => Ok(()),
                (Work::Order, before) => order(&busy, app, before, failed).await,
            };
            if let Err(error) = done {
                tracing::warn!(name = busy.name, %error, "a certificate's state is not stored");
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
    Ok(Duration::from_millis(next.0.saturating_sub(now.0)))
}

/// A name with something under way; at its end the next look is due.
struct Busy {
    core: Arc<Core>,
    name: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.core.certs.state().busy.remove(&self.name);
        self.core.certs.wake();
    }
}

/// What is to be done for which name and when; who has waited longest comes first, and names without
/// any certificate before all.
fn due(look: &Look, acme: &Acme, now: Millis) -> Vec<(Millis, String, Work)> {
    let mut all = Vec::new();
    for name in look.wanted.keys() {
        let Some(order_at) = look.due(name, acme, now) else { continue };
        all.push((order_at, name.clone(), Work::Order));
        // While the order is due its suggestion tells nothing new.
        let check_at = look.ordered(name).and_then(|row| row.renewal.check_at);
        if let Some(check_at) = check_at.filter(|_| order_at > now) {
            all.push((check_at, name.clone(), Work::Check));
        }
    }
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    all
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A number from 0 to 1 by chance; the middle where there is no chance to be had.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match vault::random(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// What a certificate's sealed key is for.
pub(crate) fn purpose(id: &str) -> String {
    format!("certificate-key/{id}")
}

/// Tells the proxy what to serve with.
fn publish(core: &Core, look: &Look, now: Millis) {
    let mut certificates = Vec::new();
    for (row, names) in look.served(now) {
        let key = core.vault.open_sealed(&purpose(&row.id), &row.key).ok();
        let Some(key) = key.and_then(|key| String::from_utf8(key).ok()) else {
            if core.certs.state().unopened.insert(row.id.clone()) {
                tracing::error!(
                    names = names.join(","),
                    "a certificate's key cannot be opened with this data folder's key"
                );
            }
            continue;
        };
        certificates.push(Certificate { names, chain: row.chain.clone(), key: SecretPem(key) });
    }
    let number = certificates.len();
    let served = certificates.iter().flat_map(|c| &c.names).cloned().collect();
    core.certs.state().served = served;
    if core.link.certify(certificates) {
        tracing::info!(number, "the proxy is told which certificates to serve");
    }
}

fn problems(look: &Look, now: Millis) -> Vec<String> {
    let mut problems = Vec::new();
    for (row, names) in look.served(now) {
        let concerned = names.iter().find(|p| look.wanted.keys().any(|name| covers(p, name)));
        let life = row.not_after.0.saturating_sub(row.not_before.0);
        let (left, at) = (row.not_after.0.saturating_sub(now.0), timestamp(row.not_after));
        let Some(name) = concerned.filter(|_| left <= SOON.min(life / 5)) else { continue };
        let verb = if left == 0 { "expired" } else { "expires" };
        problems.push(format!(
            "the certificate for {name} {verb} {at}: `mini certs show {name}` says why it was not \
             renewed"
        ));
    }
    problems
}

/// Removes ordered certificates that have expired and whose name is not needed any more, and what
/// is remembered of such names. One that has not expired is kept: its name may come back.
async fn forget_what_is_over(core: &Core, look: &Look, now: Millis) -> StoreResult<()> {
    let is_over = |row: &&CertRow| {
        row.source == CertSource::Acme
            && row.not_after <= now
            && !row.names.iter().any(|name| look.wanted.contains_key(name))
    };
    let rows: Vec<String> =
        look.certificates.iter().filter(is_over).map(|row| row.id.clone()).collect();
    let unneeded = look.trials.values().filter(|t| {
        // A name that goes and comes back at once does not come back without its past.
        !look.wanted.contains_key(&t.name) && t.next_at <= now
    });
    let trials: Vec<String> = unneeded.map(|t| t.name.clone()).collect();
    if rows.is_empty() && trials.is_empty() {
        return Ok(());
    }
    core.store
        .write(move |tx| {
            for id in &rows {
                store::remove_certificate(tx, id)?;
            }
            for name in &trials {
                store::remove_trial(tx, name)?;
            }
            Ok(())
        })
        .await
}
