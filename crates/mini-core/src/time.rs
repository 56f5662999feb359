//! Time as the domain sees it: milliseconds since the Unix epoch, handed in by the caller.

use serde::{Deserialize, Serialize};

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// How many milliseconds have passed since `earlier`; 0 when the clock went backwards.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add(ms))
    }
}

/// `90s`, `10m`, `3h`, `30d`, `2w`, `1y` (365 days): a whole number and one unit, in seconds.
pub fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a duration such as 90s, 10m, 3h, 30d, 2w or 1y");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match &text[split..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return Err(bad()),
    };
    // A century is more than anybody means, and far from any overflow.
    number.checked_mul(unit).filter(|s| *s <= 100 * 365 * 86_400).ok_or_else(bad)
}
