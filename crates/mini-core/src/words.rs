//! Names for apps that were given none: `blue-sky`.

use crate::name::AppName;

const FIRST: [&str; 64] = [
    "amber", "autumn", "azure", "bold", "brave", "bright", "bronze", "calm", "clear", "clever",
    "cold", "cool", "copper", "coral", "crimson", "crisp", "deep", "early", "eager", "fair",
    "fast", "fresh", "gentle", "glad", "golden", "grand", "green", "happy", "honest", "icy",
    "ivory", "jolly", "keen", "kind", "late", "lively", "loyal", "lucky", "mellow", "merry",
    "mighty", "misty", "neat", "noble", "olive", "patient", "pearl", "plain", "proud", "quick",
    "quiet", "rapid", "royal", "silver", "snowy", "solid", "steady", "sunny", "swift", "tidy",
    "vivid", "warm", "wise", "blue",
];

const SECOND: [&str; 64] = [
    "acorn", "anchor", "aspen", "bay", "beach", "birch", "breeze", "bridge", "brook", "canyon",
    "cedar", "cliff", "cloud", "coast", "comet", "cove", "creek", "dawn", "delta", "dune",
    "falcon", "fern", "field", "finch", "forest", "garden", "glade", "grove", "harbor", "hawk",
    "heron", "hill", "island", "lake", "lark", "leaf", "maple", "meadow", "moon", "moss", "oak",
    "ocean", "orchid", "otter", "peak", "pine", "planet", "pond", "prairie", "quartz", "reef",
    "ridge", "river", "robin", "sky", "spring", "star", "stone", "stream", "summit", "tide",
    "trail", "valley", "willow",
];

/// A name from a random number: two words, and from the `attempt`th try on a number too.
pub fn app_name(random: u64, attempt: u32) -> AppName {
    let first = FIRST[(random % 64) as usize];
    let second = SECOND[((random >> 6) % 64) as usize];
    let name = if attempt < 8 {
        format!("{first}-{second}")
    } else {
        format!("{first}-{second}-{}", (random >> 12) % 10_000)
    };
    name.parse().expect("two lower-case words make an app name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_words_is_a_name() {
        for random in 0..64 * 64 {
            app_name(random, 0);
            app_name(random | 9999 << 12, 8);
        }
    }
}
