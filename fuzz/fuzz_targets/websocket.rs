//! WebSocket frames, channels and terminal sizes of a streaming client.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| criquet_stream::fuzzing::websocket(bytes));
