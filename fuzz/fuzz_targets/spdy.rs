//! SPDY frames and header blocks of a streaming client.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| criquet_stream::fuzzing::spdy(bytes));
