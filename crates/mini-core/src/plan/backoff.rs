//! How long to wait before trying again (CONTRACTS, "App contract").

/// The longest wait between two restarts of a crashing process.
const LONGEST_CRASH_MS: u64 = 300_000;

/// The wait after the `crashes`th crash in a row: none after the first, then 1 s doubling to 5 min.
pub fn crash_delay_ms(crashes: u32) -> u64 {
    match crashes {
        0 | 1 => 0,
        n => 1000_u64.checked_shl(n - 2).unwrap_or(LONGEST_CRASH_MS).min(LONGEST_CRASH_MS),
    }
}

/// The wait after the `failures`th time that the engine would not start an instance: 0.25 s
/// doubling to 30 s.
pub fn start_delay_ms(failures: u32) -> u64 {
    250_u64.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(30_000).min(30_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_wait_longer_and_longer_up_to_five_minutes() {
        let waits: Vec<u64> = (1..=12).map(crash_delay_ms).collect();
        assert_eq!(waits[..5], [0, 1000, 2000, 4000, 8000]);
        assert_eq!(waits[11], 300_000);
        assert_eq!(crash_delay_ms(u32::MAX), 300_000);
        assert_eq!(start_delay_ms(1), 250);
        assert_eq!(start_delay_ms(u32::MAX), 30_000);
    }
}
