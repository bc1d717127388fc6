#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::connection_string::holds(bytes));
