//! See [`cairn_fuzz::control`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cairn_fuzz::control::run(data));
