//! Seeds and mutations of them for what parses hostile bytes: the same ones in every run, so many
//! that it takes a few seconds. `MINI_FUZZ_SEED=n` begins elsewhere, `MINI_FUZZ_CASES=n` makes more.

use std::collections::BTreeMap;
use std::path::Path;

/// What is put in between: what readers differ about.
const PIECES: [&str; 34] = [
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    "\n\n",
    " ",
    "\t",
    "\0",
    "\x0b",
    "\x7f",
    "\u{e9}",
    ":",
    ",",
    ";",
    "+",
    "-",
    "0",
    "00",
    "1",
    "f",
    "0x",
    "%",
    "#",
    "/",
    "*",
    "@",
    "chunked",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Host: b\r\n",
    "Connection: content-length, host\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// The files of `fuzz/seeds/TARGET`, by name.
pub fn seeds(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    files
        .map(|file| {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a seed"))
        })
        .collect()
}

fn mutated(seeds: &[&Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + 1 + random.below(24)).min(bytes.len());
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at.min(end)..end)),
            2 => {
                let part = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, part);
            }
            3 => {
                let other = seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.bytes());
            }
        }
    }
    bytes
}

/// Every seed, then mutations; says which one it was that failed.
pub fn run(target: &str, cases: usize, check: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let first = number("MINI_FUZZ_SEED").unwrap_or(1);
    let cases = number("MINI_FUZZ_CASES").unwrap_or(cases as u64);
    let seeds = seeds(target);
    for (name, bytes) in &seeds {
        let checked = std::panic::catch_unwind(|| check(bytes));
        assert!(checked.is_ok(), "fuzz/seeds/{target}/{name}");
    }
    let seeds: Vec<&Vec<u8>> = seeds.values().collect();
    for seed in first..first + cases {
        let bytes = mutated(&seeds, &mut Random(seed));
        let checked = std::panic::catch_unwind(|| check(&bytes));
        assert!(
            checked.is_ok(),
            "MINI_FUZZ_SEED={seed} MINI_FUZZ_CASES=1: {}",
            bytes.escape_ascii()
        );
    }
}
