//! The schema of a release that is not written yet, in builds for development and tests only: so that an
//! upgrade over a change of schema, and the way back, can be tried with two programs that differ in it.
//!
//! The program is told by what stands at the end of its own file, behind [`MARK`], where the loader does not
//! look (elf(5)): one migration more.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::LazyLock;

const MARK: &str = "\n-- a migration of tomorrow\n";
/// Of the end of the file, in bytes.
const LOOKED_AT: u64 = 4 << 10;

static MIGRATION: LazyLock<Option<String>> = LazyLock::new(|| {
    let mut program = File::open("/proc/self/exe").ok()?;
    let length = program.metadata().ok()?.len();
    program.seek(SeekFrom::Start(length.saturating_sub(LOOKED_AT))).ok()?;
    let mut end = Vec::new();
    program.read_to_end(&mut end).ok()?;
    behind_mark(&end)
});

pub(super) fn migration() -> Option<&'static str> {
    MIGRATION.as_deref()
}

fn behind_mark(end: &[u8]) -> Option<String> {
    let at = end.windows(MARK.len()).rposition(|window| window == MARK.as_bytes())?;
    String::from_utf8(end.get(at + MARK.len()..)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_behind_the_mark_is_a_migration() {
        let end = |more: &str| [&b"\x7fELF\xff"[..], more.as_bytes()].concat();
        assert_eq!(behind_mark(&end("")), None);
        assert_eq!(behind_mark(&end(&format!("{MARK}SELECT 1;"))), Some("SELECT 1;".into()));
        assert_eq!(migration(), None, "these tests are of today");
    }
}
