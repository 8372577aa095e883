//! A layer's tar archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| criquet_image::fuzzing::tar(bytes));
