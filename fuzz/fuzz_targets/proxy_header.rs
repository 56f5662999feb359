#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mini_proxy::fuzzing::proxy_header(bytes));
