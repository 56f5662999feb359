//! How many instances are started at once, and who goes first.
//!
//! A start is mostly programs that the engine runs; more at once than a few only makes each of them
//! slower. After an engine's restart everything wants to start: what serves goes before what does
//! not, and a rollout, which a user waits for, before both. Rollouts take no more than half of the
//! places while others wait, so that neither starves the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Why an instance is started, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Of a release that is on its way in.
    Rollout,
    /// Of one that should be serving.
    Web,
    Other,
}

#[derive(Clone)]
pub(crate) struct Gate(Arc<Mutex<State>>);

struct State {
    places: usize,
    taken: usize,
    taken_by_rollouts: usize,
    arrivals: u64,
    waiting: BTreeMap<(Urgency, u64), oneshot::Sender<Place>>,
}

/// A place that is held; dropping it lets the next one in.
pub(crate) struct Place {
    gate: Gate,
    urgency: Urgency,
}

impl Gate {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            places,
            taken: 0,
            taken_by_rollouts: 0,
            arrivals: 0,
            waiting: BTreeMap::new(),
        })))
    }

    /// Four to eight places: what was measured to be fastest on two processors and more.
    pub(crate) fn for_this_machine() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new((2 * cpus).clamp(4, 8))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self, urgency: Urgency) -> Place {
        let entered = {
            let mut state = self.state();
            let (enter, entered) = oneshot::channel();
            let arrival = state.arrivals;
            state.arrivals += 1;
            state.waiting.insert((urgency, arrival), enter);
            entered
        };
        self.let_in();
        match entered.await {
            Ok(place) => place,
            // The gate lets in everybody who waits; who is dropped before does not get here.
            Err(_) => Place { gate: Self::new(1), urgency },
        }
    }

    fn let_in(&self) {
        loop {
            let mut state = self.state();
            let Some(key) = state.next() else { return };
            let Some(enter) = state.waiting.remove(&key) else { return };
            if enter.is_closed() {
                continue;
            }
            state.taken += 1;
            state.taken_by_rollouts += usize::from(key.0 == Urgency::Rollout);
            drop(state);
            // One who has just given up gives the place back by dropping it.
            let _ = enter.send(Place { gate: self.clone(), urgency: key.0 });
        }
    }
}

impl State {
    /// Who goes next, if there is a place.
    fn next(&self) -> Option<(Urgency, u64)> {
        if self.taken >= self.places {
            return None;
        }
        let others = (Urgency::Web, 0)..;
        let other = self.waiting.range(others).next().map(|(key, _)| *key);
        let first = self.waiting.keys().next().copied();
        let enough = self.taken_by_rollouts >= self.places.div_ceil(2);
        if enough && other.is_some() { other } else { first }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state();
            state.taken = state.taken.saturating_sub(1);
            let rollout = usize::from(self.urgency == Urgency::Rollout);
            state.taken_by_rollouts = state.taken_by_rollouts.saturating_sub(rollout);
        }
        self.gate.let_in();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Place> + 'a>>;

    fn poll(waiting: &mut Waiting<'_>) -> Option<Place> {
        match pin!(waiting).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    /// Which of those who wait have got in by now.
    fn entered(waiting: &mut Vec<(&'static str, Waiting<'_>)>) -> Vec<(&'static str, Place)> {
        let mut entered = Vec::new();
        waiting.retain_mut(|(name, future)| match poll(future) {
            Some(place) => {
                entered.push((*name, place));
                false
            }
            None => true,
        });
        entered
    }

    #[test]
    fn web_goes_before_workers_and_a_rollout_before_both() {
        let gate = Gate::new(1);
        let mut waiting: Vec<(&'static str, Waiting<'_>)> = Vec::new();
        let mut all = vec![
            ("holder", Urgency::Other),
            ("worker", Urgency::Other),
            ("web", Urgency::Web),
            ("late web", Urgency::Web),
            ("rollout", Urgency::Rollout),
        ];
        for (name, urgency) in all.drain(..) {
            let mut future: Waiting<'_> = Box::pin(gate.enter(urgency));
            match poll(&mut future) {
                Some(place) if name == "holder" => waiting.push((name, Box::pin(async { place }))),
                Some(_) => panic!("{name} got in"),
                None => waiting.push((name, future)),
            }
        }
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let mut now = entered(&mut waiting);
            assert_eq!(now.len(), 1, "one at a time");
            order.extend(now.drain(..).map(|(name, _)| name));
        }
        assert_eq!(order, ["holder", "rollout", "web", "late web", "worker"]);
    }

    #[test]
    fn many_rollouts_leave_half_of_the_places_to_others() {
        let gate = Gate::new(4);
        let mut waiting: Vec<(&'static str, Waiting<'_>)> = Vec::new();
        for (name, urgency, count) in
            [("other", Urgency::Other, 3), ("rollout", Urgency::Rollout, 9)]
        {
            for _ in 0..count {
                let mut future: Waiting<'_> = Box::pin(gate.enter(urgency));
                match poll(&mut future) {
                    Some(place) => waiting.push((name, Box::pin(async { place }))),
                    None => waiting.push((name, future)),
                }
            }
        }
        // Three others and one rollout are in; when those leave, rollouts take all.
        let first: Vec<_> = entered(&mut waiting);
        assert_eq!(first.iter().filter(|(name, _)| *name == "other").count(), 3);
        assert_eq!(first.len(), 4);
        for _ in 0..3 {
            waiting.push(("other", Box::pin(gate.enter(Urgency::Other))));
            assert!(poll(&mut waiting.last_mut().unwrap().1).is_none());
        }
        drop(first);
        let second: Vec<_> = entered(&mut waiting);
        let others = second.iter().filter(|(name, _)| *name == "other").count();
        assert_eq!((others, second.len()), (2, 4));
    }

    #[test]
    fn one_who_gives_up_holds_no_place() {
        let gate = Gate::new(1);
        let mut first: Waiting<'_> = Box::pin(gate.enter(Urgency::Web));
        let place = poll(&mut first).unwrap();
        let mut gone: Waiting<'_> = Box::pin(gate.enter(Urgency::Web));
        assert!(poll(&mut gone).is_none());
        drop(gone);
        let mut next: Waiting<'_> = Box::pin(gate.enter(Urgency::Other));
        assert!(poll(&mut next).is_none());
        drop(place);
        assert!(poll(&mut next).is_some());
    }
}
