//! Named points at which a test lets a process die: `fault::point("release.made")`.
//!
//! A point is a line between two steps that a crash must be allowed to separate. What happens there
//! is not this module's business: whoever starts the process may [`arm`] the points, and a process
//! that did not is not affected. In a release build a point is nothing at all.
//!
//! The end-to-end tests know every point by its name (`crates/minid/tests/e2e/crash`), and one of
//! them fails when a point is not in their table.

#[cfg(debug_assertions)]
type Reached = Box<dyn Fn(&str) + Send + Sync>;

#[cfg(debug_assertions)]
static REACHED: std::sync::OnceLock<Reached> = std::sync::OnceLock::new();

/// Says what happens at every point from now on. Only the first call counts.
#[cfg(debug_assertions)]
pub fn arm(reached: impl Fn(&str) + Send + Sync + 'static) {
    let _ = REACHED.set(Box::new(reached));
}

/// The process passes the point.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    if let Some(reached) = REACHED.get() {
        reached(name);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
