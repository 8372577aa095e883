//! What the daemon hands to a shim.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| criquet_shim::fuzzing::plan(bytes));
