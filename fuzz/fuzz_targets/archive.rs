#![no_main]

use std::sync::LazyLock;

/// One folder for all cases: each leaves it empty.
static FOLDER: LazyLock<std::path::PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("mini-fuzz-{}", std::process::id())));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mini_controller::fuzzing::archive(&FOLDER, bytes));
