//! Finding a target for a request, waiting for one where that makes sense.
//!
//! A held request costs its connection and a place among the waiters; its body is not read, so the
//! client itself keeps it.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use tokio::time::{Instant, timeout_at};

use crate::error_page::Code;
use crate::shared::Shared;
use crate::table::{App, Choice, InFlight, Lasting, TargetState};

/// Requests held at once for one app.
const MAX_WAITING: usize = 1000;

/// Chooses a target of the app that `host` names. `app` is its entry of a moment ago; `not` was just
/// found dead.
pub(crate) async fn pick(
    shared: &Arc<Shared>,
    host: &str,
    app: Option<&Arc<App>>,
    not: Option<&TargetState>,
) -> Result<InFlight, Code> {
    if let (Some(app), None) = (app, not)
        && let Choice::Go(flight) = app.choose(shared, None)
    {
        return Ok(flight);
    }
    let app = loop {
        let app = find(shared, host)?;
        match app.choose(shared, not) {
            Choice::Go(flight) => return Ok(flight),
            Choice::No(code) if !shared.settle().await => return Err(code),
            Choice::No(_) => {}
            Choice::Hold => break app,
        }
    };
    let deadline = Instant::now() + shared.hold;
    let _place = Place::take(&app.lasting)?;
    app.lasting.seen.count_held();
    let mut lasting = Arc::clone(&app.lasting);
    loop {
        // Subscribed before looking, so that no change falls between the two.
        let mut changed = lasting.subscribe();
        let app = find(shared, host)?;
        match app.choose(shared, not) {
            Choice::Go(flight) => return Ok(flight),
            Choice::No(code) => return Err(code),
            Choice::Hold => {}
        }
        if !Arc::ptr_eq(&lasting, &app.lasting) {
            // The name went to another app meanwhile.
            lasting = Arc::clone(&app.lasting);
            continue;
        }
        drop(app);
        if timeout_at(deadline, changed.changed()).await.is_err() {
            return Err(Code::H20);
        }
    }
}

fn find(shared: &Shared, host: &str) -> Result<Arc<App>, Code> {
    shared.table.load().find(host).cloned().ok_or(Code::UnknownHost)
}

/// A place among those that wait for an app.
struct Place(Arc<Lasting>);

impl Place {
    fn take(lasting: &Arc<Lasting>) -> Result<Self, Code> {
        let place = Self(Arc::clone(lasting));
        if place.0.waiting.fetch_add(1, SeqCst) >= MAX_WAITING { Err(Code::H22) } else { Ok(place) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_wait_and_no_more() {
        let lasting = Arc::new(Lasting::new(&"blue".parse().unwrap()));
        let places: Vec<_> = (0..MAX_WAITING).map(|_| Place::take(&lasting).ok()).collect();
        assert!(places.iter().all(Option::is_some));
        assert_eq!(Place::take(&lasting).err(), Some(Code::H22));
        drop(places);
        assert!(Place::take(&lasting).is_ok(), "a refused one left its place");
    }
}
