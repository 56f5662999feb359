//! For tests of whatever stands on the ports: a fake engine, and one suite of checks that the
//! fake and every real back-end must pass, so that the fake cannot promise more than they keep.
//!
//! Behind the feature `testing`. No tokio here either: what waits is woken by plain wakers, and
//! the only timer ([`pause`]) is a thread.

pub mod conformance;
mod fake;
pub mod hostile;

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, poll_fn, select};

pub use fake::{Behaviour, Built, Call, FakeRuntime};

/// Waits on a thread of its own: slow, and the same under every executor.
pub async fn pause(time: Duration) {
    let until = Instant::now() + time;
    let mut begun = false;
    poll_fn(move |context| {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return std::task::Poll::Ready(());
        }
        if !begun {
            begun = true;
            let waker = context.waker().clone();
            std::thread::spawn(move || {
                std::thread::sleep(left + Duration::from_millis(1));
                waker.wake();
            });
        }
        std::task::Poll::Pending
    })
    .await;
}

/// The outcome of `future`, which must be there within `time`.
///
/// # Panics
/// If it is not: `what` says what was waited for.
pub async fn within<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match select(pin!(future), pin!(pause(time))).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => panic!("{what}: not within {time:?}"),
    }
}

/// Asks again and again until `answer` has one.
///
/// # Panics
/// If there is none within `time`.
pub async fn until<T, F>(time: Duration, what: &str, mut answer: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let end = Instant::now() + time;
    loop {
        if let Some(answer) = answer().await {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {time:?}");
        pause(Duration::from_millis(20)).await;
    }
}
