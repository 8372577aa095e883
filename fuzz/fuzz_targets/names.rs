//! Image names, manifests, image configurations and hosts.toml.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| criquet_image::fuzzing::names(bytes));
